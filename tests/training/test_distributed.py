"""Two processes train as one does, sharded or not, and a run may change their number."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from concept_encoder.errors import UserError
from concept_encoder.model import ConceptEncoderForMaskedLM
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
if "shard" in sys.argv:  # accelerate offers FSDP to GPUs alone, though all of it runs on gloo: let it take us for one
    from accelerate.state import DistributedType, PartialState
    from concept_encoder.training import sharding

    init = PartialState.__init__
    def pretend(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU
    PartialState.__init__ = pretend
    sharding.check_devices = lambda: None

pretrain(PretrainRecipe.from_sections(yaml.safe_load(open(sys.argv[1]))))
"""

SHARD_EVERY_PRESET = """
import copy
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from cases import SMALL
from concept_encoder.model import PRESETS, ConceptEncoderForMaskedLM, preset_config

dist.init_process_group("gloo")
own = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
for preset in ("bixt", "funnel", "perceiver_mlm", "recursive", "weighted_mlm", "woven"):
    torch.manual_seed(0)
    plain = ConceptEncoderForMaskedLM(preset_config(preset, 6 if preset == "funnel" else 4, **SMALL))
    sharded = copy.deepcopy(plain)
    for module in sharded.modules():
        if type(module).__name__ in plain._no_split_modules:
            fully_shard(module)
    fully_shard(sharded)
    ids = torch.randint(5, 320, (4, 37))
    mask = (torch.arange(37) < torch.tensor([[37], [20], [37], [5]])).long()
    labels = ids.where(mask.bool() & (torch.arange(37) % 3 == 0), -100)
    plain(ids, attention_mask=mask, labels=labels, num_items_in_batch=40).loss.backward()
    sharded(ids[own], attention_mask=mask[own], labels=labels[own], num_items_in_batch=20).loss.backward()
    for (name, one), two in zip(plain.named_parameters(), sharded.parameters(), strict=True):
        torch.testing.assert_close(two.grad.full_tensor(), one.grad, rtol=1e-4, atol=1e-6, msg=f"{preset}: {name}")
        assert two.numel() == one.numel()  # as the count of a run's parameters needs it
    held = [sum(p.to_local().numel() for p in sharded.parameters()), sum(p.numel() for p in plain.parameters())]
    assert held[0] < 0.6 * held[1], held
dist.destroy_process_group()
"""


def launch(code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    driver = folder / "driver.py"
    driver.write_text(code)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    places = os.pathsep.join([str(Path(__file__).parents[1] / "contract"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": places}
    if "shard" in arguments:
        environment["ACCELERATE_USE_FSDP"] = "true"
    call = [*launcher, str(driver), *arguments]
    return subprocess.run(call, capture_output=True, text=True, env=environment, timeout=300, check=False)


def on_two_processes(sections: dict, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    recipe = folder / f"{len(list(folder.iterdir()))}.yaml"
    recipe.write_text(yaml.safe_dump(sections))
    return launch(DRIVER, folder, str(recipe), *arguments)


def losses(run: Path) -> list[float]:
    return [entry["loss"] for entry in read_metrics(run) if "loss" in entry]


needs_gloo = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")


@needs_gloo
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


@needs_gloo
def test_every_preset_may_be_sharded_move_by_move(tmp_path):
    """Losses and gradients of two processes that share the weights, against one that has them all."""
    finished = launch(SHARD_EVERY_PRESET, tmp_path)
    assert finished.returncode == 0, finished.stderr[-2000:]


@needs_gloo
@pytest.mark.slow
@pytest.mark.parametrize("training", [{}, {"precision": "bf16", "optimizer": "muon"}], ids=["fp32", "bf16"])
def test_sharded_runs_are_like_any_other_and_go_on_from_each_other(sections, tmp_path, training):
    sections["model"].update(preset="anchored", num_layers=4)
    sections["training"].update(save_every=3, batch_size=16, micro_batch_size=4, **training)
    runs = {name: tmp_path / name for name in ("one", "sharded", "gathered")}

    def of(name: str) -> dict:
        changed = copy.deepcopy(sections)
        changed["training"]["output_dir"] = str(runs[name])
        return changed

    one = pretrain(PretrainRecipe.from_sections(of("one")))
    close = {"rel": 1e-4 if training else 1e-5}  # bf16, also inside Muon
    shutil.copytree(runs["one"], runs["sharded"])  # a run of one process goes on sharded …
    shutil.rmtree(runs["sharded"] / "checkpoints" / "checkpoint-6")
    (runs["sharded"] / "result.json").unlink()
    (runs["sharded"] / "recipe.yaml").write_text((runs["one"] / "recipe.yaml").read_text().replace("/one", "/sharded"))
    finished = on_two_processes(of("sharded"), tmp_path, "shard")
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert losses(runs["sharded"]) == pytest.approx(losses(runs["one"]), **close)

    assert on_two_processes(of("gathered"), tmp_path, "shard", "die").returncode != 0  # … and the other way round
    assert [path.name for path in list_checkpoints(runs["gathered"])] == ["checkpoint-3"]
    result = pretrain(PretrainRecipe.from_sections(of("gathered")))
    assert losses(runs["gathered"]) == pytest.approx(losses(runs["one"]), **close)
    assert result["eval_loss"] == pytest.approx(one["eval_loss"], **close)
    assert result["parameters"] == one["parameters"]

    last = [list_checkpoints(runs[name])[-1] for name in ("sharded", "one")]
    loaded = [ConceptEncoderForMaskedLM.from_pretrained(checkpoint) for checkpoint in last]
    for sharded, plain in zip(*(model.parameters() for model in loaded), strict=True):
        torch.testing.assert_close(sharded, plain, rtol=1e-3, atol=1e-4 if not training else 1e-2)


def test_sharding_without_gpus_is_refused_before_anything_is_written(sections, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="ACCELERATE_USE_FSDP"):
        pretrain(PretrainRecipe.from_sections(sections))
    assert not (tmp_path / "run").exists()
