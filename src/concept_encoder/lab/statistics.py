"""Verdicts: a Student t interval over seeds beside what was claimed, and how many seeds would decide."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from scipy import stats

MIN_SEEDS = 5  # fewer decide nothing here, however clear they look
_MOST_SEEDS = 1000


@dataclass(frozen=True)
class Verdict:
    """What seeds say of a claim.

    Attributes:
        effect: the mean, in the claimed direction (a fall that was expected is positive); None without observations.
        low, high: the interval of the effect; None with fewer than two seeds.
        seeds: how many there are.
        would_decide: the seeds at which an interval of this spread would leave the claim out or in; None when it
            already does, or when nothing can be said (one seed, or a mean on the claim itself).
    """

    word: Literal["supported", "refuted", "undecided"]
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    would_decide: int | None = None


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """The t interval of a mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = _half_width(stdev(values), len(values), confidence)
    return fmean(values) - half, fmean(values) + half


def judge(effects: Sequence[float], claimed: float, questions: int = 1) -> Verdict:
    """Is the effect at least as large as claimed?

    Supported: the whole interval lies at or above the claim. Refuted: the whole interval lies below it.

    Args:
        effects: one a seed, positive in the claimed direction.
        questions: how many such questions an experiment asks at once; the level 0.05 is divided by it (Bonferroni).
    """
    if not effects:
        return Verdict("undecided")
    confidence = 1 - 0.05 / questions
    found = interval(effects, confidence)
    if found is None:
        return Verdict("undecided", fmean(effects), seeds=1, would_decide=None)
    enough = len(effects) >= MIN_SEEDS
    outside = found[0] >= claimed or found[1] < claimed
    word = "undecided" if not (outside and enough) else "supported" if found[0] >= claimed else "refuted"
    needed = None if word != "undecided" else seeds_to_decide(effects, claimed, confidence)
    return Verdict(word, fmean(effects), *found, len(effects), needed)


def seeds_to_decide(effects: Sequence[float], claimed: float, confidence: float = 0.95) -> int | None:
    """The least number of seeds whose interval would decide, were mean and spread to stay as they are."""
    mean, spread = fmean(effects), stdev(effects)
    for count in range(MIN_SEEDS, _MOST_SEEDS + 1):
        half = _half_width(spread, count, confidence)
        if mean - half >= claimed or mean + half < claimed:
            return count
    return None


def effects_of(
    values: Mapping[int, float],
    against: Mapping[int, float] | float,
    direction: Literal["up", "down"],
    relative: bool = False,
) -> list[float]:
    """The effect of each seed, larger in the claimed direction: paired by seed, or against one number.

    A difference, or with `relative` a factor.
    """
    pairs = [
        (value, against[seed] if isinstance(against, Mapping) else against)
        for seed, value in sorted(values.items())
        if not isinstance(against, Mapping) or seed in against
    ]
    if direction == "down":
        pairs = [(other, value) for value, other in pairs]
    return [value / other for value, other in pairs if other] if relative else [value - other for value, other in pairs]


def _half_width(spread: float, count: int, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, count - 1)) * spread / math.sqrt(count)
