"""Published GLUE results as data: every score with its metric, split, source and the definition of its average.

All in points (x 100). A score that a source does not give is absent, never filled in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from concept_encoder.data.tasks.table import TASKS
from concept_encoder.errors import UserError, nearest


@dataclass(frozen=True)
class Published:
    """One row of somebody's table.

    Attributes:
        scores: `task.metric` -> points; `mnli` is the matched set, `mnli-mm` the other.
        split: `dev` or `test` of GLUE, or `babylm` for its vocabulary-filtered sets.
        source: where the numbers stand.
        read: `source` when they were read there, `secondary` when in another text that quotes them.
        average: the printed average and the name of its definition (`averages.AVERAGES`).
        note: what a reader has to know before comparing.
    """

    name: str
    title: str
    parameters: str
    split: Literal["dev", "test", "babylm"]
    scores: Mapping[str, float]
    source: str
    read: Literal["source", "secondary"]
    average: tuple[str, float] | None = None
    note: str = field(default="")


def published(name: str) -> Published:
    """The row of this name. Raises `UserError` with the valid names."""
    if name not in PUBLISHED:
        raise UserError(f"{name}: no published row of that name; {nearest(name, PUBLISHED)}")
    return PUBLISHED[name]


# Points of a guess that never reads the text (of F1, class 1 for every pair), and the examples of the GLUE dev sets
# where published rows come near it.
MAJORITY_DEV: dict[str, tuple[float, int]] = {
    "cola.matthews_correlation": (0.0, 1043),
    "mrpc.f1": (81.2, 408),
    "mrpc.accuracy": (68.4, 408),
    "qqp.f1": (53.8, 40430),
    "qqp.accuracy": (63.2, 40430),
    "rte.accuracy": (52.7, 277),
}

# Examples of GLUE's dev sets: a run on another number was scored on something else.
DEV_SIZES = {task.name: task.sizes[1] for task in TASKS.values() if task.source == "nyu-mll/glue"}

_COLUMNS = (
    "cola.matthews_correlation", "sst2.accuracy", "mrpc.f1", "mrpc.accuracy", "stsb.correlation", "qqp.f1",
    "qqp.accuracy", "mnli.accuracy", "mnli-mm.accuracy", "qnli.accuracy", "rte.accuracy",
)  # fmt: skip


def _row(values: str, stsb: str = "stsb.correlation", **more: float) -> dict[str, float]:
    """Scores in the order of `_COLUMNS`, `-` where the source has none. `stsb` names the correlation it gives."""
    found = {name: float(value) for name, value in zip(_COLUMNS, values.split(), strict=True) if value != "-"}
    return {stsb if name == "stsb.correlation" else name: value for name, value in found.items()} | more


def _miniature(name: str, title: str, parameters: str, average: float, values: str, pearson: float) -> Published:
    return Published(
        name,
        title,
        parameters,
        "test",
        _row(values, "stsb.spearman", **{"stsb.pearson": pearson}),
        "model card of google/bert_uncased_L-*; best of batch sizes 8 to 128 and rates 3e-5 to 3e-4, 4 epochs",
        "source",
        ("AVG9-leader", average),
        "its WNLI is not listed here, so the average cannot be recomputed",
    )


_GPT_BERT = "Charpentier and Samuel 2024, GPT-BERT, BabyLM challenge, Tables 1 and 5"
_BABYLM_NOTE = "BabyLM's own vocabulary-filtered sets: compare with BabyLM runs only"
_GLUE_PAPER = "GLUE baselines paper, Wang et al. 2019"
_PLAN = "ksopyla/MrCogito at bcf06ad, docs/2_Experiments_Registry and docs/3_Evaluations_and_Baselines"
_PERCEIVER_IO = "Jaegle et al. 2022, Perceiver IO, Tables 11 to 14"

# Columns:                     CoLA SST-2 MRPC-F1 -acc STS-B QQP-F1 -acc MNLI-m -mm QNLI RTE
PUBLISHED: dict[str, Published] = {
    row.name: row
    for row in (
        Published(
            "bert-base",
            "BERT-Base, plain fine-tuning",
            "110M",
            "dev",
            _row("59.4 92.5 91.3 87.5 88.1 - 90.4 83.9 84.3 88.5 69.3"),
            "naver/claf, pull request 15",
            "source",
            ("AVG8-acc", 82.5),
        ),
        Published(
            "bert-base-mnli",
            "BERT-Base, the plan's row",
            "110M",
            "dev",
            _row("59.0 93.1 - 89.5 89.4 - 91.4 85.4 - 91.6 78.2"),
            "ModernBERT paper, Table 5",
            "secondary",
            ("AVG8-acc", 84.7),
            "MRPC and QQP are accuracy; RTE, MRPC and STS-B most likely start from an MNLI checkpoint (RTE 78.2, plain "
            "fine-tuning 69.3)",
        ),
        Published(
            "bert-base-rerun",
            "BERT-Base, re-run by the authors of Perceiver IO",
            "110M",
            "dev",
            _row("50.3 94.0 - 85.8 88.0 - 91.1 85.6 85.7 92.7 61.7"),
            _PERCEIVER_IO,
            "source",
            ("AVG8-acc", 81.14),
        ),
        Published(
            "bert-base-test",
            "BERT-Base, test server",
            "110M",
            "test",
            _row("52.1 93.5 88.9 - 85.8 71.2 - 84.6 83.4 90.5 66.4", "stsb.spearman"),
            "Devlin et al. 2019, Table 1",
            "secondary",
            ("AVG8-test-F1", 79.6),
        ),
        Published(
            "electra-small",
            "ELECTRA-Small++",
            "14M",
            "dev",
            _row("57.0 91.2 - 88.0 87.5 - 89.0 81.3 - 88.4 66.7", "stsb.spearman"),
            "google-research/electra, README; median of many seeds",
            "source",
            ("AVG8-acc", 81.1),
        ),
        Published(
            "electra-small-owt",
            "ELECTRA-Small on OpenWebText",
            "14M",
            "dev",
            _row("56.8 88.3 - 87.4 86.8 - 88.3 78.9 - 87.9 68.5", "stsb.spearman"),
            "google-research/electra, README; median of many seeds",
            "source",
            ("AVG8-acc", 80.4),
        ),
        Published(
            "distilbert",
            "DistilBERT",
            "66M",
            "dev",
            _row("51.3 91.3 - 87.5 86.9 - 88.5 82.2 - 89.2 59.9"),
            "Sanh et al. 2019; median of 5 runs",
            "secondary",
            ("AVG8-acc", 79.6),
            "the paper prints 77.0, which is AVG9-dev (with WNLI), and does not name the metric of MRPC and QQP",
        ),
        Published(
            "perceiver-io",
            "Perceiver IO Base, 256 latents",
            "223M",
            "dev",
            _row("47.11 94.38 - 87.25 88.18 - 90.22 84.53 85.03 92.12 65.23"),
            _PERCEIVER_IO,
            "source",
            ("AVG8-acc", 81.16),
        ),
        _miniature(
            "bert-tiny", "BERT-Tiny", "4.4M", 64.2, "0.0 83.2 81.1 71.1 73.6 62.2 83.4 70.2 70.3 81.5 57.2", 74.3
        ),
        _miniature(
            "bert-mini", "BERT-Mini", "11M", 65.8, "0.0 85.9 81.1 71.8 73.3 66.4 86.2 74.8 74.3 84.1 57.9", 75.4
        ),
        _miniature(
            "bert-small", "BERT-Small", "29M", 71.2, "27.8 89.7 83.4 76.2 77.0 68.1 87.0 77.6 77.0 86.4 61.8", 78.8
        ),
        _miniature(
            "bert-medium", "BERT-Medium", "41M", 73.5, "38.0 89.6 86.6 81.6 78.4 69.6 87.9 80.0 79.1 87.7 62.2", 80.4
        ),
        Published(
            "gpt-bert-10m",
            "GPT-BERT, 10M words",
            "30M",
            "babylm",
            _row(
                "48.9 92.2 91.5 - - 87.1 - 80.2 80.5 86.4 64.0",
                **{"boolq.accuracy": 72.5, "multirc.accuracy": 69.3, "wsc.accuracy": 69.2},
            ),
            _GPT_BERT,
            "source",
            ("BabyLM-GLUE", 76.5),
            _BABYLM_NOTE,
        ),
        Published(
            "gpt-bert-100m",
            "GPT-BERT, 100M words",
            "119M",
            "babylm",
            _row(
                "62.4 94.0 94.4 - - 89.1 - 85.2 85.3 90.8 69.1",
                **{"boolq.accuracy": 78.4, "multirc.accuracy": 73.3, "wsc.accuracy": 75.0},
            ),
            _GPT_BERT,
            "source",
            ("BabyLM-GLUE", 81.5),
            _BABYLM_NOTE,
        ),
        Published(
            "cbow",
            "bag of GloVe vectors (CBoW)",
            "",
            "test",
            _row("0.0 80.0 81.5 73.4 61.2 51.4 79.1 56.0 56.4 72.1 54.1"),
            _GLUE_PAPER,
            "secondary",
        ),
        Published(
            "bilstm",
            "BiLSTM over GloVe, no pretraining",
            "",
            "test",
            _row("15.7 85.9 79.4 69.3 66.0 61.4 81.7 70.3 70.8 75.7 52.8"),
            _GLUE_PAPER,
            "secondary",
        ),
        Published(
            "plan",
            "the plan's best run: perceiver_mlm, H512 L6 C128",
            "61M",
            "dev",
            _row("13.0 77.5 81.3 71.1 62.7 72.5 79.0 59.1 61.4 74.0 56.7"),
            _PLAN,
            "source",
            None,
            "one seed a task; CoLA is given to two digits",
        ),
        Published(
            "plan-via-decoder",
            "the same with the head via_decoder",
            "61M",
            "dev",
            _row("- - 82.7 73.3 65.0 73.4 79.4 59.75 60.9 - -"),
            _PLAN,
            "source",
            None,
            "one seed a task",
        ),
    )
}
