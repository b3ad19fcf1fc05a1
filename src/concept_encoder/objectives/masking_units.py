"""Units that are hidden together: how a batch is cut into them, and which are taken so that the budget is exact.

Shape suffixes: M maskable tokens of a batch, laid end to end; U units; B rows.
"""

from dataclasses import dataclass

import numpy as np

_MIX = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD1342543DE82EF95], dtype=np.uint64)


@dataclass(frozen=True)
class MaskableText:
    """The tokens of a batch that may be hidden, row after row.

    Attributes:
        ids_M: the tokens.
        row_M: their rows, ascending.
        begins_M: True where a text begins: after a special token and at the start of a row. No unit goes on there.
        draws_CM: uniform in [0, 1), from each row's own randomness. The first channel orders the units, a second one
            (`Masking.channels`) decides what the units are.
    """

    ids_M: np.ndarray
    row_M: np.ndarray
    begins_M: np.ndarray
    draws_CM: np.ndarray


def take_units(text: MaskableText, begins_M: np.ndarray, budget_B: np.ndarray, whole: bool) -> np.ndarray:
    """Which tokens are hidden `[M]`: units in random order until each row's budget is spent.

    Args:
        begins_M: True for the first token of every unit.
        budget_B: tokens to hide, at least 1 a row.
        whole: units stay whole, those that do not fit are passed over (see `fit_whole`). Otherwise the unit that
            does not fit is cut, and the budget is always exact.
    """
    first_U = np.flatnonzero(begins_M)
    if len(first_U) == 0:
        return np.zeros(len(begins_M), dtype=bool)
    size_U = np.diff(first_U, append=len(begins_M))
    row_U = text.row_M[first_U]  # ascending, and still so after the sort
    order_U = np.argsort(row_U + text.draws_CM[0, first_U])
    sorted_U = size_U[order_U]
    end_U = np.cumsum(sorted_U)
    edges_B = np.searchsorted(row_U, np.arange(len(budget_B) + 1))
    before_U = end_U - sorted_U - np.concatenate([[0], end_U])[edges_B[row_U]]
    left_U = budget_B[row_U] - before_U
    taken_U = np.clip(left_U, 0, sorted_U)
    if whole:
        for row in np.unique(row_U[(taken_U > 0) & (taken_U < sorted_U)]):
            units = slice(edges_B[row], edges_B[row + 1])
            taken_U[units] = fit_whole(sorted_U[units].tolist(), int(budget_B[row]))
    count_U = np.empty_like(taken_U)
    count_U[order_U] = taken_U
    unit_M = np.cumsum(begins_M) - 1
    return np.arange(len(begins_M)) - first_U[unit_M] < count_U[unit_M]


def fit_whole(sizes: list[int], budget: int) -> list[int]:
    """How many tokens of each unit are taken: all or none, in order, each unit that still fits.

    Where that misses the budget, the units whose sizes sum to the budget, or to the most below it that any units
    reach. Where even the smallest unit is larger than the budget, the first is cut: a row always asks for something.
    """
    taken, left = [0] * len(sizes), budget
    for i, size in enumerate(sizes):
        if size <= left:
            taken[i], left = size, left - size
        if left == 0:
            return taken
    sums = [1]  # bit s of sums[i]: some of the first i units have s tokens
    for size in sizes:
        sums.append((sums[-1] | sums[-1] << size) & (1 << budget + 1) - 1)
    target = sums[-1].bit_length() - 1
    if target == 0:
        return [budget] + [0] * (len(sizes) - 1)
    taken = [0] * len(sizes)
    for i in reversed(range(len(sizes))):
        if not sums[i] >> target & 1:
            taken[i], target = sizes[i], target - sizes[i]
    return taken


def walk(begins_W: np.ndarray, steps_W: np.ndarray) -> np.ndarray:
    """Where units begin when each takes `steps_W[its first item]` items, in every text anew; its end cuts the last.

    Args:
        begins_W: True where a text begins, over items (tokens or words).
    """
    here = np.flatnonzero(begins_W)
    end = np.append(here[1:], len(begins_W))
    found_W = np.zeros(len(begins_W), dtype=bool)
    while len(here):
        found_W[here] = True
        here = here + steps_W[here]
        inside = here < end
        here, end = here[inside], end[inside]
    return found_W


def longest_matches(lengths_W: dict[int, np.ndarray], order_W: np.ndarray) -> np.ndarray:
    """The words that begin a unit `[W]`, when some runs of words belong together.

    Longer runs win; of runs of one length that overlap, one at random.

    Args:
        lengths_W: for every length n, True where a run of n words begins.
        order_W: random, decides between overlapping runs.
    """
    free_W, inside_W = np.ones(len(order_W), dtype=bool), np.zeros(len(order_W), dtype=bool)
    for n in sorted(lengths_W, reverse=True):
        waiting = np.flatnonzero(lengths_W[n])
        while True:
            waiting = waiting[np.all([free_W[waiting + k] for k in range(n)], axis=0)]
            if len(waiting) == 0:
                break
            rank_W = np.full(len(order_W) + 2 * n, -1.0)  # n at each end that never win
            rank_W[waiting + n] = order_W[waiting]
            around = np.max([rank_W[waiting + n + k] for k in range(1 - n, n)], axis=0)
            winners = waiting[order_W[waiting] == around]
            for k in range(n):
                free_W[winners + k] = False
                inside_W[winners + k] = k > 0
    return ~inside_W


def hash_words(ids_M: np.ndarray, begins_M: np.ndarray) -> np.ndarray:
    """A number for every word `[W]`, from its tokens."""
    first_W = np.flatnonzero(begins_M)
    if len(first_W) == 0:
        return np.zeros(0, dtype=np.uint64)
    place_M = np.arange(len(ids_M)) - first_W[np.cumsum(begins_M) - 1]
    mixed_M = _mix(ids_M.astype(np.uint64) + (place_M.astype(np.uint64) << np.uint64(32)) + _MIX[0])
    return np.add.reduceat(mixed_M, first_W)


def hash_runs(words_W: np.ndarray, most: int) -> dict[int, np.ndarray]:
    """Numbers of the runs of 2 to `most` words: for every n, those that begin at each of the first W - n + 1 words."""
    found, total = {}, _mix(words_W)
    for n in range(2, most + 1):
        last = _mix(words_W[n - 1 :] + _MIX[3:] * np.uint64(n))
        total = total[: len(last)] + last
        found[n] = total
    return found


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every bit of the input changes half the bits of the output."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[1]
    values = (values ^ (values >> np.uint64(27))) * _MIX[2]
    return values ^ (values >> np.uint64(31))
