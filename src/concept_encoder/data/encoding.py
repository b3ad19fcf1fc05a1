"""From documents to token ids, in this process or in several, always in the order of the documents.

Worker processes import this file alone, so it imports neither torch nor transformers.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from concept_encoder.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PIECE_CHARACTERS = 100_000  # longer documents are tokenised in pieces: bounds memory and uses all cores
BATCH_CHARACTERS = 1_000_000  # tokenised at once: with the number of processes it bounds memory

Pairs = Iterable[tuple[bool, str]]  # (held out?, document)


class Encoded(NamedTuple):
    """A document and its token ids `[N]`, without specials."""

    held_out: bool
    text: str
    ids: np.ndarray


Encoder = Callable[[Pairs], Iterator[Encoded]]


def plain_tokenizer(tokenizer: "PreTrainedTokenizerFast") -> Tokenizer:
    """A copy that only splits text: nothing cut or padded, and "[MASK]" written in a text is plain text."""
    return _plain(tokenizer.backend_tokenizer.to_str())


def encode_documents(plain: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """The token ids of each document, without specials."""
    pieces = [list(_pieces(text)) for text in texts]
    encodings = plain.encode_batch_fast([piece for parts in pieces for piece in parts], add_special_tokens=False)
    ids = iter([np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings])
    return [np.concatenate([next(ids) for _ in parts]) for parts in pieces]


@contextmanager
def encoder(plain: Tokenizer, processes: int = 1) -> Iterator[Encoder]:
    """A function that tokenises a stream of documents, with at most a few batches in memory.

    With one process the tokenizer's own threads share the work of a batch. More processes take one batch each,
    which scales further; what comes out is the same.
    """
    if processes == 1:
        yield lambda pairs: _in_order(pairs, lambda texts: _done(encode_documents(plain, texts)), ahead=1)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(processes, context, _start_worker, (plain.to_str(),)) as pool:
        try:
            yield lambda pairs: _in_order(pairs, lambda texts: pool.submit(_encode_in_worker, texts), 2 * processes)
        except BrokenProcessPool:
            remedy = "give the same command with fewer --processes, it goes on"
            raise UserError(f"a process that tokenises was killed, for want of memory perhaps; {remedy}") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _in_order(pairs: Pairs, submit: Callable[[list[str]], Future], ahead: int) -> Iterator[Encoded]:
    waiting: deque[tuple[list[tuple[bool, str]], Future]] = deque()
    for batch in _batches(pairs):
        waiting.append((batch, submit([text for _, text in batch])))
        if len(waiting) >= ahead:
            yield from _finished(*waiting.popleft())
    while waiting:
        yield from _finished(*waiting.popleft())


def _finished(batch: list[tuple[bool, str]], encoded: Future) -> Iterator[Encoded]:
    for (held_out, text), ids in zip(batch, encoded.result()):
        yield Encoded(held_out, text, ids)


def _done(result: list[np.ndarray]) -> Future:
    future: Future = Future()
    future.set_result(result)
    return future


def _batches(pairs: Pairs) -> Iterator[list[tuple[bool, str]]]:
    batch, characters = [], 0
    for pair in pairs:
        batch.append(pair)
        characters += len(pair[1])
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _pieces(text: str) -> Iterator[str]:
    """Cut a very long text before a space, where every kind of tokenizer starts a new word."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        space = text.rfind(" ", start + 1, start + PIECE_CHARACTERS)
        end = space if space > 0 else start + PIECE_CHARACTERS
        yield text[start:end]
        start = end
    yield text[start:]


def _plain(serialized: str) -> Tokenizer:
    plain = Tokenizer.from_str(serialized)
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True  # not part of the serialised form
    return plain


_worker_tokenizer: Tokenizer | None = None  # in a worker process, set once by its initializer


def _start_worker(serialized: str) -> None:
    global _worker_tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is answered by the parent
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _worker_tokenizer = _plain(serialized)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in worker processes only"
    parent.join()
    os._exit(1)


def _encode_in_worker(texts: list[str]) -> list[np.ndarray]:
    assert _worker_tokenizer is not None, "the initializer has run"
    return encode_documents(_worker_tokenizer, texts)
