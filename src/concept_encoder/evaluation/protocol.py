"""The protocol of `concept-encoder evaluate`: which runs are made, which learning rate is chosen, what is still to do.

Every task gets the same grid of learning rates, run with the first seed. The rate with the best score on a part cut
from the training side is run with all seeds; the held-out side is never chosen on.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from concept_encoder.data.tasks.table import TASKS
from concept_encoder.errors import UserError, nearest
from concept_encoder.model.pooling import CLASSIFIER_HEADS
from concept_encoder.records import FREE_TO_CHANGE
from concept_encoder.settings import set_fields

# From what BERT-Base needs to what encoders of a few million parameters do: one grid, so that sizes can be compared.
LEARNING_RATES = (3e-5, 1e-4, 3e-4, 1e-3)
SEEDS = 5  # fewer settle nothing, see `statistics.MIN_SEEDS`
FIXED: dict[str, dict[str, Any]] = {
    "data": {"max_length": 128, "selection_fraction": 0.1},
    "training": {"epochs": 10, "patience": 3, "batch_size": 32, "schedule": "linear", "adam_beta2": 0.999},
}
LARGE, EPOCHS_OF_LARGE = ("sst2", "qqp", "mnli", "qnli"), 3
AFTER_MNLI = ("rte", "mrpc", "stsb")  # of MosaicBERT, ModernBERT and RoBERTa's dev row
MNLI_FIRST = "mnli-first"
ALSO = {"mnli-mm": "mnli", "hans": "mnli"}  # one model, several held-out sides
_OWNED = {
    "model.checkpoint": "the argument CHECKPOINT",
    "model.classifier_head": "--head",
    "data.task": "--task",
    "training.learning_rate": "--learning-rate",
    "training.seed": "--seeds",
    "training.output_dir": "--output",
    "training.max_steps": "training.epochs",
}


@dataclass(frozen=True)
class Protocol:
    """What is asked of a checkpoint.

    Attributes:
        tasks: names of `TASKS`; a file's name when `fields` has `data.train`.
        heads: classifier heads, each a system of its own.
        seeds: how many, from 0.
        mnli_first: the tasks `AFTER_MNLI` once more, from the checkpoints fine-tuned on MNLI: systems of their own.
        fields: `section.field` -> value, on top of `FIXED`, the same for all runs.
    """

    tasks: tuple[str, ...]
    heads: tuple[str, ...]
    learning_rates: tuple[float, ...] = LEARNING_RATES
    seeds: int = SEEDS
    mnli_first: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.fields:
            if name in _OWNED:
                raise UserError(f"--set: {name} belongs to the protocol; use {_OWNED[name]}")
        if self.fields.get("data.selection_fraction", FIXED["data"]["selection_fraction"]) is None:
            raise UserError("--set: data.selection_fraction is what rates are chosen on; give a share, such as 0.1")
        if not self.tasks:
            raise UserError("--task: name a task, or --suite glue")
        if self.own_files:
            self._check_own_name()
        for task in self.tasks:
            if task not in TASKS and not self.own_files:
                raise UserError(f"--task: no task {task!r}; {nearest(task, TASKS)}")
        for rate in self.learning_rates:
            if not 0 < rate < 1:
                raise UserError(f"--learning-rate: {rate} is not between 0 and 1; 3e-5 to 1e-3 are usual")
        for option, values in (
            ("--learning-rate", self.learning_rates),
            ("--head", self.heads),
            ("--task", self.tasks),
        ):
            if len(set(values)) < len(values):
                raise UserError(f"{option}: {max(values, key=values.count)} is given twice")
        for head in self.heads:
            if _separate(head) and not any(map(self._has_pairs, self.tasks)):
                raise UserError(
                    f"--head: {head} encodes two texts apart, and no task here has two; choose another head"
                )
        if self.mnli_first and not ("mnli" in self.tasks and set(AFTER_MNLI) & set(self.tasks)):
            raise UserError(f"--mnli-first: needs mnli and one of {', '.join(AFTER_MNLI)} among the tasks; add --task")

    def _check_own_name(self) -> None:
        """Files of one's own are one task, whose name becomes that of a folder (one with a dot in front is hidden)."""
        if len(self.tasks) > 1:
            raise UserError(
                f"--task: data.train is one task, and {len(self.tasks)} are named; give one --task, or none"
            )
        name = self.tasks[0]
        if not name or name.startswith(".") or set(name) & set("/\\\0"):
            raise UserError(f"--task: {name!r} cannot name a folder; give a name without / and no dot in front")

    @property
    def own_files(self) -> bool:
        return "data.train" in self.fields

    def cells(self) -> Iterator["Cell"]:
        """Every system on every task that is trained on, what others start from first."""
        for task in self.tasks:
            for head in self.heads if ALSO.get(task) not in self.tasks else ():
                if not (_separate(head) and not self._has_pairs(task)):
                    yield Cell(task, head)
        for task in self.tasks if self.mnli_first else ():
            if task in AFTER_MNLI:
                yield from (Cell(task, head, after_mnli=True) for head in self.heads)

    def sections(self, cell: "Cell") -> dict[str, Any]:
        """The recipe of a cell's runs, without checkpoint, rate and seed."""
        fields = {} if self.own_files else {"data.task": cell.task}
        if also := [task for task in self.tasks if ALSO.get(task) == cell.task]:
            fields["data.also"] = also
        if cell.task in LARGE:
            fields["training.epochs"] = EPOCHS_OF_LARGE
        return set_fields(FIXED, {**fields, **self.fields, "model.classifier_head": cell.head})

    def _has_pairs(self, task: str) -> bool:
        return "data.text_pair" in self.fields if self.own_files else TASKS[task].text_pair is not None


