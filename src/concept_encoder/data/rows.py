"""Rows of tokens of one length, packed out of documents and written to an Arrow file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

PIECE_CHARACTERS = 100_000  # longer documents are tokenised in pieces: bounds memory and uses all cores


class RowWriter:
    """Packs token ids into rows `[CLS] ids [SEP] ids …` and appends them to an Arrow file."""

    ROWS_AT_ONCE = 1000

    def __init__(self, path: Path, length: int, cls_id: int, sep_id: int):
        self.length, self.cls_id, self.sep = length, cls_id, np.array([sep_id], dtype=np.int32)
        self.rows = self.documents = self.tokens = 0
        self._parts: list[np.ndarray] = []  # not yet written
        self._waiting = 0  # tokens in them
        self._schema = pa.schema([("input_ids", pa.list_(pa.int32(), length))])
        self._writer = pa.ipc.new_stream(str(path), self._schema)

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        self._writer.close()

    def add(self, ids: np.ndarray) -> None:
        """Append one document; one without tokens leaves no trace."""
        if len(ids) == 0:
            return
        self.documents += 1
        self.tokens += len(ids)
        self._parts += [ids, self.sep]
        self._waiting += len(ids) + 1
        if self._waiting >= self.ROWS_AT_ONCE * self.length:
            self._write()

    def _write(self) -> None:
        body = self.length - 1
        stream = np.concatenate([np.zeros(0, dtype=np.int32), *self._parts])
        count = len(stream) // body
        rows = np.full((count, self.length), self.cls_id, dtype=np.int32)
        rows[:, 1:] = stream[: count * body].reshape(count, body)
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), self.length)
        if count:
            self._writer.write_batch(pa.record_batch([column], schema=self._schema))
        self.rows += count
        self._parts, self._waiting = [stream[count * body :]], len(stream) - count * body


def plain_tokenizer(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy that only splits text: nothing cut or padded, and "[MASK]" written in a text is plain text."""
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True
    return plain


def encode_documents(plain: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """The token ids of each document, without specials."""
    pieces = [list(_pieces(text)) for text in texts]
    encodings = plain.encode_batch_fast([piece for parts in pieces for piece in parts], add_special_tokens=False)
    ids = iter([np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings])
    return [np.concatenate([next(ids) for _ in parts]) for parts in pieces]


def _pieces(text: str) -> Iterator[str]:
    """Cut a very long text before a space, where every kind of tokenizer starts a new word."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        space = text.rfind(" ", start + 1, start + PIECE_CHARACTERS)
        end = space if space > 0 else start + PIECE_CHARACTERS
        yield text[start:end]
        start = end
    yield text[start:]
