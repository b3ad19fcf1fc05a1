"""Rows of tokens, packed out of documents and written to Arrow files (`data.packing`)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa


class RowWriter:
    """Packs token ids into rows and appends them to an Arrow file, in the order of the documents.

    Subclasses say what a row is. `begin` opens the next file and `end` closes it; what does not fill a row yet is
    kept for the next file (`tail`), so that where files end changes no row.

    Attributes:
        rows, documents, tokens: counts over all files; tokens without [CLS] and [SEP].
    """

    def __init__(self, length: int, cls_id: int, sep_id: int):
        self.length, self.cls_id, self.sep = length, cls_id, np.array([sep_id], dtype=np.int32)
        self.rows = self.documents = self.tokens = 0
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None

    @property
    def tail(self) -> np.ndarray:
        """Ids that wait for a row, `[T]`."""
        return np.zeros(0, dtype=np.int32)

    @tail.setter
    def tail(self, ids: np.ndarray) -> None:
        assert len(ids) == 0, "this packing keeps nothing back"

    def begin(self, path: Path) -> None:
        """Write to `path` from now on."""
        self._writer = pa.ipc.new_stream(str(path), pa.schema([("input_ids", self._type())]))

    def end(self) -> None:
        """Write every row that is complete and close the file."""
        self._flush()
        self._writer.close()
        self._writer = None

    def add(self, ids: np.ndarray) -> None:
        """Append one document; one without tokens leaves no trace."""
        if len(ids) == 0:
            return
        self.documents += 1
        self.tokens += len(ids)
        self._take(ids)

    def _type(self) -> pa.DataType:
        raise NotImplementedError

    def _take(self, ids: np.ndarray) -> None:
        raise NotImplementedError

    def _flush(self) -> None:
        raise NotImplementedError

    def _write(self, column: pa.Array) -> None:
        if len(column):
            self._writer.write_batch(pa.record_batch([column], names=["input_ids"]))
        self.rows += len(column)


class FullRows(RowWriter):
    """`[CLS] document [SEP] document [SEP] …` cut into rows of exactly `length`: RoBERTa's FULL-SENTENCES.

    No padding; a [CLS] is before every row. Only the last, incomplete row of the corpus is dropped.
    """

    ROWS_AT_ONCE = 1000

    def __init__(self, length: int, cls_id: int, sep_id: int):
        super().__init__(length, cls_id, sep_id)
        self._parts: list[np.ndarray] = []  # not yet written
        self._waiting = 0  # tokens in them

    @property
    def tail(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype=np.int32), *self._parts])

    @tail.setter
    def tail(self, ids: np.ndarray) -> None:
        self._parts, self._waiting = [ids], len(ids)

    def _type(self) -> pa.DataType:
        return pa.list_(pa.int32(), self.length)

    def _take(self, ids: np.ndarray) -> None:
        self._parts += [ids, self.sep]
        self._waiting += len(ids) + 1
        if self._waiting >= self.ROWS_AT_ONCE * self.length:
            self._flush()

    def _flush(self) -> None:
        body, stream = self.length - 1, self.tail
        count = len(stream) // body
        rows = np.full((count, self.length), self.cls_id, dtype=np.int32)
        rows[:, 1:] = stream[: count * body].reshape(count, body)
        self._write(pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), self.length))
        self.tail = stream[count * body :].copy()


class DocumentRows(RowWriter):
    """`[CLS] text [SEP]`, each row of one document only, so that no attention crosses documents.

    A document longer than a row is cut into rows of `length`, its last one shorter. Rows differ in length: the
    collator pads a batch to its longest.
    """

    ROWS_AT_ONCE = 1000

    def __init__(self, length: int, cls_id: int, sep_id: int):
        super().__init__(length, cls_id, sep_id)
        self._rows: list[np.ndarray] = []

    def _type(self) -> pa.DataType:
        return pa.list_(pa.int32())

    def _take(self, ids: np.ndarray) -> None:
        self._rows += self._cut(ids)
        if len(self._rows) >= self.ROWS_AT_ONCE:
            self._flush()

    def _cut(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        body, cls = self.length - 2, np.array([self.cls_id], dtype=np.int32)
        for start in range(0, len(ids), body):
            yield np.concatenate([cls, ids[start : start + body], self.sep])

    def _flush(self) -> None:
        offsets = np.cumsum([0, *map(len, self._rows)], dtype=np.int32)
        values = np.concatenate([np.zeros(0, dtype=np.int32), *self._rows])
        self._write(pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)))
        self._rows = []


PACKINGS: dict[str, type[RowWriter]] = {"full": FullRows, "documents": DocumentRows}
