import math

import numpy as np
import pytest

from concept_encoder.data.task_table import TASKS
from concept_encoder.errors import UserError
from concept_encoder.evaluation.metrics import METRICS, compute, compute_all, why_undefined


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
