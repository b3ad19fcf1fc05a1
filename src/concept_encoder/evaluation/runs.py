"""What runs on tasks leave behind, read back: scores, baselines, and the held-out predictions that tests need.

A run's folder holds `result.json` (`task`, `kind`, `scores`, `baselines`, `controls`, `examples`), `recipe.yaml`
(seed, checkpoint) and `predictions.json`: `labels` and `predictions` in the order of the held-out examples, with
`label_names` where there are classes. Any verb that writes these is compared like `finetune`. A seed that diverged
leaves `diverged.json` in place of a result: the scores of the others do not stand for it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from concept_encoder.errors import UserError
from concept_encoder.evaluation.metrics import why_undefined
from concept_encoder.evaluation.run_files import (
    Predictions,
    Recipe,
    Scores,
    read_diverged,
    read_json,
    read_predictions,
    read_recipe,
    read_result,
)

DIVERGED = "diverged.json"


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
    if "" in folders:  # as a path it is the working folder
        raise UserError("RUN: is empty; name the folder of a run")
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
    results = [(path, read_json(path / "result.json")) for path in _run_folders(folder)]
    runs = [_run(path, result) for path, result in results if _has_scores(result)]
    if not runs and results:
        verb = results[0][1].get("verb", "another verb")
        raise UserError(f"{folder}: holds no scores of a task, but a result of {verb}; give folders of finetune runs")
    if not runs:
        raise UserError(f"{folder}: holds no result.json; has the run finished?")
    return runs


def check_same_examples(runs: Sequence[Run]) -> None:
    """Raises `UserError` for runs on one task of two kinds, or not scored on the same classes and held-out examples."""
    for one, other in pairwise(runs):
        if one.kind != other.kind:
            raise UserError(
                f"{other.folder}: {other.task} is {other.kind}, in {one.folder} {one.kind}; compare like runs"
            )
    first, *others = [run for run in runs if run.predictions is not None] or [None]
    for run in others:
        if _classes_differ(run.predictions, first.predictions):
            raise UserError(
                f"{run.folder}: has other classes of {run.task}, or in another order, than {first.folder}; "
                "compare runs with the same label_names"
            )
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


def _classes_differ(one: Predictions, other: Predictions) -> bool:
    return None not in (one.label_names, other.label_names) and one.label_names != other.label_names


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
    found = [read_diverged(path / DIVERGED) for path in _run_folders(folder, DIVERGED)]
    return dict(Counter(task for tasks in found for task in tasks))


def _run(folder: Path, found: dict[str, Any]) -> Run:
    result = read_result(folder / "result.json", found)
    recipe = read_recipe(folder / "recipe.yaml")
    predictions = read_predictions(folder / "predictions.json", result)
    return Run(folder, **vars(result), seed=recipe.seed, checkpoint=_origin(folder, recipe), predictions=predictions)


def _has_scores(result: dict[str, Any]) -> bool:
    return "task" in result and "scores" in result


def _origin(folder: Path, recipe: Recipe) -> str | None:
    """The checkpoint of a recipe, or that of the fine-tuned run which it names; an evaluation has that run beside it,
    wherever the evaluation was moved."""
    checkpoint = recipe.checkpoint
    for place in (Path(checkpoint), folder.resolve().parent / Path(checkpoint).name) if checkpoint else ():
        if before := read_recipe(place / "recipe.yaml").checkpoint:
            return before
    return checkpoint


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
