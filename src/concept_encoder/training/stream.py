"""The order of training examples: epochs in sequence, each shuffled anew, as one long indexable stream.

Everything random about an example follows from its place in the stream, so that resuming, the number of loader
workers and the number of processes change nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from concept_encoder.objectives.masking import PLACE

Order = Callable[[np.random.Generator, int], np.ndarray]  # (randomness, place of the epoch's first example) -> rows


@dataclass(frozen=True)
class Shuffled:
    """Any row anywhere."""

    num_rows: int

    def __call__(self, rng: np.random.Generator, start: int) -> np.ndarray:
        return rng.permutation(self.num_rows)


@dataclass(frozen=True)
class LengthGrouped:
    """Texts of like length share a batch, so that little is padding; which batch comes when is random.

    The shuffled rows are cut into windows of many steps (four windows at least, so that texts meet others in the next
    epoch), each window is sorted by length and cut into batches, one a step, and batches of one size are shuffled.
    Inside a batch texts stay sorted: however many devices and micro-batches share it, each sees texts of like length,
    and the order does not depend on their number. The batch that two epochs share is left to chance.

    Source: `LengthGroupedSampler` of Hugging Face transformers, whose batches stay in the order of length, though.

    Attributes:
        lengths: of all rows `[R]`.
        first_row: where in the stream each step begins, ascending.
        window: steps of a window.
    """

    lengths: np.ndarray
    first_row: np.ndarray
    window: int = 50

    def __call__(self, rng: np.random.Generator, start: int) -> np.ndarray:
        rows = rng.permutation(len(self.lengths))
        cuts = self.first_row[(self.first_row >= start) & (self.first_row <= start + len(rows))] - start
        steps = max(min(self.window, (len(cuts) - 1) // 4), 1)
        windows = np.split(rows, np.union1d(cuts[::steps], cuts[-1:]).astype(np.int64))
        batches = np.split(np.concatenate([self._sorted(window) for window in windows]), cuts)
        whole = batches[1:-1]  # the first and the last are shared with other epochs
        sizes = np.array([len(batch) for batch in whole])
        for size in np.unique(sizes):
            places = np.flatnonzero(sizes == size)
            for place, other in zip(places, rng.permutation(places)):
                batches[1 + place] = whole[other]
        return np.concatenate(batches)

    def _sorted(self, rows: np.ndarray) -> np.ndarray:
        return rows[np.argsort(self.lengths[rows], kind="stable")]


class ExampleStream(Dataset):
    """`num_examples` examples drawn from `rows`, epoch after epoch.

    Args:
        rows: anything indexable that gives a mapping a row.
        num_examples: length of the stream; may be less or more than one epoch.
        seed: orders the epochs; None keeps the order of the rows.
        order: how an epoch is ordered.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], num_examples: int, seed: int | None, order: Order | None = None):
        assert len(rows) > 0, "an empty corpus is refused before it comes here"
        self.rows, self.num_examples, self.seed = rows, num_examples, seed
        self.order = order or Shuffled(len(rows))
        self._epoch, self._rows = -1, np.arange(0)

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {**self.rows[self._row(place)], PLACE: place}

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        """A batch in one look-up: memory-mapped rows are read much faster together."""
        batch = self.rows[[self._row(place) for place in places]]
        return [{**{name: batch[name][i] for name in batch}, PLACE: place} for i, place in enumerate(places)]

    def _row(self, place: int) -> int:
        if not 0 <= place < self.num_examples:
            raise IndexError(place)
        epoch, index = divmod(place, len(self.rows))
        if self.seed is None:
            return index
        if epoch != self._epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self._epoch, self._rows = epoch, self.order(rng, epoch * len(self.rows))
        return int(self._rows[index])
