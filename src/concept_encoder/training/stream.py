"""The order of training examples: epochs in sequence, each shuffled anew, as one long indexable stream.

Everything random about an example follows from its place in the stream, so that resuming, the number of loader
workers and the number of
processes change nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from concept_encoder.objectives.masking import PLACE


class ExampleStream(Dataset):
    """`num_examples` examples drawn from `rows`, epoch after epoch.

    Args:
        rows: anything indexable that gives a mapping a row.
        num_examples: length of the stream; may be less or more than one epoch.
        seed: orders the epochs; None keeps the order of the rows.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], num_examples: int, seed: int | None):
        assert len(rows) > 0, "an empty corpus is refused before it comes here"
        self.rows, self.num_examples, self.seed = rows, num_examples, seed
        self._epoch, self._order = -1, np.arange(0)

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
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self.rows))
        return int(self._order[index])
