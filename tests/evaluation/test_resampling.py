"""A metric under weights is scikit-learn's or scipy's metric of the examples drawn so often."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concept_encoder.evaluation.metrics import compute, compute_tags
from concept_encoder.evaluation.resampling import MOST_UNITS, draw_counts, weighted_scores

CLASSIFICATION = ("accuracy", "f1", "macro_f1", "matthews_correlation")


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([*CLASSIFICATION, "pearson", "spearman"]))
def test_weights_are_repetitions(seed, name):
    rng = np.random.default_rng(seed)
    classes = 2 if name == "f1" else 3
    labels = rng.integers(0, classes, 40)  # correlations meet many ties this way
    predictions = [np.where(rng.random(40) < 0.6, labels, rng.integers(0, classes, 40)) for _ in range(2)]
    scores, units = weighted_scores(name, predictions, labels)
    drawn = rng.integers(0, 40, (3, 40))
    found = scores(draw_counts(drawn, units))
    for row, chosen in zip(found, drawn):
        for score, answers in zip(row, predictions):
            assert score == pytest.approx(compute(name, answers[chosen], labels[chosen]) or 0.0, abs=1e-9)


def test_numbers_far_from_zero_keep_their_digits():
    rng = np.random.default_rng(0)
    labels = 1e6 + rng.normal(size=50)
    answers = labels + rng.normal(size=50)
    for name in ("pearson", "spearman"):
        scores, units = weighted_scores(name, [answers], labels)
        assert scores(np.ones((1, units)))[0, 0] == pytest.approx(compute(name, answers, labels), abs=1e-7)


def test_texts_with_tags_are_drawn_whole():
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    labels = [[1, 2, 0], [0, 3], [0, 0, 1, 0], [3, 0]]
    predictions = [[1, 2, 0], [0, 0], [0, 1, 1, 0], [3, 3]]
    wanted = ("accuracy", "macro_f1", "entity_f1")
    drawn = np.array([[0, 1, 2, 3], [2, 2, 1, 0]])
    for name in wanted:
        scores, units = weighted_scores(name, [predictions], labels, names)
        assert units == 4
        for row, chosen in zip(scores(draw_counts(drawn, units)), drawn):
            sides = ([side[i] for i in chosen] for side in (predictions, labels))
            assert row[0] == pytest.approx(compute_tags([name], *sides, names)[name])


def test_groups_of_many_examples_keep_the_score_and_its_spread():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 3 * MOST_UNITS + 7)
    answers = np.where(rng.random(len(labels)) < 0.8, labels, 1 - labels)
    scores, units = weighted_scores("f1", [answers], labels)
    assert units == MOST_UNITS
    assert scores(np.ones((1, units)))[0, 0] == pytest.approx(compute("f1", answers, labels))
    accuracy, units = weighted_scores("accuracy", [answers], labels)
    spread = accuracy(draw_counts(rng.integers(0, units, (1000, units)), units)).std()
    assert spread == pytest.approx(np.sqrt(0.8 * 0.2 / len(labels)), rel=0.1)
