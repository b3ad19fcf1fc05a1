"""What each optimiser step reads: batch-size and sequence-length warm-up, and the micro-batches of every process.

Both warm-ups start at an eighth and double three times. A step is a run of places in the stream of examples, whatever
the number of processes, workers or micro-batches.

Sources: batch-size warm-up, Smith et al. 2018 (arXiv:1711.00489); sequence-length warm-up, Li et al. 2022
(arXiv:2108.06084), here by cutting rows into pieces instead of truncating them, so that no token is lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from concept_encoder.objectives.masking import PLACE
from concept_encoder.training.stream import ExampleStream

DOUBLINGS = 3
FIRST = 2**DOUBLINGS  # a warm-up starts at a FIRST-th


@dataclass(frozen=True)
class StepSizes:
    """How many rows each step reads, and into how many pieces each row is cut.

    Attributes:
        steps: optimiser steps S of the whole run.
        batch_size: rows of a step after the warm-up.
        batch_warmup: share of the steps in which the batch grows.
        length_warmup: share of the steps in which the pieces grow to whole rows.
    """

    steps: int
    batch_size: int
    batch_warmup: float = 0.0
    length_warmup: float = 0.0

    def rows(self, step: int) -> int:
        """Rows that a step reads, as whole ones."""
        return int(self.rows_S[step])

    def pieces(self, step: int) -> int:
        """Into how many examples of equal length each row is cut."""
        return int(self.pieces_S[step])

    @cached_property
    def rows_S(self) -> np.ndarray:
        return self.batch_size // 2 ** self._halvings(self.batch_warmup)

    @cached_property
    def pieces_S(self) -> np.ndarray:
        return 2 ** self._halvings(self.length_warmup)

    @cached_property
    def first_row(self) -> np.ndarray:
        """The first row of each step and, last, the number of rows in all `[S + 1]`."""
        return np.concatenate([[0], np.cumsum(self.rows_S)])

    @cached_property
    def first_place(self) -> np.ndarray:
        """The first example of each step and, last, the number of examples in all `[S + 1]`."""
        return np.concatenate([[0], np.cumsum(self.rows_S * self.pieces_S)])

    def _halvings(self, warmup: float) -> np.ndarray:
        if not warmup:
            return np.zeros(self.steps, dtype=np.int64)
        stage = np.arange(self.steps) * DOUBLINGS // max(round(warmup * self.steps), 1)
        return DOUBLINGS - np.minimum(stage, DOUBLINGS)


def steps_for(rows: float, batch_size: int, batch_warmup: float) -> int:
    """The steps that read about so many rows."""
    mean = 1 - batch_warmup * (1 - (1 - 1 / FIRST) / DOUBLINGS)  # (1/8 + 1/4 + 1/2) / 3 while the batch grows
    return max(round(rows / (batch_size * mean)), 1)


class CutStream(Dataset):
    """The rows of a stream cut into pieces, as `sizes` says; every piece starts with [CLS].

    Args:
        stream: of rows of one length.
        cls_id: takes the place of the first token of each piece but a row's first.
    """

    def __init__(self, stream: ExampleStream, sizes: StepSizes, cls_id: int):
        self.stream, self.sizes, self.cls_id = stream, sizes, cls_id

    def __len__(self) -> int:
        return int(self.sizes.first_place[-1])

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        steps = np.searchsorted(self.sizes.first_place, places, side="right") - 1
        offsets = np.asarray(places) - self.sizes.first_place[steps]
        pieces = self.sizes.pieces_S[steps]
        rows = self.stream.__getitems__((self.sizes.first_row[steps] + offsets // pieces).tolist())
        return [
            {"input_ids": self._cut(row["input_ids"], at, count), PLACE: place}
            for row, at, count, place in zip(rows, (offsets % pieces).tolist(), pieces.tolist(), places)
        ]

    def _cut(self, ids: Any, at: int, count: int) -> np.ndarray:
        piece = np.split(np.asarray(ids), count)[at].copy()
        piece[0] = self.cls_id if at else piece[0]
        return piece


class MicroBatches(Sampler[list[int]]):
    """The places of every micro-batch of one process, step after step.

    The examples of a step are cut into `accumulation * world_size` equal runs; a process takes every `world_size`-th.
    """

    def __init__(self, sizes: StepSizes, accumulation: int, world_size: int = 1, rank: int = 0):
        self.sizes, self.accumulation, self.world_size, self.rank = sizes, accumulation, world_size, rank

    def __len__(self) -> int:
        return self.sizes.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        starts, parts = self.sizes.first_place, self.accumulation * self.world_size
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist()):
            size = (end - start) // parts
            for part in range(self.rank, parts, self.world_size):
                yield list(range(start + part * size, start + (part + 1) * size))
