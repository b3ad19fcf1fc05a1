"""What runs on tasks leave behind, read back: scores, baselines, and the held-out predictions that tests need.

A run's folder holds `result.json` (`task`, `kind`, `scores`, `baselines`, `controls`, `examples`), `recipe.yaml`
(seed, checkpoint) and `predictions.json`: `labels` and `predictions` in the order of the held-out examples, with
`label_names` where there are classes. Any verb that writes these is compared like `finetune`. A seed that diverged
leaves `diverged.json` in place of a result: the scores of the others do not stand for it.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from concept_encoder.errors import UserError
from concept_encoder.evaluation.metrics import why_undefined

Scores = dict[str, float | None]
DIVERGED = "diverged.json"


@dataclass(frozen=True)
class Predictions:
    """Of each held-out example: the label and what the run predicted; where words are labelled, a list of each."""

    labels: list[Any]
    predictions: list[Any]
    label_names: list[str] | None


@dataclass(frozen=True)
class Run:
    """One run on one task.

    Attributes:
        checkpoint: what it was fine-tuned from; where that was itself fine-tuned (MNLI first), what that one was.
        predictions: None where the folder has none.
    """

    folder: Path
    task: str
    kind: str
    seed: int | None
    checkpoint: str | None
    scores: Scores
    baselines: dict[str, Scores]
    controls: dict[str, Scores]
    examples: int
    predictions: Predictions | None

    def why_undefined(self, metric: str) -> str:
        """The reason for which a score is None."""
        found = self.predictions
        if found is None or self.kind == "token_classification":
            return "undefined on these predictions"
        return why_undefined(metric, found.predictions, found.labels) or "undefined on these predictions"


@dataclass(frozen=True)
class System:
    """What is compared: the runs of one folder, of each task in the order of their seeds.

    Attributes:
        diverged: how many more seeds of a task have no score, as their training diverged.
    """

    name: str
    tasks: dict[str, list[Run]]
    diverged: dict[str, int] = field(default_factory=dict)

    def seeds(self, task: str) -> list[int | None]:
        return [run.seed for run in self.tasks[task]]


def read_systems(folders: Sequence[str | Path]) -> list[System]:
    """Each folder as a system, named by the shortest ends of their paths that tell them apart.

    Raises:
        UserError: a folder without a result, damaged files, two runs of one task and seed, the same folder twice.
    """
    paths = [Path(folder) for folder in folders]
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UserError(f"{path}: given twice; name each folder once")
        seen.add(path.resolve())
    return [System(name, _by_task(read_runs(path)), _diverged(path)) for name, path in zip(_names(paths), paths)]


def read_runs(folder: Path) -> list[Run]:
    """The run in `folder`, or all runs on tasks in the folders below it."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder")
    results = [(path, _read_json(path / "result.json")) for path in _run_folders(folder)]
    runs = [_run(path, result) for path, result in results if _has_scores(result)]
    if not runs and results:
        verb = results[0][1].get("verb", "another verb")
        raise UserError(f"{folder}: holds no scores of a task, but a result of {verb}; give folders of finetune runs")
    if not runs:
        raise UserError(f"{folder}: holds no result.json; has the run finished?")
    return runs


def check_same_examples(runs: Sequence[Run]) -> None:
    """Raises `UserError` for runs on one task that were not scored on the same held-out examples."""
    first, *others = [run for run in runs if run.predictions is not None] or [None]
    for run in others:
        if run.predictions.labels == first.predictions.labels:
            continue
        if run.kind == "token_classification" and _cut_elsewhere(run.predictions.labels, first.predictions.labels):
            raise UserError(
                f"{run.folder}: other words of {run.task} have a token within data.max_length than in {first.folder}, "
                "as their tokenizers or lengths differ; raise data.max_length until neither result.json has words "
                "cut_off"
            )
        raise UserError(
            f"{run.folder}: was scored on other held-out examples of {run.task} than {first.folder}; "
            "compare runs with the same data section"
        )


def _cut_elsewhere(labels: list[list[int]], others: list[list[int]]) -> bool:
    return len(labels) == len(others) and all(one[: len(two)] == two[: len(one)] for one, two in zip(labels, others))


