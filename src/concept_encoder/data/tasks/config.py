"""The section `data` of a fine-tuning recipe."""

from dataclasses import dataclass

from concept_encoder.data.tasks.table import TASKS, Kind
from concept_encoder.errors import nearest


@dataclass(frozen=True)
class TaskConfig:
    """The `data` section of a fine-tuning recipe: a named task, or files of your own.

    Attributes:
        task: a name of `TASKS`; leave it out when `train` is given.
        train: a file or folder of your own.
        validation: the held-out file beside `train`; with a named task, the split to score on.
        text: the column of the text, or of the words for token classification (own files).
        text_pair: the column of the second text, for tasks on pairs (own files).
        label: the column of the label, or of one tag a word for token classification (own files).
        label_names: names of the classes, where the column holds their places in this list (own files).
        kind: classification, regression or token_classification (own files).
        validation_fraction: share of the training rows held out, by a hash of their text, if nothing else is.
        selection_fraction: share of the training rows kept aside, by another hash of their (first) text, to choose the
            checkpoint on; the held-out side is scored once, then.
        also: other named tasks with the same labels, or fewer that theirs are merged into, whose scored split the same
            model is scored on too: with mnli, `[mnli-mm, hans]`.
        max_length: longest input in tokens; more is cut off.
        max_examples: use no more than so many examples of each side, chosen by a hash of their text.
    """

    task: str | None = None
    train: str | None = None
    validation: str | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    label_names: list[str] | None = None
    kind: Kind = "classification"
    validation_fraction: float = 0.1
    selection_fraction: float | None = None
    also: list[str] | None = None
    max_length: int = 128
    max_examples: int | None = None

    def __post_init__(self) -> None:
        for name in ("train", "validation"):
            if getattr(self, name) == "":
                raise ValueError(f"{name}: is empty; name a file, or leave it out")
        if (self.task is None) == (self.train is None):
            raise ValueError("task: name a task, or give your own files as train (and validation)")
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"task: no task {self.task!r}; {nearest(self.task, TASKS)}")
        for name in self.also or ():
            self._check_also(name)
        if self.kind == "token_classification" and self.text_pair is not None:
            raise ValueError("text_pair: tags belong to the words of one text; leave it out")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction: {self.validation_fraction} is not inside (0, 1); try 0.1")
        if self.selection_fraction is not None and not 0 < self.selection_fraction < 1:
            raise ValueError(f"selection_fraction: {self.selection_fraction} is not inside (0, 1); try 0.1")
        if self.max_length < 4:
            raise ValueError(f"max_length: {self.max_length} is too short; give 4 tokens or more")
        if self.max_examples is not None and self.max_examples < 1:
            raise ValueError(f"max_examples: {self.max_examples} is below 1; leave it out to use all")

    def _check_also(self, name: str) -> None:
        if name not in TASKS:
            raise ValueError(f"also: no task {name!r}; {nearest(name, TASKS)}")
        if self.task is None:
            raise ValueError("also: stands beside a named task; give task")
        task, other = TASKS[self.task], TASKS[name]
        if task.kind == "classification" and task.label_names is None:
            raise ValueError(f"also: the classes of {self.task} are those of its rows, so no other task has the same")
        alike = task.label_names in (other.label_names, tuple(other.merges or ()))
        alike &= (task.kind, task.text_pair is None) == (other.kind, other.text_pair is None)
        if not alike or other.validation is None:
            raise ValueError(f"also: {name} has other labels or texts than {self.task}, or no split to score on")
        if name == self.task or self.also.count(name) > 1:
            raise ValueError(f"also: {name} is scored already; name it once")
