"""A run's folder is its record: everything else is computed from it and can be thrown away.

`recipe.yaml` (resolved) · `environment.json` · `metrics.jsonl` (append-only, one JSON a line) · `result.json` ·
`predictions.json` (fine-tuning) · `checkpoints/`
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import yaml

from concept_encoder.environment import environment
from concept_encoder.errors import UserError
from concept_encoder.records import FREE_TO_CHANGE, read_metrics, write_atomically

# what may differ where a run goes on: how many of a step's texts are on a device at once is a question of memory
_MAY_DIFFER = FREE_TO_CHANGE | {"micro_batch_size"}


class RunFolder:
    """The folder of one recipe: of a new run, or of the same run again. Nothing is written before `begin`.

    Raises:
        UserError: the folder holds another run or other files.
    """

    def __init__(self, path: Path, recipe: dict[str, Any], seed: int):
        self.path, self.recipe, self.seed = path, recipe, seed
        self._check()

    def begin(self) -> None:
        """Write the recipe and the environment: from here on the folder is this run's. One process does it."""
        if int(os.environ.get("RANK", "0")):
            return
        self.path.mkdir(parents=True, exist_ok=True)
        recipe = yaml.safe_dump(self.recipe, sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "recipe.yaml", recipe)  # of a run that goes on: as it goes on
        self.write_json("environment.json", {**environment(), "seed": self.seed})
        metrics = self.path / "metrics.jsonl"
        if metrics.is_file() and not metrics.read_bytes().endswith(b"\n"):
            with open(metrics, "a", encoding="utf-8") as file:  # a kill cut the last line: close it, lose no other
                file.write("\n")

    @property
    def result(self) -> dict[str, Any] | None:
        """The final numbers, if the run has finished. Raises `UserError` when the file is damaged."""
        file = self.path / "result.json"
        try:
            return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        except json.JSONDecodeError:
            raise UserError(f"{file}: damaged; delete it and give the same command again") from None

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl; a kill loses at most the line being written."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({**record, "time": round(time.time(), 3)}) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All records, the last one of a step counting; a line cut short by a kill is left out."""
        return read_metrics(self.path)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a small file whole or not at all."""
        write_atomically(self.path / name, json.dumps(content, indent=2, default=str) + "\n")

    def _check(self) -> None:
        file = self.path / "recipe.yaml"
        if file.is_file():
            finished = (self.path / "result.json").is_file()
            difference = _first_difference(_read_recipe(file), self.recipe, finished)
            if difference:
                raise UserError(
                    f"training.output_dir: {self.path} holds another run ({difference}); choose another folder"
                )
        elif self.path.exists() and (not self.path.is_dir() or any(map(_visible, self.path.iterdir()))):
            raise UserError(f"training.output_dir: {self.path} holds something else than a run; choose an empty folder")


def _visible(file: Path) -> bool:
    """Not a file that another process of the same run is about to put in place."""
    return not file.name.startswith(".")


def _read_recipe(file: Path) -> dict[str, Any]:
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        recipe = None
    if not isinstance(recipe, dict) or not all(isinstance(section, dict) for section in recipe.values()):
        raise UserError(f"training.output_dir: {file} is damaged; choose another folder")
    return recipe


def _first_difference(old: dict[str, Any], new: dict[str, Any], finished: bool) -> str | None:
    free = {("training", field) for field in _MAY_DIFFER}
    if not finished:  # what else a model is scored on is read at the end
        free.add(("data", "also"))
    if _origin(old) == _origin(new) is not None:
        free.add(("model", "checkpoint"))
    for section in {**old, **new}:
        before, after = old.get(section) or {}, new.get(section) or {}
        for field in {**before, **after}:
            if before.get(field) != after.get(field) and (section, field) not in free:
                return f"its {section}.{field} is {before.get(field)!r}, not {after.get(field)!r}"
    return None


def _origin(recipe: dict[str, Any]) -> str | None:
    """The checkpoint that a run starts from, as seen from the run: the same when both were moved together."""
    checkpoint = (recipe.get("model") or {}).get("checkpoint")
    folder = (recipe.get("training") or {}).get("output_dir")
    return os.path.relpath(str(checkpoint), str(folder)) if checkpoint and folder else None