@dataclass(frozen=True)
class Cell:
    """One system on one task: the runs among which a rate is chosen, and those of the other seeds."""

    task: str
    head: str
    after_mnli: bool = False

    @property
    def system(self) -> str:
        """The folder of its runs. Heads, and starts from MNLI, are never mixed."""
        return f"{self.head}-{MNLI_FIRST}" if self.after_mnli else self.head


@dataclass(frozen=True)
class Run:
    """One fine-tuning.

    Attributes:
        start: the content of the checkpoint that it starts from, as a hash.
        sections: its recipe without `training.output_dir`.
        whole: the same with every default, and what the rows of its data are.
    """

    cell: Cell
    rate: float
    seed: int
    start: str
    sections: Mapping[str, Any] = field(repr=False)
    whole: Mapping[str, Mapping[str, Any]] = field(repr=False)

    @property
    def identity(self) -> str:
        """A hash of all that decides its weights and numbers; what else they are scored on (`data.also`) does not."""
        free = {"model": {"checkpoint"}, "data": {"also"}, "training": FREE_TO_CHANGE}
        content: dict[str, Any] = {
            section: {name: value for name, value in fields.items() if name not in free.get(section, ())}
            for section, fields in self.whole.items()
        }
        content["start"] = self.start
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        return f"{self.cell.task}.{self.cell.system}.{self.rate:g}.s{self.seed}-{self.identity[:10]}"


def choose(scores: Mapping[float, Mapping[str, Any]]) -> float:
    """The rate of the best selection: the highest main metric, of equals the lower loss, then the lower rate.

    Args:
        scores: of each rate, the field `selection` of its run's result. An undefined score is below all others.
    """

    def rank(rate: float) -> tuple[float, float, float]:
        found = scores[rate]
        score, loss = found["scores"].get(found["metric"]), found["loss"]
        return -math.inf if score is None else score, -loss if math.isfinite(loss) else -math.inf, -rate

    return max(scores, key=rank)


def content_of(checkpoint: Path) -> str:
    """A hash of a checkpoint's configuration, tokenizer and weights: moved, it is the same checkpoint."""
    digest = hashlib.sha256()
    names = ("config.json", "tokenizer.json", "vocab.txt")
    files = [checkpoint / name for name in names if (checkpoint / name).is_file()]
    for file in [*files, *sorted([*checkpoint.glob("*.safetensors"), *checkpoint.glob("pytorch_model*.bin")])]:
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def _separate(head: str) -> bool:
    return head in CLASSIFIER_HEADS and CLASSIFIER_HEADS[head].separate_texts
