"""Intervals against scipy's own, verdicts against known cases, and counts of seeds that keep their promise."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from concept_encoder.lab.statistics import effects_of, interval, judge, seeds_to_decide


def test_interval_is_the_t_interval():
    values = [0.62, 0.78, 0.51, 0.66, 0.53]
    found = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize(
    ("effects", "claimed", "word"),
    [
        ([5.0, 5.1, 4.9, 5.0, 5.0], 4.0, "supported"),
        ([5.0, 5.1, 4.9, 5.0, 5.0], 6.0, "refuted"),
        ([5.0, 9.0, 1.0, 5.0, 5.0], 4.0, "undecided"),
        ([5.0, 5.1, 4.9], 4.0, "undecided"),  # clear, but three seeds
        ([5.0], 4.0, "undecided"),
        ([], 4.0, "undecided"),
    ],
)
def test_verdicts(effects, claimed, word):
    assert judge(effects, claimed).word == word


def test_many_questions_ask_for_more():
    effects = [1.0, 1.4, 0.8, 1.3, 1.1]
    assert judge(effects, 0.8).word == "supported"
    assert judge(effects, 0.8, questions=10).word == "undecided"


@given(st.floats(0.1, 3), st.floats(0.1, 3))
def test_the_number_of_seeds_decides_and_one_less_does_not(distance, spread):
    effects = np.array([-1.0, 1.0, -1.0, 1.0]) * spread * np.sqrt(3 / 4) + distance
    count = seeds_to_decide(effects.tolist(), 0.0)
    assume(count is not None)
    scale = np.std(effects, ddof=1) / np.sqrt(count)
    assert stats.t.ppf(0.975, count - 1) * scale < distance
    if count > 5:
        assert stats.t.ppf(0.975, count - 2) * np.std(effects, ddof=1) / np.sqrt(count - 1) >= distance


def test_effects_are_paired_by_seed_and_point_in_the_claimed_direction():
    assert effects_of({0: 2.0, 1: 3.0, 2: 9.0}, {0: 2.5, 1: 4.0}, "down") == [0.5, 1.0]
    assert effects_of({0: 2.0, 1: 3.0}, 1.5, "up") == [0.5, 1.5]
    assert effects_of({0: 200.0}, {0: 100.0}, "up", relative=True) == [2.0]
    assert effects_of({0: 50.0}, {0: 100.0}, "down", relative=True) == [2.0]


def test_effects_on_the_claim_itself_are_decided_by_enough_seeds():
    assert judge([0.0, 0.0], 0.0).would_decide == 5
    assert judge([0.0] * 5, 0.0).word == "supported"
    assert judge([-0.1, 0.1], 0.0).would_decide is None
