"""Packing a stream of documents into shards, each finished before the next begins.

After every shard all that packing needs to go on is written in one move to `progress.npz`. A call that finds it reads
the documents again up to there, tokenises none of them, and goes on; the rows are those of an uninterrupted run.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from concept_encoder.data.cache import PROGRESS
from concept_encoder.data.corpus import DataConfig, open_documents
from concept_encoder.data.encoding import Encoded, Encoder
from concept_encoder.data.mixture import due_stream, interleave
from concept_encoder.data.rows import PACKINGS, RowWriter
from concept_encoder.errors import UserError

SHARD_CHARACTERS = 64_000_000  # of a finished shard; some 60 MB of rows
VALIDATION_TEXTS = 512
VALIDATION_TEXT_CHARACTERS = 32_000
_SIDES = ("train", "validation")
_LENGTHS = 32  # buckets of the histogram: 1, 2-3, 4-7, … tokens


@dataclass(frozen=True)
class CorpusStatistics:
    """Counts of a prepared corpus. Tokens are those of documents, without [CLS] and [SEP].

    `length_histogram[i]` documents (both sides) have 2**i to 2**(i+1) - 1 tokens. `members` holds for each corpus of
    a mixture the `documents` and `tokens` that were drawn from it, both sides; `ended_by` is the one that had no more.
    """

    documents: int
    validation_documents: int
    tokens: int
    validation_tokens: int
    unk_share: float  # of the training tokens
    length_histogram: list[int] = dataclasses.field(default_factory=list)
    members: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    ended_by: str | None = None  # None without a mixture


def pack(
    config: DataConfig,
    documents: list[str] | None,
    encode: Encoder,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Write the shards train-*.arrow and validation-*.arrow, unigram_counts.npy, validation_texts.json and
    statistics.json to `folder`, going on after the shards that are there.

    `done` is told how many documents have been packed.
    """
    packer = _Packer(config, tokenizer, folder)
    done(packer.restore())
    packer.begin_shard()
    for stream, document in _draw(config, documents, encode, packer.read, packer.drawn):
        packer.add(stream, document)
        done(1)
        if packer.characters >= SHARD_CHARACTERS:
            packer.end_shard()
            packer.save()
            packer.begin_shard()
    packer.end_shard()
    opened = open_documents(config, documents)
    due = due_stream(packer.drawn, opened.weights)
    ended_by = opened.names[due] if len(opened.names) > 1 else None
    _check_rows(config, packer.writers["train"], packer.writers["validation"], ended_by)
    packer.finish(opened.names, ended_by)


def _draw(
    config: DataConfig, documents: list[str] | None, encode: Encoder, read: list[int], drawn: list[float]
) -> Iterator[tuple[int, Encoded]]:
    """(number of the stream, document): first those held out by name (stream -1), then the mixture.

    `read` and `drawn` say, by stream, where an earlier drawing had come to.
    """
    opened = open_documents(config, documents)
    if opened.held_out is not None:
        for document in encode(islice(opened.held_out, read[-1], None)):
            yield -1, document
    by_tokens = config.mixture_by == "tokens"
    streams = [encode(islice(member, count, None)) for member, count in zip(opened.members, read)]
    yield from interleave(streams, opened.weights, lambda it: len(it.ids) if by_tokens else 1, drawn)


