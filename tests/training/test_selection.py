"""Choosing a checkpoint on a part of the training side: the rule, the record, and runs that are killed."""

import copy
import csv
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import TrainingDiverged, UserError
from concept_encoder.evaluation.metrics import compute_all
from concept_encoder.model import ConceptEncoderForMaskedLM, preset_config
from concept_encoder.model.loading import list_checkpoints
from concept_encoder.training.finetune import FinetuneRecipe, finetune
from concept_encoder.training.run_folder import read_metrics
from concept_encoder.training.selection import Selection
from concept_encoder.training.trainer import ConceptTrainer

WORDS = ["cat", "dog", "cow", "hen", "saw", "axe", "file", "drill"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_tokenizer([" ".join([*WORDS, "the", "a", "and"])] * 5, "wordpiece", 80)
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": 32}
    ConceptEncoderForMaskedLM(preset_config("woven", 2, **sizes, local_window=8)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(checkpoint, tmp_path_factory):
    """Noisy labels, so that scores go up and down."""
    rng = np.random.default_rng(0)
    train = tmp_path_factory.mktemp("data") / "train.csv"
    with open(train, "w", newline="") as file:
        write = csv.writer(file).writerow
        write(["text", "label"])
        for _ in range(120):
            words = rng.choice(WORDS, 4)
            write([" ".join(words), int(rng.random() < 0.7) if words[0] in WORDS[:4] else int(rng.random() < 0.3)])
    return {
        "model": {"checkpoint": str(checkpoint), "hidden_dropout_prob": 0.1},
        "data": {"train": str(train), "max_length": 16, "selection_fraction": 0.3},
        "training": {"epochs": 6, "batch_size": 16, "learning_rate": 1e-2, "patience": 3, "log_every": 1},
    }


@pytest.fixture
def sections(recipe):
    return copy.deepcopy(recipe)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(copy.deepcopy(recipe), folder)
    return folder


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def run(sections, folder):
    sections["training"]["output_dir"] = str(folder)
    return finetune(FinetuneRecipe.from_sections(sections), compute_all)


def log(*evaluations):
    entries = [{"loss": 1.0, "step": 0}]
    for step, (score, loss) in enumerate(evaluations, 1):
        entries.append({"step": step, "eval_loss": loss, **({} if score is None else {"eval_f1": score})})
    return entries


@pytest.mark.parametrize(
    ("evaluations", "best", "over"),
    [
        ([(0.5, 1.0)], 1, False),
        ([(0.5, 1.0), (0.6, 2.0), (0.4, 0.5)], 2, False),
        ([(0.5, 1.0), (0.4, 0.9), (0.4, 0.8)], 1, True),
        ([(0.5, 1.0), (0.5, 0.9), (0.5, 0.8)], 3, False),  # equal scores: the lower loss
        ([(0.5, 1.0), (0.5, 1.0), (0.5, 1.0)], 1, True),  # equal in both: the first
        ([(None, 0.1), (0.0, 1.0)], 2, False),  # an undefined score is below all others
        ([(None, math.nan), (None, 0.5), (None, math.nan), (None, math.nan)], 2, True),
        ([(0.5, math.nan), (0.5, 3.0)], 2, False),
    ],
)
def test_the_best_evaluation_and_the_end_of_patience(evaluations, best, over):
    selection = Selection("f1", lambda model: {}, patience=2)
    assert selection.best(log(*evaluations))["step"] == best
    assert selection.is_over(log(*evaluations)) is over
    assert not Selection("f1", lambda model: {}).is_over(log(*evaluations))
    assert not selection.is_over([])


def test_the_run_keeps_the_best_checkpoint_and_scores_it_once(whole, sections, tmp_path):
    result = result_of(whole)
    found = [m for m in read_metrics(whole) if "eval_loss" in m]
    best = max(found, key=lambda m: (m["eval_accuracy"], -m["eval_loss"]))
    assert result["selection"]["step"] == best["step"] < found[-1]["step"], "the last one is not the best one here"
    assert result["selection"]["stopped_at"] == found[-1]["step"]
    assert result["selection"]["scores"]["accuracy"] == best["eval_accuracy"]
    assert result["checkpoint"] == f"checkpoints/checkpoint-{best['step']}"
    assert result["examples"]["train"] + result["examples"]["selection"] + result["examples"]["validation"] == 120
    # the scores are those of the weights that were kept
    again = {**sections, "model": {"checkpoint": str(whole)}}
    again["training"] = {**sections["training"], "learning_rate": 1e-12, "max_steps": 1}
    assert run(again, tmp_path / "again")["scores"] == result["scores"]


def test_without_the_field_nothing_changes(sections, tmp_path):
    del sections["data"]["selection_fraction"], sections["training"]["patience"]
    result = run(sections, tmp_path / "run")
    assert "selection" not in result
    assert list(result["examples"]) == ["train", "validation"]
    assert [p.name for p in list_checkpoints(tmp_path / "run")] == [f"checkpoint-{result['steps']}"]


@pytest.mark.parametrize("saves", [1, 3, "last"])
def test_a_run_killed_after_any_save_ends_with_the_same_weights(whole, sections, tmp_path, monkeypatch, saves):
    original, calls = ConceptTrainer._save_checkpoint, []
    last = sum("eval_loss" in record for record in read_metrics(whole))

    def save_then_die(self, *args, **kwargs):
        original(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == (last if saves == "last" else saves):
            raise KeyboardInterrupt

    monkeypatch.setattr(ConceptTrainer, "_save_checkpoint", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        run(sections, tmp_path / "killed")
    monkeypatch.undo()
    result = run(sections, tmp_path / "killed")
    assert result == result_of(whole)
    files = [folder / result["checkpoint"] / "model.safetensors" for folder in (whole, tmp_path / "killed")]
    one, two = map(load_file, files)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert (tmp_path / "killed" / "predictions.json").read_text() == (whole / "predictions.json").read_text()


def test_a_run_killed_while_it_scores_ends_the_same(whole, sections, tmp_path, monkeypatch):
    monkeypatch.setattr("concept_encoder.training.finetune.concept_controls", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(sections, tmp_path / "killed")
    monkeypatch.undo()
    assert not (tmp_path / "killed" / "result.json").exists()
    assert run(sections, tmp_path / "killed") == result_of(whole)


def test_a_diverged_run_says_so_and_writes_no_result(sections, tmp_path):
    sections["training"]["learning_rate"] = 1e30
    with pytest.raises(TrainingDiverged, match=r"training has diverged.*lower training.learning_rate"):
        run(sections, tmp_path / "run")
    assert not {"result.json", "predictions.json"} & {path.name for path in (tmp_path / "run").iterdir()}


def test_a_run_that_diverges_late_keeps_what_was_good(sections, tmp_path, monkeypatch):
    original = ConceptTrainer.training_step

    def break_weights(self, model, *args, **kwargs):
        if self.state.global_step == 12:
            with torch.no_grad():
                next(model.parameters()).fill_(math.nan)
        return original(self, model, *args, **kwargs)

    monkeypatch.setattr(ConceptTrainer, "training_step", break_weights)
    result = run(sections, tmp_path / "run")
    assert result["selection"]["step"] <= 12
    assert 0 <= result["scores"]["accuracy"] <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.selection_fraction": None}, "training.patience: counts evaluations on a selection part"),
        ({"training.save_every": 5}, "training.save_every: with data.selection_fraction every evaluation saves"),
        ({"training.patience": 0}, "training.patience: 0 is not positive"),
    ],
)
def test_what_is_wrong_is_named(sections, tmp_path, changes, message):
    for name, value in changes.items():
        section, _, field = name.partition(".")
        sections[section][field] = value
    with pytest.raises(UserError, match=f"^{message}"):
        run(sections, tmp_path / "run")
    assert not (tmp_path / "run").exists()
