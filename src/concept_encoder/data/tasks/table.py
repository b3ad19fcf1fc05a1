"""The tasks that are known by name, as one table. To add a task, add a row to `TASKS`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from concept_encoder.data import quickstart

Kind = Literal["classification", "regression", "token_classification"]


@dataclass(frozen=True)
class Task:
    """Where a task's rows are, what their columns mean, and how it is scored (by the first metric above all).

    Attributes:
        train: the split to train on; `config/split` where another config of the data set holds it.
        validation: the split to score on. None: there is none, part of the training rows is held out by a hash.
        label_names: in the order of the data set's integers.
        merges: its class for each class of a model that was trained on more of them (`data.also`).
        sizes: labelled rows of the official training and scored splits, as the hub has them; None where not known.
        majority: share of the commonest class in the official scored split; None where not known.
    """

    name: str
    source: str
    config: str | None
    text: str
    text_pair: str | None
    label: str = "label"
    kind: Kind = "classification"
    metrics: tuple[str, ...] = ("accuracy",)
    train: str = "train"
    validation: str | None = "validation"
    label_names: tuple[str, ...] | None = None
    merges: Mapping[str, str] | None = None
    sizes: tuple[int, int] | None = None
    majority: float | None = None


def _glue(name: str, text: str, text_pair: str | None, label_names: tuple[str, ...], **options: Any) -> Task:
    return Task(name, "nyu-mll/glue", name, text, text_pair, label_names=label_names or None, **options)


_ENTAILMENT = ("entailment", "not_entailment")
_THREE_WAY = ("entailment", "neutral", "contradiction")
_ENTAILED_OR_NOT = {"entailment": "entailment", "neutral": "non-entailment", "contradiction": "non-entailment"}
_EQUIVALENT = ("not_equivalent", "equivalent")
_CORRELATION = {"kind": "regression", "metrics": ("pearson", "spearman")}
_SICK = ("RobZamp/sick", "default", "sentence_A", "sentence_B")
_MNLI = ("nyu-mll/glue", "mnli", "premise", "hypothesis")

# Sizes: the data sets' cards on the hub. Majority: counts of the scored split as their papers give them: GLUE and its
# test of guesses (arXiv:1804.07461), SNLI (arXiv:1508.05326), HANS (arXiv:1902.01007), PAWS (arXiv:1904.01130), IMDB
# (balanced by construction), TREC-6 (138 of the 500 test questions ask for a description).
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _glue(
            "cola",
            "sentence",
            None,
            ("unacceptable", "acceptable"),
            metrics=("matthews_correlation", "accuracy"),
            sizes=(8551, 1043),
            majority=0.691,
        ),
        _glue("sst2", "sentence", None, ("negative", "positive"), sizes=(67349, 872), majority=0.509),
        _glue(
            "mrpc",
            "sentence1",
            "sentence2",
            _EQUIVALENT,
            metrics=("f1", "accuracy"),
            sizes=(3668, 408),
            majority=0.684,
        ),
        _glue("stsb", "sentence1", "sentence2", (), **_CORRELATION, sizes=(5749, 1500)),
        _glue(
            "qqp",
            "question1",
            "question2",
            ("not_duplicate", "duplicate"),
            metrics=("f1", "accuracy"),
            sizes=(363846, 40430),
            majority=0.632,
        ),
        Task("mnli", *_MNLI, validation="validation_matched", label_names=_THREE_WAY, sizes=(392702, 9815),
             majority=0.354),
        Task("mnli-mm", *_MNLI, validation="validation_mismatched", label_names=_THREE_WAY, sizes=(392702, 9832),
             majority=0.352),
        _glue("qnli", "question", "sentence", _ENTAILMENT, sizes=(104743, 5463), majority=0.505),
        _glue("rte", "sentence1", "sentence2", _ENTAILMENT, sizes=(2490, 277), majority=0.527),
        _glue("wnli", "sentence1", "sentence2", ("not_entailment", "entailment"), sizes=(635, 71), majority=0.563),
        # the hub keeps the labels of the diagnostics back (-1): it can be scored where a local copy has them
        _glue("ax", "premise", "hypothesis", _THREE_WAY, metrics=("matthews_correlation", "accuracy"),
              train="mnli/train", validation="test", sizes=(392702, 1104)),
        Task("snli", "stanfordnlp/snli", "plain_text", "premise", "hypothesis", label_names=_THREE_WAY,
             sizes=(549367, 9842), majority=0.338),
        Task("hans", "jhu-cogsci/hans", "plain_text", "premise", "hypothesis",
             label_names=("entailment", "non-entailment"), merges=_ENTAILED_OR_NOT, sizes=(30000, 30000), majority=0.5),
        Task("paws", "google-research-datasets/paws", "labeled_final", "sentence1", "sentence2",
             metrics=("f1", "accuracy"), label_names=("different", "paraphrase"), sizes=(49401, 8000), majority=0.558),
        Task("sick-relatedness", *_SICK, label="relatedness_score", **_CORRELATION, sizes=(4439, 495)),
        Task("sick-entailment", *_SICK, label_names=_THREE_WAY, sizes=(4439, 495)),
        Task("imdb", "stanfordnlp/imdb", "plain_text", "text", None, validation="test", label_names=("neg", "pos"),
             sizes=(25000, 25000), majority=0.5),
        Task("trec", "CogComp/trec", "default", "text", None, "coarse_label", metrics=("accuracy", "macro_f1"),
             validation="test", label_names=("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"), sizes=(5452, 500),
             majority=0.276),
        Task("listops", "local/listops", None, "text", None),
        Task("novel-author", "local/novel-author-32k", None, "text", None, metrics=("accuracy", "macro_f1")),
        Task("quickstart-topics", quickstart.NAME, None, "text", None, "topic", metrics=("accuracy", "macro_f1")),
    )
}  # fmt: skip

# Benchmarks by name: GLUE without WNLI, the eight tasks of most tables (AVG8-acc).
SUITES: dict[str, tuple[str, ...]] = {"glue": ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")}
