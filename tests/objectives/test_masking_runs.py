"""Maskings in a run: deletion and a changing rate train, and what a model cannot do is refused before any work."""

import copy

import pytest

from concept_encoder.errors import UserError
from concept_encoder.training.pretrain import PretrainRecipe, pretrain


@pytest.fixture
def sections(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(f"word{i % 7} word{i % 5} and word{i % 3} again, {i % 11} times" for i in range(300)))
    model = {"layer_types": "(read think)*2", "decoder": "query_position", "num_concepts": 4}
    return {
        "model": {**model, "hidden_size": 16, "num_attention_heads": 2},
        "data": {
            "corpus": str(file),
            "vocab_size": 64,
            "sequence_length": 24,
            "packing": "full",
            "cache_dir": str(tmp_path / "cache"),
            "validation_fraction": 0.1,
        },
        "objective": {},
        "training": {"output_dir": str(tmp_path / "run"), "max_steps": 3, "batch_size": 8},
    }


def run(sections: dict, **objective: object) -> dict:
    changed = copy.deepcopy(sections)
    changed["objective"] = objective
    changed["training"]["output_dir"] += "-".join(map(str, objective.values()))
    return pretrain(PretrainRecipe.from_sections(changed))


@pytest.mark.parametrize("masking", ["token", "whole_word", "span"])
def test_deletion_trains(sections, masking):
    result = run(sections, masking=masking, mask_rate=0.6, replacement="delete")
    assert 0 < result["eval_loss"] < 6
    masked = run(sections, masking=masking, mask_rate=0.6, replacement="mask")
    assert result["flops_per_token"] > masked["flops_per_token"]  # every token is asked


def test_a_changing_rate_and_a_common_evaluation(sections):
    """Runs that are masked differently, but not trained (rate 1e-9), are scored alike."""
    sections["training"]["learning_rate"] = 1e-9
    common = {"eval_masking": "token", "eval_mask_rate": 0.15}
    one = run(sections, masking="span", mask_rate=0.3, mask_rate_end=0.15, mask_rate_schedule="cosine", **common)
    two = run(sections, masking="token", mask_rate=0.4, **common)
    assert one["eval_loss"] == pytest.approx(two["eval_loss"], abs=1e-5)
    assert one["unigram_loss"] == two["unigram_loss"]


def test_a_decoder_that_cannot_is_refused_before_any_work(sections, tmp_path):
    sections["model"]["decoder"] = "query_input"
    with pytest.raises(UserError, match=r"^objective.replacement: 'delete' removes tokens that decoder 'query_input'"):
        run(sections, replacement="delete")
    assert not (tmp_path / "cache").exists()
