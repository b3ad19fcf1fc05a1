"""The tasks that are known by name, as one table. To add a task, add a row to `TASKS`."""

from dataclasses import dataclass
from typing import Any, Literal

from concept_encoder.data import quickstart

Kind = Literal["classification", "regression", "token_classification"]


@dataclass(frozen=True)
class Task:
    """Where a task's rows are, what their columns mean, and how it is scored (by the first metric above all).

    `validation` None: the data set has no such split, part of the training rows is held out by a hash.
    `label_names` are in the order of the data set's integers.
    """

    name: str
    source: str
    config: str | None
    text: str
    text_pair: str | None
    label: str = "label"
    kind: Kind = "classification"
    metrics: tuple[str, ...] = ("accuracy",)
    validation: str | None = "validation"
    label_names: tuple[str, ...] | None = None


def _glue(name: str, text: str, text_pair: str | None, label_names: tuple[str, ...], **options: Any) -> Task:
    return Task(name, "nyu-mll/glue", name, text, text_pair, label_names=label_names or None, **options)


_ENTAILMENT = ("entailment", "not_entailment")
_THREE_WAY = ("entailment", "neutral", "contradiction")
_EQUIVALENT = ("not_equivalent", "equivalent")
_CORRELATION = {"kind": "regression", "metrics": ("pearson", "spearman")}
_SICK = ("RobZamp/sick", "default", "sentence_A", "sentence_B")

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _glue(
            "cola",
            "sentence",
            None,
            ("unacceptable", "acceptable"),
            metrics=("matthews_correlation", "accuracy"),
        ),
        _glue("sst2", "sentence", None, ("negative", "positive")),
        _glue("mrpc", "sentence1", "sentence2", _EQUIVALENT, metrics=("f1", "accuracy")),
        _glue("stsb", "sentence1", "sentence2", (), **_CORRELATION),
        _glue("qqp", "question1", "question2", ("not_duplicate", "duplicate"), metrics=("f1", "accuracy")),
        _glue("mnli", "premise", "hypothesis", _THREE_WAY, validation="validation_matched"),
        _glue("qnli", "question", "sentence", _ENTAILMENT),
        _glue("rte", "sentence1", "sentence2", _ENTAILMENT),
        _glue("wnli", "sentence1", "sentence2", ("not_entailment", "entailment")),
        Task("sick-relatedness", *_SICK, label="relatedness_score", **_CORRELATION),
        Task("sick-entailment", *_SICK, label_names=_THREE_WAY),
        Task(
            "imdb",
            "stanfordnlp/imdb",
            "plain_text",
            "text",
            None,
            validation=None,
            label_names=("neg", "pos"),
        ),
        Task("listops", "local/listops", None, "text", None),
        Task("novel-author", "local/novel-author-32k", None, "text", None, metrics=("accuracy", "macro_f1")),
        Task(
            "quickstart-topics",
            quickstart.NAME,
            None,
            "text",
            None,
            "topic",
            metrics=("accuracy", "macro_f1"),
        ),
    )
}
