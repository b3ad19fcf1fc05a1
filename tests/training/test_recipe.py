"""Recipes: overrides, and one clear line for what is wrong with them."""

import dataclasses
import re

import pytest
import yaml
from transformers import TrainingArguments

from concept_encoder.data.packing import prepare
from concept_encoder.errors import UserError
from concept_encoder.settings import from_mapping, parse_overrides, set_fields
from concept_encoder.training.pretrain import PretrainRecipe, pretraining_config
from concept_encoder.training.recipe import load_rows, load_sections, model_config
from concept_encoder.training.settings import SCHEDULERS, TrainingConfig, training_arguments


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle.preset=bert", "modle: no such section of a recipe; did you mean 'model'"),
        ("model.preset=brt", "model.preset: no preset is called 'brt'; did you mean 'bert'"),
        ("model.hiden_size=64", "model.hiden_size: no such field; did you mean 'hidden_size'"),
        (
            "model.num_attention_heads=3",
            "model.num_attention_heads: hidden_size 16 is not divisible by 3 heads; use 2 or 4",
        ),
        ("model.layer_types=read think", "model.num_layers: counts the layers of the preset's layout"),
        ("model.hidden_size=big", "model.hidden_size: expected a whole number, found 'big'"),
        ("model.token_dim=1.5", "model.token_dim: expected a whole number, found 1.5"),
        ("model.token_position=ropes", "model.token_position: no position encoding is called 'ropes'"),
        ("model.layer_norm_eps=.nan", "model.layer_norm_eps: nan is not a finite number"),
        ("model.vocab_size=null", "model.vocab_size: expected a whole number, found None"),
        ("model.num_layers=x", "model.num_layers: expected a whole number, found 'x'"),
        ("model.num_layers=[]", "model.num_layers: expected a whole number"),
        ("model.num_layers=true", "model.num_layers: expected a whole number"),
        ("model.num_layers=999999999", "model.num_layers: 999,999,999 is too many; use at most 1,000"),
        ("model.num_layers=3", "model.num_layers: preset 'woven' counts layers in pairs; use 4"),
        ("model.max_position_embeddings=16", "data.sequence_length: 24 tokens exceed model.max_position_embeddings 16"),
        ("model.checkpoint=runs/x", "model.checkpoint: pretraining starts from new weights"),
        ("training.learning_rat=1", "training.learning_rat: no such field; did you mean 'learning_rate'"),
        ("training.learning_rate=fast", "training.learning_rate: expected a number, found 'fast'"),
        ("training.batch_size=2.5", "training.batch_size: expected a whole number, found 2.5"),
        ("training.micro_batch_size=3", "training.micro_batch_size: 3 does not divide batch_size 8"),
        ("training.schedule=cosin", "training.schedule: 'cosin' is not one of cosine, linear, constant, wsd"),
        ("training.output_dir=null", "training.output_dir: expected a path"),
        ("training.report_to=[clearml]", "training.report_to: 'clearml' is not one of wandb"),
        ("objective.masking=tokn", "objective.masking: no masking is called 'tokn'"),
        ("objective.mask_rate=1.5", "objective.mask_rate: 1.5 is not between 0 and 1"),
        ("data.sequence_length=4", "data.sequence_length: 4 is too short"),
        ("preset=bert", "override 'preset=bert': write it as section.field=value"),
        ("training.seed=[", "override .*: the value is not valid YAML"),
        ("evaluation.suite=glue", "evaluation: pretraining has no such section"),
    ],
)
def test_what_is_wrong_is_named(sections, tmp_path, override, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(sections))
    with pytest.raises(UserError, match=f"^{message}") as caught:
        PretrainRecipe.from_sections(load_sections(recipe, [override]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["woven", 3, [], False])
def test_a_model_that_is_no_section(sections, model):
    with pytest.raises(UserError, match=f"^model: expected fields, found {re.escape(repr(model))}$"):
        PretrainRecipe.from_sections({**sections, "model": model})


def test_numbers_of_the_model_as_people_write_them(sections):
    overrides = parse_overrides(
        f"model.{field}"
        for field in ("rope_theta=10000", "hidden_dropout_prob=0", "layer_norm_eps=1e-6", "initializer_range=3e-2")
    )
    model = set_fields(sections, overrides)["model"]
    config = model_config(model)
    assert (config.rope_theta, config.hidden_dropout_prob) == (10_000.0, 0.0)
    assert (config.layer_norm_eps, config.initializer_range) == (1e-6, 3e-2)


def test_the_tokenizer_decides_special_tokens(sections):
    sections["model"]["mask_free"] = True
    recipe = PretrainRecipe.from_sections(sections)
    corpus = prepare(recipe.data)
    config = pretraining_config(recipe, corpus)
    assert config.mask_free
    assert config.mask_token_id == corpus.tokenizer.mask_token_id
    for name in ("pad", "mask", "cls", "sep"):
        own = getattr(corpus.tokenizer, f"{name}_token_id")
        given = {**sections, "model": {**sections["model"], f"{name}_token_id": own + 7}}
        with pytest.raises(UserError, match=f"^model.{name}_token_id: {own + 7} is not the tokenizer's {own}; leave"):
            pretraining_config(PretrainRecipe.from_sections(given), corpus)
        given["model"][f"{name}_token_id"] = own
        assert pretraining_config(PretrainRecipe.from_sections(given), corpus).mask_token_id == config.mask_token_id


def test_numbers_as_people_write_them():
    overrides = ["training.learning_rate=3e-4", "model.preset=bert", "data.cache_dir=null"]
    sections = set_fields({}, parse_overrides(overrides))
    assert sections["model"]["preset"] == "bert"
    assert sections["data"]["cache_dir"] is None
    config = from_mapping(TrainingConfig, {**sections["training"], "output_dir": "x"}, "training")
    assert config.learning_rate == 3e-4


def test_every_field_reaches_the_training_arguments(tmp_path):
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    for schedule in SCHEDULERS:
        config = TrainingConfig(tmp_path, schedule=schedule, batch_size=32, micro_batch_size=4)
        arguments = training_arguments(config, steps=100, world_size=2)
        assert arguments.gradient_accumulation_steps == 4
        assert arguments.warmup_steps == 6
    assert {"warmup_steps", "lr_scheduler_kwargs"} <= known


def test_a_grid_is_one_run_a_row(sections, tmp_path):
    grid = {**sections, "rows": {"thin": {"model.token_dim": 4}, "fat": {"model.token_dim": 16, "training.seed": 1}}}
    recipe = tmp_path / "grid.yaml"
    recipe.write_text(yaml.safe_dump(grid))
    rows = load_rows(recipe, ["training.max_steps=9"])
    assert [rows[name]["model"]["token_dim"] for name in ("thin", "fat")] == [4, 16]
    assert [rows[name]["training"]["seed"] for name in ("thin", "fat")] == [3, 1]
    assert rows["fat"]["training"]["output_dir"].endswith("run/fat")
    assert rows["thin"]["training"]["max_steps"] == 9
    with pytest.raises(UserError, match="a grid of the rows fat, thin"):
        load_sections(recipe)
    recipe.write_text(yaml.safe_dump({**sections, "rows": ["thin"]}))
    with pytest.raises(UserError, match="rows is a mapping"):
        load_rows(recipe)