class _Packer:
    """What packing knows at any moment, all of it in `save` and `restore`.

    Lists by stream have an entry for each corpus and a last one for `validation_corpus`.
    """

    def __init__(self, config: DataConfig, tokenizer: PreTrainedTokenizerFast, folder: Path):
        self.folder, self.unk_id = folder, tokenizer.unk_token_id
        ends = (tokenizer.cls_token_id, tokenizer.sep_token_id)
        self.writers: dict[str, RowWriter] = {
            side: PACKINGS[config.packing](config.sequence_length, *ends) for side in _SIDES
        }
        streams = len(config.weights) + 1
        self.by_tokens = config.mixture_by == "tokens"
        self.read, self.tokens = [0] * streams, [0] * streams  # documents read, tokens drawn, by stream
        self.drawn = [0.0] * (streams - 1)  # kept by `interleave`
        self.unigram_counts = np.zeros(len(tokenizer), dtype=np.int64)
        self.lengths = np.zeros(_LENGTHS, dtype=np.int64)
        self.texts: list[str] = []
        self.shards = self.characters = 0
        self._batch: list[np.ndarray] = []

    def begin_shard(self) -> None:
        self.characters = 0
        for side, writer in self.writers.items():
            writer.begin(self.folder / f"{side}-{self.shards:05d}.arrow")

    def add(self, stream: int, document: Encoded) -> None:
        held_out, text, ids = document
        self.writers["validation" if held_out else "train"].add(ids)
        self.characters += len(text)
        self.read[stream] += 1
        self.tokens[stream] += len(ids)
        if len(ids):
            self.lengths[int(math.log2(len(ids)))] += 1
        if held_out and len(self.texts) < VALIDATION_TEXTS:
            self.texts.append(text[:VALIDATION_TEXT_CHARACTERS])
        if not held_out:
            self._batch.append(ids)
            if len(self._batch) >= 1000:
                self._count()

    def end_shard(self) -> None:
        self._count()
        for writer in self.writers.values():
            writer.end()
        self.shards += 1

    def _count(self) -> None:
        if self._batch:
            self.unigram_counts += np.bincount(np.concatenate(self._batch), minlength=len(self.unigram_counts))
        self._batch = []

    def save(self) -> None:
        plain: dict[str, Any] = {
            name: getattr(self, name) for name in ("read", "tokens", "drawn", "texts", "shards")
        } | {side: [writer.rows, writer.documents, writer.tokens] for side, writer in self.writers.items()}
        temporary = self.folder / "unfinished.npz"
        tails = {f"{side}_tail": writer.tail for side, writer in self.writers.items()}
        as_bytes = np.frombuffer(json.dumps(plain).encode(), dtype=np.uint8)
        np.savez(temporary, plain=as_bytes, unigram_counts=self.unigram_counts, lengths=self.lengths, **tails)
        os.replace(temporary, self.folder / PROGRESS)

    def restore(self) -> int:
        """Take up what `save` has left, if anything; returns the number of documents that are packed."""
        if not (self.folder / PROGRESS).exists():
            return 0
        with np.load(self.folder / PROGRESS) as saved:
            plain = json.loads(saved["plain"].tobytes())
            self.unigram_counts, self.lengths = saved["unigram_counts"], saved["lengths"]
            for side, writer in self.writers.items():
                writer.rows, writer.documents, writer.tokens = plain.pop(side)
                writer.tail = saved[f"{side}_tail"]
        for name, value in plain.items():
            setattr(self, name, value)
        return sum(self.read)

    def finish(self, names: list[str], ended_by: str | None) -> None:
        train, validation = (self.writers[side] for side in _SIDES)
        unknown = 0 if self.unk_id is None else self.unigram_counts[self.unk_id]
        statistics = CorpusStatistics(
            train.documents,
            validation.documents,
            train.tokens,
            validation.tokens,
            unk_share=float(unknown / train.tokens),
            length_histogram=np.trim_zeros(self.lengths, "b").tolist(),
            members={
                name: {"documents": count, "tokens": tokens}
                for name, count, tokens in zip(names, self.read, self.tokens)
            },
            ended_by=ended_by,
        )
        np.save(self.folder / "unigram_counts.npy", self.unigram_counts)
        (self.folder / "validation_texts.json").write_text(json.dumps(self.texts))
        (self.folder / "statistics.json").write_text(json.dumps(dataclasses.asdict(statistics)))


def _check_rows(config: DataConfig, train: RowWriter, validation: RowWriter, ended_by: str | None) -> None:
    length = config.sequence_length
    why = f", because {ended_by} had no more for the mixture" if ended_by else ""
    if train.rows == 0:
        found = f"{train.documents} training documents ({train.tokens} tokens{why}) are less than a row"
        raise UserError(f"data.sequence_length: {found} of {length}; give more text or shorter rows")
    if validation.rows == 0:
        found = f"{validation.documents} held-out documents ({validation.tokens} tokens{why}) are less than a row"
        remedy = "raise it, lower data.sequence_length, or give data.validation_corpus"
        raise UserError(f"data.validation_fraction: {found} of {length}; {remedy}")
