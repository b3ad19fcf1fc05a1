import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from concept_encoder.evaluation.metrics import compute_all

METRICS = {
    "mrpc": ("f1", "accuracy"),
    "rte": ("accuracy",),
    "stsb": ("pearson", "spearman"),
}


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes the folder that a run on a task leaves: `write_run("mine/rte/1", "rte", labels, predictions, seed)`."""

    def write(name: str, task: str, labels, predictions, seed: int = 0, **changes) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        guess = np.full(len(labels), labels.mean() if task == "stsb" else np.bincount(labels).argmax())
        result = {
            "verb": "finetune",
            "task": task,
            "kind": "regression" if task == "stsb" else "classification",
            "examples": {"train": 100, "validation": len(labels)},
            "baselines": {"majority class": compute_all(METRICS[task], guess, labels)},
            "scores": compute_all(METRICS[task], predictions, labels),
            "controls": {"concepts zeroed": compute_all(METRICS[task], guess, labels)},
            **changes,
        }
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "predictions.json").write_text(
            json.dumps({"labels": labels.tolist(), "predictions": predictions.tolist(), "label_names": None})
        )
        recipe = {"model": {"checkpoint": "runs/mine"}, "training": {"seed": seed}}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return folder

    return write


@pytest.fixture
def write_system(write_run: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes the runs of one system on MRPC-like labels: `write_system("mine", share_right=0.8, seeds=5)`."""

    def write(name: str, share_right: float, seeds: int, task: str = "mrpc", examples: int = 200) -> Path:
        labels = (np.arange(examples) < 0.68 * examples).astype(int)
        rng = np.random.default_rng(len(name))
        hard = rng.permutation(examples)
        for seed in range(seeds):
            right = (hard + rng.normal(0, 5, examples)) / examples < share_right
            write_run(f"{name}/{task}/{seed}", task, labels, np.where(right, labels, 1 - labels), seed)
        return tmp_path / name

    return write
