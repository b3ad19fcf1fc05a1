"""Pretraining: the record it leaves, exact resumption, and runs that are killed."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from concept_encoder.data.packing import prepare
from concept_encoder.errors import UserError
from concept_encoder.model import ConceptEncoderForMaskedLM
from concept_encoder.model.loading import list_checkpoints, load_checkpoint
from concept_encoder.objectives.masked_lm import MaskedLMCollator
from concept_encoder.training import trainer as trainer_module
from concept_encoder.training.pretrain import PretrainRecipe, pretrain
from concept_encoder.training.run_folder import read_metrics
from concept_encoder.training.trainer import ConceptTrainer


def train(sections: dict, folder: Path, **training: object) -> Path:
    sections = copy.deepcopy(sections)
    sections["training"].update(output_dir=str(folder), **training)
    pretrain(PretrainRecipe.from_sections(sections))
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(run)[-1] / "model.safetensors")


def assert_equal(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_run_folder_is_the_record(sections, tmp_path):
    run = train(sections, tmp_path / "run", eval_every=3, save_every=3)
    assert {"recipe.yaml", "environment.json", "metrics.jsonl", "result.json", "checkpoints"} == {
        p.name for p in run.iterdir()
    }
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["training"]["learning_rate"] == 0.01
    assert recipe["objective"]["replacement"] == "80-10-10"  # defaults are written down
    assert {"commit", "versions", "device", "seed"} <= json.loads((run / "environment.json").read_text()).keys()
    metrics = read_metrics(run)
    assert [m["step"] for m in metrics if "loss" in m] == [1, 2, 3, 4, 5, 6]
    assert [m["step"] for m in metrics if "eval_loss" in m] == [3, 6]
    result = json.loads((run / "result.json").read_text())
    assert result["eval_loss"] == [m["eval_loss"] for m in metrics if "eval_loss" in m][-1]
    assert [p.name for p in list_checkpoints(run)] == ["checkpoint-3", "checkpoint-6"]
    card = (run / result["checkpoint"] / "README.md").read_text()
    assert "library_name: transformers" in card
    assert f"{result['eval_loss']:.4f}" in card


def test_every_checkpoint_loads_and_scores_as_recorded(sections, tmp_path):
    run = train(sections, tmp_path / "run")
    model = load_checkpoint(ConceptEncoderForMaskedLM, run)
    assert model.config.mask_token_id is not None
    assert model.head.decoder.weight is model.model.embeddings.word.weight


def test_resuming_is_exact(sections, tmp_path, monkeypatch):
    """k + k steps leave the very weights of 2k steps; with dropout on, and a schedule that sees all 2k."""
    sections["model"]["hidden_dropout_prob"] = 0.1
    whole = train(sections, tmp_path / "whole", save_every=3)
    original = ConceptTrainer._save_checkpoint

    def save_then_die(self, *args, **kwargs):
        original(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(ConceptTrainer, "_save_checkpoint", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(sections, tmp_path / "halves", save_every=3)
    monkeypatch.undo()
    assert [p.name for p in list_checkpoints(tmp_path / "halves")] == ["checkpoint-3"]
    halves = train(sections, tmp_path / "halves", save_every=3)
    assert_equal(weights(whole), weights(halves))
    losses = [[m["loss"] for m in read_metrics(run) if "loss" in m] for run in (whole, halves)]
    assert losses[0] == losses[1]


def test_a_run_goes_on_with_half_the_micro_batch(sections, tmp_path, monkeypatch):
    """Out of memory at step 4: its checkpoint and its effective batch stay, and so do its losses."""
    whole = train(sections, tmp_path / "whole", save_every=3)
    original = ConceptTrainer._save_checkpoint

    def save_then_die(self, *args, **kwargs):
        original(self, *args, **kwargs)
        raise MemoryError

    monkeypatch.setattr(ConceptTrainer, "_save_checkpoint", save_then_die)
    with pytest.raises(MemoryError):
        train(sections, tmp_path / "halves", save_every=3)
    monkeypatch.undo()
    on_device, step = [], ConceptTrainer.training_step

    def count_texts(self, model, inputs, *args):
        on_device.append(len(inputs["input_ids"]))
        return step(self, model, inputs, *args)

    monkeypatch.setattr(ConceptTrainer, "training_step", count_texts)
    halves = train(sections, tmp_path / "halves", save_every=3, micro_batch_size=4)
    lines = map(json.loads, (halves / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]  # started anew, 1 to 3 came twice
    assert on_device == [4] * 6
    losses = [[m["loss"] for m in read_metrics(run) if "loss" in m] for run in (whole, halves)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert yaml.safe_load((halves / "recipe.yaml").read_text())["training"]["micro_batch_size"] == 4


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_accumulation_changes_nothing_with_every_optimizer(sections, tmp_path, optimizer):
    whole = train(sections, tmp_path / "whole", optimizer=optimizer, save_every=3)
    parts = train(sections, tmp_path / "parts", optimizer=optimizer, micro_batch_size=2, save_every=3)
    losses = [[m["loss"] for m in read_metrics(run) if "loss" in m] for run in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel={"adamw": 1e-5, "muon": 1e-3}[optimizer])  # Muon rounds to bf16


def test_workers_change_nothing(sections, tmp_path):
    assert_equal(weights(train(sections, tmp_path / "a")), weights(train(sections, tmp_path / "b", num_workers=2)))


def test_a_finished_run_is_not_repeated(sections, tmp_path, monkeypatch):
    run = train(sections, tmp_path / "run")
    monkeypatch.setattr("concept_encoder.training.pretrain.run_trainer", lambda *a, **k: pytest.fail("trained again"))
    before = (run / "result.json").stat().st_mtime_ns
    train(sections, run)
    assert (run / "result.json").stat().st_mtime_ns == before


def test_a_folder_with_another_run_is_refused(sections, tmp_path):
    run = train(sections, tmp_path / "run")
    with pytest.raises(UserError, match=r"training.output_dir: .*its training.learning_rate is 0.01, not 0.02"):
        train(sections, run, learning_rate=0.02)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds something else than a run"):
        train(sections, tmp_path / "mine")


def test_a_full_disk_leaves_the_last_checkpoint_whole(sections, tmp_path, monkeypatch):
    def full_disk(self, output_dir):
        Path(output_dir, "optimizer.pt").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    original = ConceptTrainer._save_optimizer_and_scheduler
    calls = []

    def second_time_full(self, output_dir):
        calls.append(output_dir)
        return original(self, output_dir) if len(calls) == 1 else full_disk(self, output_dir)

    monkeypatch.setattr(ConceptTrainer, "_save_optimizer_and_scheduler", second_time_full)
    with pytest.raises(UserError, match=r"training.output_dir: no space left .* while saving checkpoint-6"):
        train(sections, tmp_path / "run", save_every=3)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-3"]
    monkeypatch.undo()
    assert_equal(weights(train(sections, tmp_path / "run", save_every=3)), weights(train(sections, tmp_path / "whole")))


def test_kill_9_loses_only_the_steps_since_the_last_checkpoint(sections, tmp_path):
    sections["training"].update(output_dir=str(tmp_path / "run"), max_steps=2000, save_every=5, log_every=1)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(sections))
    call = [sys.executable, "-m", "concept_encoder.cli.main", "pretrain", str(recipe)]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        deadline = time.monotonic() + 120
        while len(list_checkpoints(tmp_path / "run")) < 2 and time.monotonic() < deadline:
            assert process.poll() is None, "the run ended by itself"
            time.sleep(0.02)
        time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    checkpoints = list_checkpoints(tmp_path / "run")
    assert len(checkpoints) >= 1
    for checkpoint in checkpoints:
        load_checkpoint(ConceptEncoderForMaskedLM, checkpoint)
    last_logged = max(m["step"] for m in read_metrics(tmp_path / "run"))
    assert last_logged - int(checkpoints[-1].name.rpartition("-")[2]) <= 6
    assert trainer_module.list_checkpoints(tmp_path / "run") == checkpoints


@pytest.mark.parametrize("packing", ["documents", "full"])
def test_an_epoch_sees_every_token_once(sections, tmp_path, packing):
    sections["data"] |= {"packing": packing, "max_documents": 60}
    corpus = prepare(PretrainRecipe.from_sections(sections).data, progress=False)
    read = []
    collate = MaskedLMCollator.__call__

    def spy(self, rows):
        read.append([len(row["input_ids"]) for row in rows])
        return collate(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskedLMCollator, "__call__", spy)
        run = train(sections, tmp_path / "run", max_steps=0, epochs=1, batch_size=len(corpus.train), eval_batch_size=64)
    train_lengths, *_ = read
    assert sorted(train_lengths) == sorted(len(row["input_ids"]) for row in corpus.train)
    assert train_lengths == sorted(train_lengths), "neighbours are of like length"
    result = json.loads((run / "result.json").read_text())
    assert result["tokens_seen"] == sum(train_lengths)


def test_the_recorded_rate_counts_the_loader(sections, tmp_path, monkeypatch):
    collate = MaskedLMCollator.__call__

    def slow(self, rows):
        time.sleep(0.2)
        return collate(self, rows)

    monkeypatch.setattr(MaskedLMCollator, "__call__", slow)
    run = train(sections, tmp_path / "run", eval_every=2, save_every=2)
    most = sections["training"]["batch_size"] * sections["data"]["sequence_length"] / 0.2
    rates = [entry["tokens_per_second"] for entry in read_metrics(run) if "tokens_per_second" in entry]
    assert len(rates) == 6
    assert all(0 < rate <= most for rate in rates)
