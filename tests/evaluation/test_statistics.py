"""Intervals that cover the truth, p-values worked out by hand, powers from the tables, scipy's own answers."""

import numpy as np
import pytest
from scipy import stats

from concept_encoder.evaluation import statistics
from concept_encoder.evaluation.resampling import weighted_scores
from concept_encoder.evaluation.statistics import (
    difference,
    hedges_g,
    holm,
    interval,
    permutation,
    seeds_needed,
    superiority,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "_RESAMPLES", 500)


def answers(rng, seeds, examples, of_seeds=0.0, of_examples=0.0, ease=0.8):
    """Right (1) or wrong (0) by a probit model with effects of seeds and of examples, and the accuracy it tends to."""
    latent = ease + of_seeds * rng.normal(size=(seeds, 1)) + of_examples * rng.normal(size=examples)
    truth = stats.norm.cdf(ease / np.sqrt(of_seeds**2 + of_examples**2 + 1))
    return (latent + rng.normal(size=(seeds, examples)) > 0).astype(int), truth


def accuracy(right):
    return weighted_scores("accuracy", list(right), np.ones(right.shape[1], int))


@pytest.mark.parametrize(("of_seeds", "of_examples"), [(0.3, 0.5), (0.0, 1.0), (0.5, 0.2)])
def test_the_interval_of_five_seeds_covers_the_truth(rng, fewer_resamples, of_seeds, of_examples):
    covered = []
    for _ in range(200):
        right, truth = answers(rng, 5, 150, of_seeds, of_examples)
        found = interval(*accuracy(right))
        covered.append(found.low <= truth <= found.high)
    # 0.95 is meant; so few resamples do not reach far enough out (benchmarks/interval_coverage.py takes all)
    assert np.mean(covered) > 0.86


def test_seeds_alone_would_be_too_narrow(rng, fewer_resamples):
    """The usual mean and bootstrap of five scores knows nothing of the examples, nor that five are few."""
    plain, ours = [], []
    for _ in range(150):
        right, truth = answers(rng, 5, 150, of_seeds=0.3, of_examples=0.5)
        bounds = stats.bootstrap((right.mean(1),), np.mean, n_resamples=300, rng=rng).confidence_interval
        plain.append(bounds.low <= truth <= bounds.high)
        found = interval(*accuracy(right))
        ours.append(found.low <= truth <= found.high)
    assert np.mean(plain) < 0.8 < 0.9 < np.mean(ours)


def test_the_interval_of_two_seeds_covers_the_truth(rng):
    """A percentile of two seeds, at whatever level, hardly leaves the range between them: it held 77 of 100."""
    covered = []
    for _ in range(60):
        right, truth = answers(rng, 2, 400, of_seeds=0.8, of_examples=0.1)
        found = interval(*accuracy(right))
        covered.append(found.low <= truth <= found.high)
    assert np.mean(covered) > 0.85


def test_the_interval_of_two_seeds_worked_by_hand():
    right = np.stack([np.arange(100) < 80, np.arange(100) < 60]).astype(int)
    found = interval(*accuracy(right))
    # variance of seeds 0.02 / 2 with 1 degree; of the examples, sums of 0, 1/2 and 1, 0.0016 with 99
    error, freedom = np.sqrt(0.0116), 0.0116**2 / (0.01**2 + 0.0016**2 / 99)
    assert found.value == pytest.approx(0.7)
    assert found.high - 0.7 == pytest.approx(0.7 - found.low)
    assert found.high - 0.7 == pytest.approx(stats.t.ppf(0.975, freedom) * error, rel=0.03)  # 0.76: beyond a score


def test_one_seed_is_scipys_bca_of_the_examples(rng):
    right, _ = answers(rng, 1, 400)
    found = interval(*accuracy(right))
    reference = stats.bootstrap((right[0],), np.mean, rng=np.random.default_rng(1)).confidence_interval
    assert found.seeds == 1
    assert found.value == right.mean()
    assert (found.low, found.high) == pytest.approx(tuple(reference), abs=0.008)


