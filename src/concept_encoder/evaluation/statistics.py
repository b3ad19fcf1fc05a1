"""What scores of a few seeds on a few examples can say: intervals, tests, and how many seeds would settle a question.

Two things are drawn at random, the seeds of training and the held-out examples, so both are resampled: together, each
example with the same weight for every seed and both systems (Owen 2007, "The pigeonhole bootstrap"). Resampling,
intervals (BCa, Efron 1987) and permutations are scipy's.
"""

import math
import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from concept_encoder.evaluation.resampling import Weights, draw_counts

Array = np.ndarray

MIN_SEEDS = 5  # fewer settle nothing here, however clear they look
MOST_SEEDS = 1000
_RESAMPLES, _BATCH, _MOST_ARRANGEMENTS = 4000, 200, 2**16


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its confidence interval. With one seed the interval knows of the examples only."""

    value: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Permutation:
    """An exact test over seeds: `p`, and the least p that so many seeds can give however far apart they are."""

    p: float
    minimum: float


@dataclass(frozen=True)
class Difference:
    """Candidate minus reference on one metric.

    Attributes:
        p: two-sided, of a t test whose variance is that of seeds and of examples.
        permutation: the exact test over seeds; None with one seed on a side.
        hedges_g: the difference in standard deviations of a seed, corrected for few seeds; None where undefined.
        superiority: the share of pairs of seeds in which the candidate is ahead (a tie is half), 0.5 for none.
        seeds_needed: the seeds a side at which so large a difference would be found with 80 % probability; None when
            it cannot be said (one seed) or no number up to `MOST_SEEDS` would do, as the examples are too few.
    """

    interval: Interval
    p: float
    permutation: Permutation | None
    hedges_g: float | None
    superiority: float
    seeds_needed: int | None

    @property
    def enough_seeds(self) -> bool:
        return self.interval.seeds >= MIN_SEEDS


@dataclass(frozen=True)
class _Side:
    """A term of a mean or difference: the scores of its seeds, and the sign with which their mean counts."""

    scores: Weights
    sign: float = 1.0

    def of_seeds(self, units: int) -> Array:
        return self.scores(np.ones((1, units)))[0]


def interval(scores: Weights, units: int, confidence: float = 0.95) -> Interval:
    """The interval of one system's mean over its seeds.

    Args:
        scores: the metric of every seed under weights of the examples (`resampling.weighted_scores`).
        units: how many units there are to weigh, two or more.
    """
    return _interval([_Side(scores)], units, confidence, _variance_of_examples([_Side(scores)], units))


def difference(
    candidate: Weights, reference: Weights, units: int, paired: bool, confidence: float = 0.95, level: float = 0.05
) -> Difference:
    """Candidate minus reference on the same examples.

    Args:
        paired: the two sides have the same seeds in the same order, and what a seed decides belongs together.
        level: of the test that `seeds_needed` plans for; divide 0.05 by the number of questions asked at once.
    """
    sides = [_Side(candidate), _Side(reference, -1.0)]
    points = [side.of_seeds(units) for side in sides]
    if paired:
        sides = [_Side(lambda weights: candidate(weights) - reference(weights))]
    per_seed = [side.of_seeds(units) for side in sides]
    of_examples = _variance_of_examples(sides, units)
    found = _interval(sides, units, confidence, of_examples)
    several = min(map(len, points)) > 1
    spread = sum(map(_variance, per_seed))
    return Difference(
        interval=found,
        p=_t_test(found.value, *_error(per_seed, of_examples, units)),
        permutation=permutation(*per_seed) if several else None,
        hedges_g=hedges_g(*per_seed),
        superiority=superiority(*points),
        seeds_needed=seeds_needed(found.value, spread, of_examples, len(per_seed), level=level) if several else None,
    )


def permutation(*scores: Sequence[float]) -> Permutation:
    """An exact two-sided test of equal means over seeds.

    Of one list, the differences of paired seeds, the signs are flipped: five seeds give no p below 2/2^5 = 0.0625. Of
    two, the seeds are exchanged between them. Above 65,536 arrangements it draws so many at random.
    """
    arrangements = 2 ** len(scores[0]) if len(scores) == 1 else math.comb(sum(map(len, scores)), len(scores[0]))
    kind = "samples" if len(scores) == 1 else "independent"
    found = stats.permutation_test(
        [np.asarray(side) for side in scores],
        lambda *sides, axis=-1: sides[0].mean(axis) - (sides[1].mean(axis) if len(sides) > 1 else 0),
        permutation_type=kind,
        vectorized=True,
        n_resamples=_MOST_ARRANGEMENTS,
        rng=np.random.default_rng(0),
    )
    least = 2 / arrangements if arrangements <= _MOST_ARRANGEMENTS else 2 / (_MOST_ARRANGEMENTS + 1)
    return Permutation(float(found.pvalue), least)


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted for being one of several questions, in the order given.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    raised = np.maximum.accumulate([(count - rank) * p_values[i] for rank, i in enumerate(order)])
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted.tolist()


def hedges_g(*scores: Sequence[float]) -> float | None:
    """Effect size over seeds: of one list its mean, of two the difference of means, in standard deviations of a seed.

    None with fewer than three seeds (paired) or three in all, and where seeds do not differ. Source: Hedges 1981.
    """
    freedom = sum(len(side) - 1 for side in scores)
    squares = sum(_variance(side) * (len(side) - 1) for side in scores)
    if freedom < 2 or squares == 0:
        return None
    mean = float(np.mean(scores[0]) - (np.mean(scores[1]) if len(scores) > 1 else 0))
    return mean / math.sqrt(squares / freedom) * (1 - 3 / (4 * freedom - 1))


def superiority(candidate: Sequence[float], reference: Sequence[float]) -> float:
    """How often a seed of the candidate beats one of the reference, a tie being half (Vargha and Delaney 2000)."""
    return float(stats.mannwhitneyu(candidate, reference).statistic) / (len(candidate) * len(reference))


def seeds_needed(
    effect: float, variance: float, of_examples: float = 0.0, sides: int = 1, power: float = 0.8, level: float = 0.05
) -> int | None:
    """The least number of seeds (a side) at which a two-sided t test finds this effect with this probability.

    Args:
        variance: of a paired difference from seed to seed, or of both sides added up.
        of_examples: the variance that the held-out examples leave in the effect; seeds do not lower it.
        sides: 1 for paired seeds, 2 for two independent groups.

    Returns:
        None when `MOST_SEEDS` would not do.
    """

    def enough(seeds: int) -> bool:
        error = math.sqrt(variance / seeds + of_examples)
        if error == 0 or effect == 0:
            return effect != 0
        freedom = _freedom([(variance / seeds, sides * (seeds - 1)), (of_examples, math.inf)])
        shift = min(abs(effect) / error, 30.0)  # as good as certain; scipy's distribution has holes far out
        critical = stats.t.ppf(1 - level / 2, freedom)
        return bool(stats.nct.sf(critical, freedom, shift) >= power)  # the far tail is nothing at such powers

    found = bisect_left(range(2, MOST_SEEDS + 1), True, key=enough) + 2
    return found if found <= MOST_SEEDS else None


def _interval(sides: Sequence[_Side], units: int, confidence: float, of_examples: float) -> Interval:
    """BCa over seeds and units, at the level at which it is as wide as a t interval; of 2 to 4 seeds, that interval.

    A bootstrap of five seeds is too narrow: it knows neither that five values understate their variance nor Student's
    t. Asking it for a higher level makes up for both (Hesterberg 2015, "What teachers should know about the bootstrap",
    the expanded percentile interval), here with the degrees of freedom of seeds and examples together. With fewer than
    five there is nothing to ask: no level of a bootstrap leaves the range of the seeds.
    """
    per_seed = [side.of_seeds(units) for side in sides]
    value = float(sum(side.sign * values.mean() for side, values in zip(sides, per_seed)))
    error, freedom = _error(per_seed, of_examples, units)
    half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    seeds = min(map(len, per_seed))
    if any(1 < len(values) < MIN_SEEDS for values in per_seed):
        return Interval(value, value - half, value + half, seeds)
    data, statistic = _resampled(sides, [len(values) for values in per_seed], units)
    options = {"vectorized": True, "batch": _BATCH, "rng": np.random.default_rng(0)}
    drawn = stats.bootstrap(data, statistic, n_resamples=_RESAMPLES, method="percentile", **options)
    if np.ptp(drawn.bootstrap_distribution) == 0:
        return Interval(value, value, value, seeds)
    wanted = half / float(drawn.standard_error)
    level = {"confidence_level": 1 - 2 * float(stats.norm.sf(wanted)), "bootstrap_result": drawn, "n_resamples": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        bounds = stats.bootstrap(data, statistic, method="BCa", **level, **options).confidence_interval
    if not np.isfinite(bounds).all():  # every resample lies on one side of the mean
        bounds = stats.bootstrap(data, statistic, method="percentile", **level, **options).confidence_interval
    return Interval(value, float(bounds.low), float(bounds.high), seeds)


def _resampled(
    sides: Sequence[_Side], seeds: Sequence[int], units: int
) -> tuple[tuple[Array, ...], Callable[..., Array]]:
    """What scipy draws from (the seeds of each side that has several, then the units), and the value of a draw."""
    several = [side for side, count in enumerate(seeds) if count > 1]

    def statistic(*drawn: Array, axis: int = -1) -> Array:
        *drawn_seeds, drawn_units = drawn
        weights = draw_counts(np.atleast_2d(drawn_units), units)
        total = 0.0
        for i, side in enumerate(sides):
            scores = side.scores(weights)  # [R, S]
            if i in several:
                scores = np.take_along_axis(scores, np.atleast_2d(drawn_seeds[several.index(i)]), axis=1)
            total = total + side.sign * scores.mean(1)
        return total if drawn_units.ndim > 1 else total[0]

    return (*(np.arange(seeds[i]) for i in several), np.arange(units)), statistic


def _variance_of_examples(sides: Sequence[_Side], units: int) -> float:
    """Of the value, these seeds being what they are."""
    data, statistic = _resampled([_Side(_mean_score(side), side.sign) for side in sides], [1] * len(sides), units)
    found = stats.bootstrap(
        data,
        statistic,
        n_resamples=1000,
        method="percentile",
        vectorized=True,
        batch=_BATCH,
        rng=np.random.default_rng(1),
    )
    return float(found.standard_error) ** 2


def _mean_score(side: _Side) -> Weights:
    return lambda weights: side.scores(weights).mean(1, keepdims=True)


def _error(per_seed: Sequence[Array], of_examples: float, units: int) -> tuple[float, float]:
    """The standard error from seeds and examples, and its degrees of freedom."""
    parts = [(_variance(values) / len(values), len(values) - 1) for values in per_seed] + [(of_examples, units - 1)]
    return math.sqrt(sum(variance for variance, _ in parts)), _freedom(parts)


def _freedom(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent variances (Satterthwaite 1946)."""
    whole = sum(variance for variance, _ in parts) ** 2
    shares = sum(variance**2 / freedom for variance, freedom in parts if variance)
    return whole / shares if shares else math.inf


def _t_test(value: float, error: float, freedom: float) -> float:
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * stats.t.sf(abs(value) / error, freedom))


def _variance(values: Sequence[float]) -> float:
    """From seed to seed; 0 for a single one, of which nothing is known."""
    return float(np.var(values, ddof=1)) if len(values) > 1 else 0.0
