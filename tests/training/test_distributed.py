"""Two processes train as one does, and a run may change their number."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from concept_encoder.model.loading import list_checkpoints
from concept_encoder.training.pretrain import PretrainRecipe, pretrain
from concept_encoder.training.run_folder import read_metrics

DRIVER = """
import os, sys, yaml
from concept_encoder.training.pretrain import PretrainRecipe, pretrain
from concept_encoder.training.trainer import ConceptTrainer

if "die" in sys.argv:
    save = ConceptTrainer._save_checkpoint
    def save_then_die(self, *args, **kwargs):
        save(self, *args, **kwargs)
        os._exit(9)
    ConceptTrainer._save_checkpoint = save_then_die
pretrain(PretrainRecipe.from_sections(yaml.safe_load(open(sys.argv[1]))))
"""


def on_two_processes(sections: dict, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    recipe, driver = folder / f"{len(list(folder.iterdir()))}.yaml", folder / "driver.py"
    recipe.write_text(yaml.safe_dump(sections))
    driver.write_text(DRIVER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [*launcher, str(driver), str(recipe), *arguments]
    return subprocess.run(call, capture_output=True, text=True, env=environment, timeout=300, check=False)


def losses(run: Path) -> list[float]:
    return [entry["loss"] for entry in read_metrics(run) if "loss" in entry]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_are_one_and_a_run_may_change_their_number(sections, tmp_path):
    sections["training"].update(save_every=3, batch_warmup=0.5, batch_size=16, micro_batch_size=8)
    runs = {name: tmp_path / name for name in ("one", "two", "changed")}

    def of(name: str) -> dict:
        changed = copy.deepcopy(sections)
        changed["training"]["output_dir"] = str(runs[name])
        return changed

    one = pretrain(PretrainRecipe.from_sections(of("one")))
    finished = on_two_processes(of("two"), tmp_path)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert losses(runs["two"]) == pytest.approx(losses(runs["one"]), rel=1e-5)

    assert on_two_processes(of("changed"), tmp_path, "die").returncode != 0
    assert [path.name for path in list_checkpoints(runs["changed"])] == ["checkpoint-3"]
    result = pretrain(PretrainRecipe.from_sections(of("changed")))
    assert losses(runs["changed"]) == pytest.approx(losses(runs["one"]), rel=1e-5)
    assert result["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-5)
