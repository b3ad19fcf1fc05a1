"""Metrics as functions of how often each example counts: what bootstrap and jackknife recompute thousands of times.

R: resamples, S: seeds, n: examples (texts), k: sums that a metric is made of.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from concept_encoder.evaluation.metrics import entities

Array = np.ndarray
Weights = Callable[[Array], Array]  # [R, n] times that each example was drawn -> [R, S] scores

MOST_UNITS = 2000  # a jackknife is quadratic in the units; above this, examples are drawn in groups


def weighted_scores(
    name: str, predictions: Sequence[Sequence], labels: Sequence, label_names: Sequence[str] | None = None
) -> tuple[Weights, int]:
    """The metric `name` of every seed as a function of the examples' weights, and the number of units to weigh.

    A unit is an example (a text, where words are labelled). Above `MOST_UNITS` examples a unit is a random group of
    them: the metric is a function of sums over independent examples, so it is one of sums over groups too, and a
    bootstrap of groups estimates the same variance. Spearman's correlation is no such function and keeps its examples.

    Where a resample leaves the metric undefined (no positive, a constant) it counts as 0.

    Args:
        predictions: of each seed, one prediction an example.
        labels: one an example, or a list of class numbers a text.
        label_names: the tags, for `entity_f1`.
    """
    if name == "spearman":
        return _spearman([np.asarray(found) for found in predictions], np.asarray(labels)), len(labels)
    if name == "entity_f1":
        columns = [_entity_parts(found, labels, label_names) for found in predictions]
    else:
        classes = 1 + int(max(_flat(side).max() for side in [labels, *predictions]))
        columns = [_parts(_PARTS[name], found, labels, classes) for found in predictions]
    parts = _grouped(np.stack(columns, axis=1).astype(float))  # [n, S, k]
    units, seeds, k = parts.shape
    flat = parts.reshape(units, seeds * k)
    return lambda weights: _FINISH[name]((weights @ flat).reshape(-1, seeds, k)), units


def draw_counts(drawn: Array, units: int) -> Array:
    """Drawn unit numbers `[R, m]` as weights `[R, units]`."""
    rows = np.arange(len(drawn))[:, None] * units
    return np.bincount((drawn + rows).ravel(), minlength=len(drawn) * units).reshape(len(drawn), units).astype(float)


def _parts(parts: Callable[[Array, Array, int], Array], predictions: Sequence, labels: Sequence, classes: int) -> Array:
    """What an example adds to the sums of a metric `[n, k]`; a text with labelled words adds up its words."""
    of_words = parts(_flat(predictions), _flat(labels), classes)
    if not isinstance(labels[0], list):
        return of_words
    edges = np.cumsum([0, *map(len, labels)])
    return np.stack([of_words[start:stop].sum(0) for start, stop in pairwise(edges)])


def _flat(values: Sequence) -> Array:
    """Of examples as they are; of texts with labelled words, all words."""
    return (
        np.concatenate([np.asarray(text, int) for text in values])
        if isinstance(values[0], list)
        else np.asarray(values)
    )


def _entity_parts(predictions: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], names: Sequence[str]) -> Array:
    """Of each text `[n, 2]`: entities found and right, and entities of both sides."""
    sides = [[set(entities([names[tag] for tag in text])) for text in side] for side in (predictions, labels)]
    return np.array([(len(found & right), len(found) + len(right)) for found, right in zip(*sides)])


def _accuracy_parts(predictions: Array, labels: Array, classes: int) -> Array:
    return np.stack([predictions == labels, np.ones(len(labels))], -1)


def _f1_parts(predictions: Array, labels: Array, classes: int) -> Array:
    return np.stack([(predictions == 1) & (labels == 1), (predictions == 1) * 1 + (labels == 1)], -1)


def _class_parts(predictions: Array, labels: Array, classes: int) -> Array:
    """Of each class: right, predicted, labelled."""
    found, asked = (side[:, None] == np.arange(classes) for side in (predictions, labels))
    return np.concatenate([found & asked, found, asked], -1)


def _moments(predictions: Array, labels: Array, classes: int) -> Array:
    """Centred first: only differences matter, and sums of squares of large numbers lose digits."""
    x, y = predictions - predictions.mean(), labels - labels.mean()
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], -1)


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0)


def _macro_f1(sums: Array) -> Array:
    right, found, asked = np.split(sums, 3, -1)
    present = found + asked > 0
    return _share(_share(2 * right, found + asked).sum(-1), present.sum(-1))


def _matthews(sums: Array) -> Array:
    """Source: Gorodkin 2004, the correlation of K classes; with two classes Matthews's."""
    right, found, asked = np.split(sums, 3, -1)
    count = asked.sum(-1)
    spread = (count**2 - (found**2).sum(-1)) * (count**2 - (asked**2).sum(-1))
    return _share(right.sum(-1) * count - (found * asked).sum(-1), np.sqrt(np.maximum(spread, 0)))


def _pearson(sums: Array) -> Array:
    count, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = (count * xx - x * x) * (count * yy - y * y)
    return _share(count * xy - x * y, np.sqrt(np.maximum(spread, 0)))


def _spearman(predictions: Sequence[Array], labels: Array) -> Weights:
    """Pearson's correlation of the ranks *within* the resample; equal values share the mean of their ranks."""

    def ranks(values: Array, weights: Array) -> Array:
        _, level = np.unique(values, return_inverse=True)
        by_level = np.argsort(level, kind="stable")
        starts = np.searchsorted(level[by_level], np.arange(level.max() + 1))
        counts = np.add.reduceat(weights[:, by_level], starts, axis=1)
        return (np.cumsum(counts, axis=1) - counts / 2)[:, level]

    def scores(weights: Array) -> Array:
        count = weights.sum(1, keepdims=True)
        asked = ranks(labels, weights) - count / 2  # count / 2 is the mean rank
        found = [ranks(side, weights) - count / 2 for side in predictions]
        squares = (weights * asked**2).sum(1)
        columns = [
            _share((weights * side * asked).sum(1), np.sqrt((weights * side**2).sum(1) * squares)) for side in found
        ]
        return np.stack(columns, -1)

    return scores


def _grouped(parts: Array) -> Array:
    if len(parts) <= MOST_UNITS:
        return parts
    order = np.random.default_rng(0).permutation(len(parts))
    starts = np.arange(MOST_UNITS) * len(parts) // MOST_UNITS
    return np.add.reduceat(parts[order], starts, axis=0)


_PARTS = {
    "accuracy": _accuracy_parts,
    "f1": _f1_parts,
    "macro_f1": _class_parts,
    "matthews_correlation": _class_parts,
    "pearson": _moments,
}
_FINISH = {
    "accuracy": lambda sums: _share(sums[..., 0], sums[..., 1]),
    "f1": lambda sums: _share(2 * sums[..., 0], sums[..., 1]),
    "entity_f1": lambda sums: _share(2 * sums[..., 0], sums[..., 1]),
    "macro_f1": _macro_f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
}
