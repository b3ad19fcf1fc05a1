"""What frozen states know of a task: a linear probe on them, and the cosine of two texts without any training.

Sources: SentEval (Conneau & Kiela 2018, arXiv:1803.05449) for both, and for the features of a pair.

Shapes: T texts, D width, F features of an example.
"""

from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from concept_encoder.data.tasks.load import Examples, TaskData
from concept_encoder.errors import UserError
from concept_encoder.evaluation.baselines import WORDS, Scores
from concept_encoder.evaluation.controls import Control
from concept_encoder.evaluation.metrics import compute_all
from concept_encoder.evaluation.probes.frozen import States, embed
from concept_encoder.evaluation.probes.pseudo_likelihood import Progress
from concept_encoder.model.interventions import controls_of

SIMILARITY_TASKS = ("stsb", "sick-relatedness")
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # C of the logistic regression


class Frozen:
    """An encoder that is only read.

    Args:
        max_length: longer texts are cut; None is what the model takes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
        progress: Progress | None = None,
    ):
        self.model, self.tokenizer = model, tokenizer
        self.options = {"max_length": max_length, "progress": progress}

    def controls(self, examples: Examples) -> tuple[Control, ...]:
        return tuple(controls_of(self.model, len({*examples.texts, *(examples.pairs or ())})))

    def vectors(self, examples: Examples, control: Control | None = None) -> dict[States, list[np.ndarray]]:
        """Vectors `[T, D]` by kind of state: of the one text of each example, or of its two."""
        sides = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
        texts = [text for side in sides for text in side]
        found = embed(self.model, self.tokenizer, texts, control=control, **self.options)
        return {kind: np.split(vectors_TD, len(sides)) for kind, vectors_TD in found.items()}


def linear_probe(data: TaskData, encoder: Frozen) -> dict[str, Any]:
    """Scores of a logistic (or ridge) regression on standardised frozen states, by kind of state (JSON-able).

    A pair is `[u, v, |u - v|, u v]`. The strength of the penalty is chosen on a fifth of the training side. The
    controls take the concepts away from the held-out side only: the probe stays as it was trained.
    """
    if data.kind == "token_classification":
        raise UserError(
            f"{data.name}: has a tag for every word, and a frozen state is of a whole text; fine-tune on it"
        )
    held_out = data.validation
    taken = {control: encoder.vectors(held_out, control) for control in (None, *encoder.controls(held_out))}
    report: dict[str, Any] = {}
    for kind, sides in encoder.vectors(data.train).items():
        probe = _fit(_features(sides), np.array(data.train.labels), data.kind == "regression")
        for control, found in taken.items():
            scores = compute_all(data.metrics, probe.predict(_features(found[kind])), held_out.labels)
            report[kind] = scores if control is None else {**report[kind], control: scores}
    return report


def similarity(data: TaskData, encoder: Frozen) -> dict[str, Any]:
    """Correlation of the held-out labels with the cosine of the two texts' states, by kind of state (JSON-able)."""
    if data.kind != "regression" or data.validation.pairs is None:
        raise UserError(f"{data.name}: not a task on how alike two texts are; give stsb or sick-relatedness")
    report: dict[str, Any] = {}
    for control in (None, *encoder.controls(data.validation)):
        for kind, (u_TD, v_TD) in encoder.vectors(data.validation, control).items():
            scores = compute_all(data.metrics, _cosine(u_TD, v_TD), data.validation.labels)
            report[kind] = scores if control is None else {**report[kind], control: scores}
    return report


def word_overlap(data: TaskData) -> Scores:
    """The same with TF-IDF vectors in place of states; the weights are of the held-out texts, no label is read."""
    vectorizer = TfidfVectorizer(token_pattern=WORDS).fit([*data.validation.texts, *data.validation.pairs])
    u, v = (vectorizer.transform(side) for side in (data.validation.texts, data.validation.pairs))
    cosine_T = np.asarray(u.multiply(v).sum(1)).ravel()
    return compute_all(data.metrics, cosine_T, data.validation.labels)


def _features(sides: list[np.ndarray]) -> np.ndarray:
    """Features `[T, F]`."""
    if len(sides) == 1:
        return sides[0]
    u_TD, v_TD = sides
    return np.concatenate([u_TD, v_TD, np.abs(u_TD - v_TD), u_TD * v_TD], axis=1)


def _fit(features_TF: np.ndarray, labels_T: np.ndarray, regression: bool) -> GridSearchCV | Pipeline:
    model = Ridge() if regression else LogisticRegression(max_iter=200, tol=1e-3)
    grid = {"ridge__alpha": [1 / c for c in STRENGTHS]} if regression else {"logisticregression__C": STRENGTHS}
    pipeline = make_pipeline(StandardScaler(), model)
    if len(labels_T) < 20:  # a fifth of these chooses nothing
        return pipeline.fit(features_TF, labels_T)
    part = ShuffleSplit(1, test_size=0.2, random_state=0)
    return GridSearchCV(pipeline, grid, cv=part, scoring=None if regression else _log_likelihood).fit(
        features_TF, labels_T
    )


def _log_likelihood(model: Pipeline, features_TF: np.ndarray, labels_T: np.ndarray) -> float:
    """Mean log p of the labels. Accuracy would choose the strongest penalty where one class is common."""
    known_T = np.isin(labels_T, model.classes_)
    log_TK = model.predict_log_proba(features_TF[known_T])
    return float(np.mean(log_TK[np.arange(len(log_TK)), np.searchsorted(model.classes_, labels_T[known_T])]))


def _cosine(u_TD: np.ndarray, v_TD: np.ndarray) -> np.ndarray:
    norms_T = np.linalg.norm(u_TD, axis=1) * np.linalg.norm(v_TD, axis=1)
    return (u_TD * v_TD).sum(1) / np.maximum(norms_T, 1e-12)
