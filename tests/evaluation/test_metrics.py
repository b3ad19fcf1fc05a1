import math
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from concept_encoder.data.tasks.table import TASKS
from concept_encoder.errors import UserError
from concept_encoder.evaluation.metrics import (
    METRICS,
    compute,
    compute_all,
    compute_tags,
    entities,
    entity_f1,
    why_undefined,
)


@pytest.mark.parametrize(
    ("name", "predictions", "labels", "expected"),
    [
        ("accuracy", [1, 0, 1, 1], [1, 0, 0, 1], 0.75),
        ("f1", [1, 0, 1, 1], [1, 0, 0, 1], 0.8),
        ("f1", [0, 0, 0], [1, 0, 1], 0.0),
        ("macro_f1", [0, 1, 2, 2], [0, 1, 2, 1], (1 + 2 / 3 + 2 / 3) / 3),
        ("matthews_correlation", [1, 1, 0, 0], [1, 0, 0, 0], 1 / math.sqrt(3)),
        ("matthews_correlation", [1, 1, 1], [1, 0, 1], 0.0),
        ("pearson", [1.0, 2.0, 3.0], [2.0, 4.0, 6.0], 1.0),
        ("spearman", [1.0, 10.0, 5.0], [3.0, 2.0, 1.0], -0.5),
    ],
)
def test_values(name, predictions, labels, expected):
    assert compute(name, predictions, np.array(labels)) == pytest.approx(expected)
    assert why_undefined(name, predictions, labels) is None


@pytest.mark.parametrize(
    ("name", "predictions", "labels", "reason"),
    [
        ("pearson", [2.0, 2.0], [1.0, 2.0], "all predictions are the same"),
        ("spearman", [1.0, 2.0], [3.0, 3.0], "all labels are the same"),
        ("matthews_correlation", [0, 1], [1, 1], "one class"),
        ("f1", [0, 0], [0, 0], "class 1"),
    ],
)
def test_undefined_metrics_say_why(name, predictions, labels, reason):
    assert compute(name, predictions, labels) is None
    assert reason in why_undefined(name, predictions, labels)


def test_all_positive_scores_high_on_f1():
    """The share of positives in MRPC: the baseline beside which its F1 has to stand."""
    labels = [1] * 684 + [0] * 316
    scores = compute_all(("accuracy", "f1"), [1] * 1000, labels)
    assert scores == {"accuracy": pytest.approx(0.684), "f1": pytest.approx(0.812, abs=5e-4)}


@pytest.mark.parametrize(
    ("predictions", "labels", "expected"),
    [
        ([1, 0], [1], "shape"),
        ([[1, 0]], [[1, 0]], "shape"),
        ([], [], "no examples"),
        ([1.0, float("nan")], [1.0, 2.0], "predictions: number 1 is nan"),
        ([1.0, 2.0], [float("inf"), 2.0], "labels: number 0 is inf"),
    ],
)
def test_input_that_cannot_be_scored(predictions, labels, expected):
    with pytest.raises(UserError, match=expected):
        compute("pearson", predictions, labels)


def test_unknown_names_get_the_nearest():
    with pytest.raises(UserError, match="did you mean 'accuracy'"):
        compute("acuracy", [1], [1])


def test_every_metric_of_the_task_table_is_known():
    assert {metric for task in TASKS.values() for metric in task.metrics} <= set(METRICS)


TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SENTENCES = st.lists(st.lists(st.sampled_from(TAGS), max_size=6), min_size=1, max_size=4)


def naive_entities(tags):
    """Every span of words, asked whether it is an entity: it begins one, goes on to its end, and not further."""
    return {
        (kind, start, end)
        for kind in ("PER", "LOC")
        for start in range(len(tags))
        for end in range(start + 1, len(tags) + 1)
        if (tags[start] == f"B-{kind}" or (tags[start] == f"I-{kind}" and (start == 0 or tags[start - 1][2:] != kind)))
        and all(tag == f"I-{kind}" for tag in tags[start + 1 : end])
        and (end == len(tags) or tags[end] != f"I-{kind}")
    }


@given(st.data(), SENTENCES)
def test_entity_f1_is_that_of_the_naive_count(data, labels):
    predictions = [data.draw(st.lists(st.sampled_from(TAGS), min_size=len(t), max_size=len(t))) for t in labels]
    found = [naive_entities(tags) for tags in predictions]
    right = [naive_entities(tags) for tags in labels]
    assert [set(entities(tags)) for tags in labels] == right
    hits, said, there = sum(len(f & r) for f, r in zip(found, right)), sum(map(len, found)), sum(map(len, right))
    if not said + there:
        assert entity_f1(predictions, labels) is None
        return
    precision, recall = hits / max(said, 1), hits / max(there, 1)
    harmonic = 2 * precision * recall / (precision + recall) if hits else 0.0
    assert entity_f1(predictions, labels) == pytest.approx(harmonic)


def test_entities_of_a_known_sentence():
    tags = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-PER", "I-PER"]
    assert entities(tags) == [("PER", 0, 2), ("LOC", 3, 4), ("LOC", 4, 5), ("PER", 5, 7)]
    assert entity_f1([["B-PER", "O"]], [["B-PER", "I-PER"]]) == 0.0  # half an entity is none
    assert entity_f1([["O"], ["B-PER"]], [["B-PER"], ["O"]]) == 0.0  # of another text


@given(st.data(), st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=1, max_size=4).filter(any))
def test_scores_of_tags_are_scikit_learns_over_all_words(data, labels):
    predictions = [data.draw(st.lists(st.integers(0, 3), min_size=len(t), max_size=len(t))) for t in labels]
    names = ["O", "A", "B", "C"]
    scores = compute_tags(("accuracy", "macro_f1"), [np.array(p) for p in predictions], labels, names)
    flat = [list(chain.from_iterable(side)) for side in (labels, predictions)]
    assert scores["accuracy"] == pytest.approx(accuracy_score(*flat))
    assert scores["macro_f1"] == pytest.approx(f1_score(*flat, average="macro"))


def test_a_text_with_another_number_of_predicted_tags():
    with pytest.raises(UserError, match="give one a word"):
        compute_tags(("accuracy",), [[0, 1], [0]], [[0, 1], [0, 1]], ["O", "A"])
