"""Scores of predictions, each a number that scikit-learn or scipy computes, or None where it is undefined."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy import stats
from sklearn import metrics

from concept_encoder.data.tasks.load import TaskData
from concept_encoder.errors import UserError, nearest

Numbers = Sequence[float] | np.ndarray

METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {  # of (labels, predictions)
    "accuracy": metrics.accuracy_score,
    "f1": metrics.f1_score,  # of class 1
    "macro_f1": lambda labels, predictions: metrics.f1_score(labels, predictions, average="macro"),
    "matthews_correlation": metrics.matthews_corrcoef,
    "pearson": lambda labels, predictions: stats.pearsonr(labels, predictions).statistic,
    "spearman": lambda labels, predictions: stats.spearmanr(labels, predictions).statistic,
}


def compute(name: str, predictions: Numbers, labels: Numbers) -> float | None:
    """The metric `name` of predictions (class numbers, or values) against labels, both [examples].

    Returns None where the metric is undefined; `why_undefined` says why. The Matthews correlation of
    predictions that are all the same is 0 by convention.

    Raises `UserError` for an unknown name, lengths that differ, no examples, and numbers that are not finite.
    """
    if name not in METRICS:
        raise UserError(f"metric: no metric {name!r}; {nearest(name, METRICS)}")
    predictions, labels = _checked(predictions, labels)
    if _reason(name, predictions, labels) is not None:
        return None
    return float(METRICS[name](labels, predictions))


def compute_all(names: Sequence[str], predictions: Numbers, labels: Numbers) -> dict[str, float | None]:
    """Every metric of `names`, in their order."""
    return {name: compute(name, predictions, labels) for name in names}


def scorer(data: TaskData) -> Callable[[Sequence[str], Sequence, Sequence], dict[str, float | None]]:
    """`compute_all` for the predictions and labels of this task; for tags, each is a list of arrays, one a text."""
    if data.kind == "token_classification":
        return partial(compute_tags, tag_names=data.label_names)
    return compute_all


def compute_tags(
    names: Sequence[str], predictions: Sequence[Numbers], labels: Sequence[Numbers], tag_names: Sequence[str]
) -> dict[str, float | None]:
    """Every metric of `names` over the words of all texts; `entity_f1` over their entities.

    Args:
        predictions, labels: class numbers `[words]` of each text.
    """
    if list(map(len, predictions)) != list(map(len, labels)):
        raise UserError("predictions: their numbers of words differ from those of the labels; give one a word")
    words = [np.concatenate([*map(np.asarray, side), np.array([], int)]) for side in (predictions, labels)]
    found = {name: compute(name, *words) for name in names if name != "entity_f1"}
    if "entity_f1" in names:
        tagged = [[[tag_names[tag] for tag in text] for text in side] for side in (predictions, labels)]
        found["entity_f1"] = entity_f1(*tagged)
    return {name: found[name] for name in names}


def entity_f1(predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> float | None:
    """F1 of exact entities (type, first and last word) marked by IOB2 tags; None when there is none on either side.

    Source: CoNLL-2000/2003 (conlleval, micro average).
    """
    found, right = (
        {(text, *entity) for text, tags in enumerate(side) for entity in entities(tags)}
        for side in (predictions, labels)
    )
    return 2 * len(found & right) / (len(found) + len(right)) if found or right else None


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Type, first word and word after the last of each entity. An I-X that continues no X begins one (conlleval)."""
    spans: list[tuple[str, int, int]] = []
    inside = None
    for i, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if mark == "O":
            inside = None
        elif mark == "I" and kind == inside:
            spans[-1] = (kind, spans[-1][1], i + 1)
        else:
            spans.append((kind, i, i + 1))
            inside = kind
    return spans


def why_undefined(name: str, predictions: Numbers, labels: Numbers) -> str | None:
    """The reason for which `compute` returns None, or None when it returns a number."""
    return _reason(name, *_checked(predictions, labels))


def _reason(name: str, predictions: np.ndarray, labels: np.ndarray) -> str | None:
    if name in ("pearson", "spearman"):
        for what, values in (("labels", labels), ("predictions", predictions)):
            if np.ptp(values) == 0:
                return f"all {what} are the same, so there is no correlation"
    if name == "matthews_correlation" and np.ptp(labels) == 0:
        return "all labels are of one class"
    if name == "f1" and not (np.any(labels == 1) or np.any(predictions == 1)):
        return "no label and no prediction is of class 1"
    return None


def _checked(predictions: Numbers, labels: Numbers) -> tuple[np.ndarray, np.ndarray]:
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or labels.ndim != 1:
        raise UserError(f"predictions: shape {predictions.shape} for labels of shape {labels.shape}; give one each")
    if len(labels) == 0:
        raise UserError("predictions: there are no examples to score")
    for what, values in (("predictions", predictions), ("labels", labels)):
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values))[0])
            raise UserError(f"{what}: number {bad} is {values[bad]}; has training diverged?")
    return predictions, labels
