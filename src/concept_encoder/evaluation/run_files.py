"""The files of a run on a task, read strictly: shapes and numbers are checked here, and nowhere after.

What a file may hold is described in `runs.py`. Anything else is one `UserError`: "FILE: damaged: WHAT; REMEDY".
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from concept_encoder.data.tasks.table import Kind
from concept_encoder.errors import UserError, shown
from concept_encoder.evaluation.metrics import METRICS

Scores = dict[str, float | None]
SIGNED = ("matthews_correlation", "pearson", "spearman")  # from -1 to 1; all others from 0
MOST_CLASSES = 10_000  # where no names say how many there are


@dataclass(frozen=True)
class Result:
    """What `result.json` says of a task; `examples` is how many were held out, 0 where it does not say."""

    task: str
    kind: str
    scores: Scores
    baselines: dict[str, Scores]
    controls: dict[str, Scores]
    examples: int


@dataclass(frozen=True)
class Recipe:
    """What `recipe.yaml` says of a run; both None where it does not say, or is not there."""

    seed: int | None = None
    checkpoint: str | None = None


@dataclass(frozen=True)
class Predictions:
    """Of each held-out example: the label and what the run predicted; where words are labelled, a list of each."""

    labels: list[Any]
    predictions: list[Any]
    label_names: list[str] | None


def read_json(file: Path) -> dict[str, Any]:
    """The fields of a JSON file."""
    return _fields(file, json.loads, "JSON")


def read_result(file: Path, found: dict[str, Any]) -> Result:
    """The fields of a `result.json`, checked."""
    task, kind = found.get("task"), found.get("kind", "classification")
    if not isinstance(task, str) or not task:
        raise _damaged(file, f"task is {shown(task)}, expected a name")
    if kind not in get_args(Kind):
        raise _damaged(file, f"kind is {shown(kind)}, expected one of {', '.join(get_args(Kind))}")
    examples = _mapping(file, "examples", found.get("examples")).get("validation", 0)
    if not _is_whole(examples):
        raise _damaged(file, f"examples.validation is {shown(examples)}, expected a count")
    beside = {
        side: {
            name: _scores(file, f"{side}.{name}", scores)
            for name, scores in _mapping(file, side, found.get(side)).items()
        }
        for side in ("baselines", "controls")
    }
    scores = _scores(file, "scores", found["scores"])
    return Result(task, kind, scores, **beside, examples=examples)


def read_recipe(file: Path) -> Recipe:
    """Seed and checkpoint of a `recipe.yaml`; neither where there is none."""
    if not file.is_file():
        return Recipe()
    found = _fields(file, yaml.safe_load, "YAML")
    seed = _mapping(file, "training", found.get("training")).get("seed")
    checkpoint = _mapping(file, "model", found.get("model")).get("checkpoint")
    if seed is not None and not _is_whole(seed):
        raise _damaged(file, f"training.seed is {shown(seed)}, expected a whole number from 0")
    if checkpoint is not None and not (isinstance(checkpoint, str) and checkpoint):
        raise _damaged(file, f"model.checkpoint is {shown(checkpoint)}, expected a name")
    return Recipe(seed, checkpoint)


def read_predictions(file: Path, result: Result) -> Predictions | None:
    """Labels and predictions, one each for the held-out examples of `result`; None where there is no file."""
    if not file.is_file():
        return None
    found = read_json(file)
    names = found.get("label_names")
    if names is not None and not (_is_list_of_text(names) and names and len(set(names)) == len(names)):
        raise _damaged(file, f"label_names is {shown(names)}, expected a list of different names")
    if names is None and "entity_f1" in result.scores:
        raise _damaged(file, "label_names is missing, and entity_f1 is made of them")
    labels, predictions = (
        _values(file, name, found.get(name), result.kind, names) for name in ("labels", "predictions")
    )
    pairs = [("", predictions, labels)]
    if result.kind == "token_classification":
        pairs += [(f" in text {i}", *pair) for i, pair in enumerate(zip(predictions, labels))]
    for where, side, asked in pairs:
        if len(side) != len(asked):
            raise _damaged(file, f"holds {len(side)} predictions for {len(asked)} labels{where}")
    if result.examples not in (0, len(labels)):
        raise _damaged(file, f"holds {len(labels)} labels, but result.json counts {result.examples} examples")
    return Predictions(labels, predictions, names)


def read_diverged(file: Path) -> list[str]:
    """The tasks of a run that diverged."""
    tasks = read_json(file).get("tasks", [])
    if not _is_list_of_text(tasks):
        raise _damaged(file, f"tasks is {shown(tasks)}, expected a list of names")
    return tasks


def _damaged(file: Path, what: str) -> UserError:
    return UserError(f"{file}: damaged: {what}; give the run again in a new folder")


def _fields(file: Path, parse: Callable[[str], Any], language: str) -> dict[str, Any]:
    try:
        found = parse(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError):
        raise _damaged(file, f"is not {language}") from None
    if not isinstance(found, dict):
        raise _damaged(file, f"holds {shown(found)}, expected fields")
    return found


def _mapping(file: Path, name: str, found: Any) -> dict[str, Any]:
    """A section of a file; empty where it is left out."""
    if found is not None and not isinstance(found, dict):
        raise _damaged(file, f"{name} is {shown(found)}, expected fields")
    return found or {}


def _scores(file: Path, where: str, found: Any) -> Scores:
    if not isinstance(found, dict):
        raise _damaged(file, f"{where} is {shown(found)}, expected fields")
    for name, value in found.items():
        if name not in (*METRICS, "entity_f1"):
            raise _damaged(file, f"{where}.{name} is no metric")
        low = -1 if name in SIGNED else 0
        if value is not None and not (_is_number(value) and low - 1e-9 <= value <= 1 + 1e-9):
            raise _damaged(file, f"{where}.{name} is {shown(value)}, expected a number from {low} to 1 or null")
    return found


def _values(file: Path, name: str, found: Any, kind: str, names: Sequence[str] | None) -> list[Any]:
    """The labels or the predictions: numbers; or classes, below the number of names; or lists of classes."""
    if not isinstance(found, list) or not found:
        raise _damaged(file, f"{name} is {shown(found)}, expected a list of what each example has")
    texts = [(name, found)]
    if kind == "token_classification":
        texts = [(f"{name}[{i}]", text) for i, text in enumerate(found)]
        if not any(found):
            raise _damaged(file, f"{name} has no word")
    classes = MOST_CLASSES if names is None else len(names)
    for where, values in texts:
        if not isinstance(values, list):
            raise _damaged(file, f"{where} is {shown(values)}, expected a list with a class for each word")
        for i, value in enumerate(values):
            if kind == "regression" and not _is_number(value):
                raise _damaged(file, f"{where}[{i}] is {shown(value)}, expected a number")
            if kind != "regression" and not (_is_whole(value) and value < classes):
                raise _damaged(file, f"{where}[{i}] is {shown(value)}, expected a class from 0 to {classes - 1}")
    return found


def _is_number(value: Any) -> bool:
    """Neither true nor false, not NaN, and no more than arithmetic on it can bear."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value) and value >= 0


def _is_list_of_text(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(item, str) for item in found)