def test_pairing_examples_narrows_a_difference(rng):
    """Two systems that fail on the same hard examples differ more surely than two with examples of their own."""
    hard = 2.5 * rng.normal(size=300)
    first, second = ((0.8 + shift + hard + rng.normal(size=(5, 300)) > 0).astype(int) for shift in (0.6, 0.0))
    same = difference(accuracy(first)[0], accuracy(second)[0], 300, paired=True)
    apart = difference(accuracy(first)[0], accuracy(second[:, rng.permutation(300)])[0], 300, paired=True)
    assert same.interval.value == pytest.approx(first.mean() - second.mean())
    assert same.interval.high - same.interval.low < 0.75 * (apart.interval.high - apart.interval.low)
    assert same.p < 0.01
    assert same.interval.low > 0


def test_false_alarms_are_as_rare_as_promised(rng, fewer_resamples):
    p_values = []
    for _ in range(150):
        hard = rng.normal(size=120)
        sides = [
            (0.7 + 0.3 * rng.normal(size=(5, 1)) + hard + rng.normal(size=(5, 120)) > 0).astype(int) for _ in range(2)
        ]
        p_values.append(difference(accuracy(sides[0])[0], accuracy(sides[1])[0], 120, paired=False).p)
    assert np.mean(np.array(p_values) < 0.05) < 0.09


def test_equal_systems_differ_by_nothing(rng):
    right, _ = answers(rng, 5, 50, 0.3)
    found = difference(accuracy(right)[0], accuracy(right)[0], 50, paired=True)
    assert (found.interval.value, found.interval.low, found.interval.high, found.p) == (0, 0, 0, 1)
    assert found.permutation.p == 1
    assert found.hedges_g is None
    assert found.superiority == 0.5


def test_five_seeds_cannot_reach_five_percent_by_flipping_signs():
    assert permutation([1, 2, 3, 4, 5]) == statistics.Permutation(2 / 32, 2 / 32)
    assert permutation([1, 2, 3, 4, 5, 6]).p == 2 / 64
    # sums of flipped signs of 1, 2, 4 that are 5 or more: +++ (7) and -++ (5)
    assert permutation([-1, 2, 4]).p == pytest.approx(2 * 2 / 8)
    # two of three against one: 4 of the C(6, 3) = 20 choices give a difference as large, on either side
    assert permutation([4, 5, 6], [1, 2, 3]).p == pytest.approx(2 / 20)
    assert permutation(list(range(1, 18))).minimum == pytest.approx(2 / (2**16 + 1))


def test_unpaired_permutation_is_scipys():
    first, second = [0.71, 0.74, 0.69, 0.73], [0.70, 0.68, 0.66, 0.72, 0.67]
    reference = stats.permutation_test((first, second), lambda x, y: np.mean(x) - np.mean(y)).pvalue
    assert permutation(first, second).p == pytest.approx(reference)


def test_holm_worked_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04, and none below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("effect", "sides", "seeds"),
    [(1.0, 1, 10), (0.8, 1, 15), (0.5, 1, 34), (0.8, 2, 26), (0.5, 2, 64), (1.0, 2, 17)],  # Cohen 1988; G*Power 3.1
)
def test_seeds_needed_as_in_the_tables_of_power(effect, sides, seeds):
    assert seeds_needed(effect, variance=sides, sides=sides) == seeds


def test_no_number_of_seeds_makes_up_for_too_few_examples():
    assert seeds_needed(0.02, variance=0.01**2) < 6
    assert seeds_needed(0.02, variance=0.01**2, of_examples=0.02**2) is None
    assert seeds_needed(0.0, variance=0.01**2) is None


def test_effect_sizes_worked_by_hand():
    # mean 3, standard deviation 1.5811, and 1 - 3 / (4 x 4 - 1) = 0.8
    assert hedges_g([1, 2, 3, 4, 5]) == pytest.approx(3 / 1.5811388 * 0.8)
    assert hedges_g([2, 3, 4], [1, 2, 3]) == pytest.approx(1 * (1 - 3 / 15))
    assert hedges_g([1, 2]) is None
    assert hedges_g([2, 2, 2]) is None
    assert superiority([2, 3], [1, 2]) == 3.5 / 4