def _run_folders(folder: Path, holding: str = "result.json") -> Iterator[Path]:
    """Folders with a result; what lies below one belongs to it, tasks that it was also scored on (`also`) included."""
    if (folder / holding).is_file():
        yield folder
        yield from sorted(file.parent for file in folder.glob(f"also/*/{holding}"))
        return
    for below in sorted(folder.iterdir()):
        if below.is_dir() and not below.name.startswith("."):
            yield from _run_folders(below, holding)


def _diverged(folder: Path) -> dict[str, int]:
    """Of each task, the runs that diverged (`diverged.json`: its `tasks`)."""
    found = [_read_json(path / DIVERGED) for path in _run_folders(folder, DIVERGED)]
    return dict(Counter(task for each in found for task in each.get("tasks", ())))


def _run(folder: Path, result: dict[str, Any]) -> Run:
    recipe = _read_recipe(folder / "recipe.yaml")
    predictions = _read_predictions(folder / "predictions.json")
    examples = (result.get("examples") or {}).get("validation", 0)
    if predictions is not None and examples and len(predictions.labels) != examples:
        count = len(predictions.labels)
        raise UserError(f"{folder}/predictions.json: {count} labels, but result.json counts {examples} examples")
    return Run(
        folder=folder,
        task=result["task"],
        kind=result.get("kind", "classification"),
        seed=(recipe.get("training") or {}).get("seed"),
        checkpoint=_origin(folder, recipe),
        scores=result["scores"],
        baselines=result.get("baselines") or {},
        controls=result.get("controls") or {},
        examples=examples,
        predictions=predictions,
    )


def _has_scores(result: dict[str, Any]) -> bool:
    return isinstance(result.get("task"), str) and isinstance(result.get("scores"), dict)


def _origin(folder: Path, recipe: dict[str, Any]) -> str | None:
    """The checkpoint of a recipe, or that of the fine-tuned run which it names; an evaluation has that run beside it,
    wherever the evaluation was moved."""
    checkpoint = (recipe.get("model") or {}).get("checkpoint")
    for place in (Path(checkpoint), folder.resolve().parent / Path(checkpoint).name) if checkpoint else ():
        before = (_read_recipe(place / "recipe.yaml").get("model") or {}).get("checkpoint")
        if before:
            return before
    return checkpoint


def _read_predictions(file: Path) -> Predictions | None:
    if not file.is_file():
        return None
    found = _read_json(file)
    labels, predictions = found.get("labels"), found.get("predictions")
    if not isinstance(labels, list) or not isinstance(predictions, list) or not labels:
        raise UserError(f"{file}: holds no lists of labels and predictions; give the run again in a new folder")
    pairs = [(predictions, labels)]
    if isinstance(labels[0], list):
        pairs += zip(predictions, labels)
    for side, asked in pairs:
        if len(side) != len(asked):
            raise UserError(f"{file}: {len(side)} predictions for {len(asked)} labels; give one each")
    flat = predictions if not isinstance(labels[0], list) else [value for text in predictions for value in text]
    if not np.isfinite(np.asarray(flat, float)).all():
        raise UserError(f"{file}: a prediction is not a number; has training diverged?")
    return Predictions(labels, predictions, found.get("label_names"))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{file}: damaged; delete it and give the run's command again")
    return found


def _read_recipe(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{file}: damaged; give the run again in a new folder")
    return found


def _by_task(runs: Sequence[Run]) -> dict[str, list[Run]]:
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault(run.task, []).append(run)
    for task, found in tasks.items():
        found.sort(key=lambda run: (run.seed is None, run.seed or 0))
        for one, other in pairwise(found):
            if one.seed == other.seed:
                raise UserError(
                    f"{other.folder}: has the task ({task}) and seed ({one.seed}) of {one.folder}; "
                    f"give folders that hold each once"
                )
            if list(one.scores) != list(other.scores):
                raise UserError(f"{other.folder}: has other metrics of {task} than {one.folder}; compare them apart")
        check_same_examples(found)
    return tasks


def _names(paths: Sequence[Path]) -> list[str]:
    for depth in range(1, max((len(path.resolve().parts) for path in paths), default=0) + 1):
        names = ["/".join(path.resolve().parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
