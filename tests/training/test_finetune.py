"""Fine-tuning: own files, pairs, regression, controls, and what is wrong with them."""

import csv
import json

import numpy as np
import pytest
import torch

from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.evaluation.metrics import compute_all
from concept_encoder.model import (
    ConceptEncoderForMaskedLM,
    ConceptEncoderForSequenceClassification,
    preset_config,
)
from concept_encoder.model.loading import load_checkpoint
from concept_encoder.training.finetune import FinetuneRecipe, finetune

ANIMALS, TOOLS = ["cat", "dog", "cow", "hen"], ["saw", "axe", "file", "drill"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_tokenizer([" ".join(ANIMALS + TOOLS + ["the", "a", "and"])] * 5, "wordpiece", 80)
    torch.manual_seed(0)
    config = preset_config(
        "woven", 2, vocab_size=128, hidden_size=32, num_attention_heads=4, local_window=8, max_position_embeddings=32
    )
    ConceptEncoderForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def task_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words, label = ((ANIMALS, "animal"), (TOOLS, "tool"))[rng.integers(2)]
        rows.append([f"the {rng.choice(words)} and a {rng.choice(words)}", label])
    return rows


@pytest.fixture
def sections(checkpoint, tmp_path):
    train = write_csv(tmp_path / "train.csv", ["sentence", "topic"], task_rows(160))
    validation = write_csv(tmp_path / "validation.csv", ["sentence", "topic"], task_rows(60, 1))
    return {
        "model": {"checkpoint": str(checkpoint)},
        "data": {"train": train, "validation": validation, "text": "sentence", "label": "topic", "max_length": 32},
        "training": {"output_dir": str(tmp_path / "run"), "epochs": 6, "batch_size": 16, "learning_rate": 3e-3},
    }


def run(sections):
    return finetune(FinetuneRecipe.from_sections(sections), compute_all)


def test_own_files_are_learned_through_the_concepts(sections, tmp_path):
    result = run(sections)
    assert result["scores"]["accuracy"] > 0.95
    assert result["examples"] == {"train": 160, "validation": 60}
    assert set(result["controls"]) == {"concepts shuffled", "concepts zeroed"}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["scores"] == result["scores"]
    found = json.loads((tmp_path / "run" / "predictions.json").read_text())
    assert found["label_names"] == ["animal", "tool"]
    assert compute_all(["accuracy"], found["predictions"], found["labels"])["accuracy"] == result["scores"]["accuracy"]
    model = load_checkpoint(ConceptEncoderForSequenceClassification, tmp_path / "run")
    assert set(model.config.id2label.values()) == {"animal", "tool"}
    with pytest.raises(ValueError, match="a fine-tuned checkpoint, which has no masked-LM head"):
        load_checkpoint(ConceptEncoderForMaskedLM, tmp_path / "run")


def test_every_pretrained_weight_is_used_via_the_decoder(checkpoint):
    pretrained = load_checkpoint(ConceptEncoderForMaskedLM, checkpoint)
    model, info = ConceptEncoderForSequenceClassification.from_pretrained(checkpoint, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert all(key.startswith("head.") for key in info["unexpected_keys"])
    for name, parameter in pretrained.model.named_parameters():
        assert torch.equal(parameter, model.model.get_parameter(name))


def test_concept_pool_keeps_no_score_without_the_concepts(sections):
    sections["model"]["classifier_head"] = "concept_pool"
    result = run(sections)
    assert result["scores"]["accuracy"] > 0.95
    assert result["controls"]["concepts zeroed"]["accuracy"] < 0.7
    assert result["controls"]["concepts shuffled"]["accuracy"] < 0.7


def test_pairs_and_numbers(sections, tmp_path):
    rows = [[a, b, str(float(a == b))] for a in ANIMALS + TOOLS for b in ANIMALS + TOOLS]
    file = write_csv(tmp_path / "pairs.csv", ["one", "two", "same"], rows)
    sections["data"] = {
        "train": file,
        "validation": file,
        "text": "one",
        "text_pair": "two",
        "label": "same",
        "kind": "regression",
        "max_length": 16,
    }
    sections["training"]["epochs"] = 2
    for head in ("pair", "via_decoder"):
        sections["model"]["classifier_head"] = head
        sections["training"]["output_dir"] = str(tmp_path / head)
        assert set(run(sections)["scores"]) == {"pearson", "spearman"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.checkpoint": "nowhere"}, "nowhere: no such checkpoint or run folder"),
        ({"model.classifier_head": "cls"}, "model.classifier_head: no classifier head is called 'cls'"),
        ({"model.classifier_head": "pair"}, "model.classifier_head: 'pair' compares two texts, but the task has one"),
        ({"data.max_length": 64}, "data.max_length: 64 tokens exceed the checkpoint's 32; set data.max_length=32"),
        ({"data.kind": "regression"}, ".*(number|animal|tool)"),
        ({"data.label": "subject"}, ".*subject.*topic"),
        ({"objective.mask_rate": 0.1}, "objective: fine-tuning has no such section"),
    ],
)
def test_what_is_wrong_is_named(sections, changes, message, tmp_path):
    for name, value in changes.items():
        section, _, field = name.partition(".")
        sections.setdefault(section, {})[field] = value
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        run(sections)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError) or "nowhere" in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_task_with_one_class_and_a_foreign_checkpoint(sections, tmp_path):
    sections["data"]["train"] = write_csv(tmp_path / "one.csv", ["sentence", "topic"], [["a cat", "x"], ["a dog", "x"]])
    with pytest.raises(UserError, match="class"):
        run(sections)
    foreign = tmp_path / "bert"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "bert"}')
    sections["model"]["checkpoint"] = str(foreign)
    with pytest.raises(ValueError, match=r"another architecture .model_type 'bert'"):
        load_checkpoint(ConceptEncoderForMaskedLM, foreign)


def test_a_damaged_checkpoint_is_one_line(checkpoint, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    with pytest.raises(ValueError, match="incomplete checkpoint"):
        load_checkpoint(ConceptEncoderForMaskedLM, tmp_path)
    (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"model.safetensors: damaged"):
        load_checkpoint(ConceptEncoderForMaskedLM, tmp_path)
    wider = load_checkpoint(ConceptEncoderForMaskedLM, checkpoint).config
    wider.hidden_size = 64
    (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    wider.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the weights do not fit the configuration"):
        load_checkpoint(ConceptEncoderForMaskedLM, tmp_path)
