"""Scores of predictions, each a number that scikit-learn or scipy computes, or None where it is undefined."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats
from sklearn import metrics

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
