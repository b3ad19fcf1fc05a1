"""Collocations: word n-grams that occur more often than chance explains (`concept-encoder data pmi`).

Source: PMI-Masking, Levine et al., ICLR 2021 (arXiv:2010.01825), and its repository AI21Labs/pmi-masking for the
shares of the lengths. Words are numbers here; 0 stands between texts. Shape suffixes: W words, G n-grams.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

LONGEST = 5
SHARES = {2: 0.5, 3: 0.25, 4: 0.125, 5: 0.125}  # of the n-grams that are chosen, by length
COVERAGE = 0.5  # the paper's 800,000 n-grams hold about half of its corpora
AT_ONCE = 4_000_000  # n-grams that wait before they are merged
LIMIT = 50_000_000  # n-grams of one length that are kept in memory


@dataclass(frozen=True)
class Ngrams:
    """N-grams of one length, the best first.

    Attributes:
        words_GN: their words.
        counts_G: how often each was seen.
        scores_G: the log of how much more often than its worst segmentation predicts, in nats.
    """

    words_GN: np.ndarray
    counts_G: np.ndarray
    scores_G: np.ndarray

    def first(self, count: int) -> "Ngrams":
        """The best `count`."""
        return Ngrams(self.words_GN[:count], self.counts_G[:count], self.scores_G[:count])


class NgramCounter:
    """Counts the runs of 1 to 5 words of a corpus in one pass.

    Needs 4 bytes a word and 24 bytes for every n-gram that was seen. Beyond 50 million of one length the rarest are
    forgotten, and count from 0 if they come again.
    """

    def __init__(self, limit: int = LIMIT):
        self.limit, self.num_words = limit, 0
        self.blocks: list[np.ndarray] = []
        self.tables = {n: _Table.empty() for n in range(2, LONGEST + 1)}
        self.waiting: dict[int, list[_Table]] = {n: [] for n in self.tables}
        self.totals = dict.fromkeys(self.tables, 0)

    def add(self, words: np.ndarray) -> None:
        """The next words; runs that go on into the next call are not counted."""
        words = words.astype(np.uint32)
        for n, (keys, valid) in _runs(words).items():
            at = np.flatnonzero(valid)
            self.totals[n] += len(at)
            found, first, counts = np.unique(keys[at], return_index=True, return_counts=True)
            self.waiting[n].append(_Table(found, counts, at[first] + self.num_words))
            if sum(len(table.keys) for table in self.waiting[n]) > max(AT_ONCE, len(self.tables[n].keys)):
                self._merge(n)
        self.blocks.append(words)
        self.num_words += len(words)

    def collocations(self, min_count: int) -> dict[int, Ngrams]:
        """The n-grams seen `min_count` times or more with a score above 0, the best first, by length."""
        words = np.concatenate([np.zeros(0, dtype=np.uint32), *self.blocks])
        counts = np.bincount(words[words > 0], minlength=1)
        best = {1: np.log(np.maximum(counts, 1) / max(counts.sum(), 1))}  # of a run: in one piece or in several
        kept, found = {}, {}
        for n in self.tables:
            self._merge(n)
            kept[n] = table = self.tables[n].at_least(min_count)
            runs = words[table.where[:, None] + np.arange(n)]
            log_p = np.log(table.counts / max(self.totals[n], 1))
            split = np.full(len(runs), -np.inf)
            for k in range(1, n):
                pieces = [_look_up(best[part.shape[1]], kept, part) for part in (runs[:, :k], runs[:, k:])]
                split = np.maximum(split, sum(pieces))
            best[n] = np.maximum(log_p, split)
            score = log_p - split
            order = np.argsort(-score, kind="stable")
            order = order[score[order] > 0]
            found[n] = Ngrams(runs[order], table.counts[order], score[order])
        return found

    def _merge(self, n: int) -> None:
        self.tables[n] = _Table.merged([self.tables[n], *self.waiting[n]])
        self.waiting[n] = []
        rarest = 1
        while len(self.tables[n].keys) > self.limit:
            rarest += 1
            self.tables[n] = self.tables[n].at_least(rarest)


def choose(found: dict[int, Ngrams], words: Iterable[np.ndarray], size: int | None) -> tuple[dict[int, Ngrams], float]:
    """The best n-grams of every length in the paper's shares, and the share of words that they hold.

    Args:
        found: all collocations, the best first.
        words: of the corpus, where the share is counted.
        size: how many n-grams in all; None takes as many as hold half of the words.
    """
    tables = {n: _Table.of(ngrams.words_GN) for n, ngrams in found.items()}
    needed = np.concatenate([np.zeros(0), *(_size_needed(tables, block)[block > 0] for block in words)])
    if size is None:
        reached = np.sort(needed)[int(COVERAGE * len(needed))] if len(needed) else 0
        most = max((len(ngrams.counts_G) / SHARES[n] for n, ngrams in found.items()), default=0)
        size = int(min(reached, most))
    chosen = {n: ngrams.first(int(SHARES[n] * size)) for n, ngrams in found.items()}
    return chosen, float((needed <= size).mean()) if len(needed) else 0.0


def _size_needed(tables: dict[int, "_Table"], words: np.ndarray) -> np.ndarray:
    """How many n-grams must be chosen before one of them holds this word `[W]`; infinite if none does."""
    needed_W = np.full(len(words), np.inf)
    for n, (keys, valid) in _runs(words.astype(np.uint32)).items():
        table = tables[n]
        if len(table.keys) == 0 or len(keys) == 0:
            continue
        at = np.minimum(np.searchsorted(table.keys, keys), len(table.keys) - 1)
        size = np.where(valid & (table.keys[at] == keys), (table.where[at] + 1) / SHARES[n], np.inf)
        for k in range(n):
            np.minimum(needed_W[k : k + len(size)], size, out=needed_W[k : k + len(size)])
    return needed_W


@dataclass(frozen=True)
class _Table:
    """Keys of runs, ascending, with how often each was seen and where first."""

    keys: np.ndarray
    counts: np.ndarray
    where: np.ndarray

    @classmethod
    def empty(cls) -> "_Table":
        return cls(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, runs_GN: np.ndarray) -> "_Table":
        """Of runs, each seen at its own index."""
        keys = _keys(runs_GN)
        order = np.argsort(keys)
        return cls(keys[order], np.ones(len(keys), dtype=np.int64), order)

    @classmethod
    def merged(cls, tables: list["_Table"]) -> "_Table":
        keys, counts, where = (np.concatenate(columns) for columns in zip(*(vars(t).values() for t in tables)))
        if len(keys) == 0:
            return cls.empty()
        order = np.argsort(keys)
        keys = keys[order]
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        return cls(keys[starts], np.add.reduceat(counts[order], starts), np.minimum.reduceat(where[order], starts))

    def at_least(self, count: int) -> "_Table":
        keep = self.counts >= count
        return _Table(self.keys[keep], self.counts[keep], self.where[keep])


def _look_up(values: np.ndarray, tables: dict[int, _Table], runs_GN: np.ndarray) -> np.ndarray:
    """The value of each run, which is a word or in its length's table; -inf where it has been forgotten."""
    n = runs_GN.shape[1]
    if n == 1:
        return values[runs_GN[:, 0]]
    if len(values) == 0:
        return np.full(len(runs_GN), -np.inf)
    keys = _keys(runs_GN)
    at = np.minimum(np.searchsorted(tables[n].keys, keys), len(values) - 1)
    return np.where(tables[n].keys[at] == keys, values[at], -np.inf)


def _keys(runs_GN: np.ndarray) -> np.ndarray:
    """A number for each run of words."""
    key = runs_GN[:, 0].astype(np.uint64)
    for k in range(1, runs_GN.shape[1]):
        key = _combine(key, runs_GN[:, k])
    return key


def _runs(words: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """For every length, the numbers of the runs that begin at each word, and which of them are inside one text."""
    found, key, valid = {}, words.astype(np.uint64), words > 0
    for n in range(2, LONGEST + 1):
        last = words[n - 1 :]
        key, valid = _combine(key[: len(last)], last), valid[: len(last)] & (last > 0)
        found[n] = key, valid
    return found


def _combine(key: np.ndarray, word: np.ndarray) -> np.ndarray:
    """A 64-bit number for a run and the word after it; two runs share one with a chance of about 2^-64."""
    key = key * np.uint64(0x9E3779B97F4A7C15) + word.astype(np.uint64)
    return key ^ (key >> np.uint64(31))
