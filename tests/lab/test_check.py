"""`plan check` refuses what a run would refuse after its start, and estimates from what was measured."""

import json

import pytest
import yaml

from concept_encoder.cli.plan_check import check_recipes, measured_rates, size_table
from concept_encoder.errors import UserError
from concept_encoder.lab.plan import load_plan
from concept_encoder.lab.runs import expand
from concept_encoder.lab.store import State

MODEL = {"preset": "bert", "hidden_size": 32, "num_attention_heads": 2, "num_layers": 2}


@pytest.fixture
def runs(tmp_path):
    """Runs of a plan whose one recipe pretrains on the corpus `tmp_path/texts.jsonl`."""
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "a b c"}) + "\n")
    recipe = {
        "model": MODEL,
        "data": {"corpus": str(tmp_path / "texts.jsonl"), "sequence_length": 32},
        "training": {"max_steps": 10, "batch_size": 8},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def expanded(**fields) -> list:
        experiment = {"id": "a", **({} if fields.get("verb") else {"recipe": "recipe.yaml"}), **fields}
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"title": "t", "experiments": [experiment]}))
        return expand(load_plan(tmp_path / "plan.yaml"))

    return expanded


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"overrides": {"data.corpus": "nowhere.jsonl"}}, "a.s0: .*nowhere.jsonl"),
        ({"overrides": {"data.text_column": "body"}}, "a.s0: .*texts.jsonl.*no column 'body'"),
        ({"overrides": {"model.preset": "brt"}}, "a.s0: model.preset: no preset is called 'brt'; did you mean 'bert'"),
        ({"verb": "bench", "overrides": {"options.mode": "bdy"}}, "a.s0: options: .*'bdy' is not one of"),
        ({"verb": "bench", "overrides": {"options.mode": "body", "options.layer": 2}}, "a.s0: options: .*--layer"),
        ({"verb": "bench", "overrides": {"options.layers": 2}}, "a.s0: options: Missing argument"),
        (
            {"verb": "bench", "overrides": {"options.mode": "body", "options.models": "brt"}},
            "a.s0: --models: no contest",
        ),
        (
            {"verb": "bench", "overrides": {"options.mode": "body", "options.lengths": "abc"}},
            "a.s0: --lengths: 'abc' is",
        ),
        ({"verb": "probe", "overrides": {"options.checkpoint": "/nowhere"}}, "a.s0: options.checkpoint: no file or fo"),
        (
            {"verb": "probe", "overrides": {"options.checkpoint": "a/b", "options.pairs": "./nowhere"}},
            "a.s0: options.pairs: no file or folder ./nowhere",
        ),
        ({"verb": "analyze", "overrides": {"options.checkpoint": "nowhere"}}, "a.s0: nowhere: no such checkpoint"),
    ],
)
def test_what_a_run_would_refuse_is_refused_before(runs, fields, message):
    with pytest.raises(UserError, match=message):
        check_recipes(runs(**fields))


def test_a_head_that_the_pretrained_model_cannot_take_is_refused_before_it_is_pretrained(runs, tmp_path):
    runs()
    head = {"model.checkpoint": {"run": "a"}, "model.classifier_head": "cls_query"}
    (tmp_path / "finetune.yaml").write_text("data: {task: quickstart-topics}")
    experiments = [
        {"id": "a", "recipe": "recipe.yaml"},
        {"id": "b", "verb": "finetune", "recipe": "finetune.yaml", "overrides": head},
    ]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"title": "t", "experiments": experiments}))
    with pytest.raises(UserError, match=r"b.s0: model.classifier_head: 'cls_query' pools concepts"):
        check_recipes(expand(load_plan(tmp_path / "plan.yaml")), data=False)


def test_time_is_estimated_from_what_finished_runs_have_measured(runs, tmp_path):
    sizes = check_recipes(runs())
    header, ((name, *_, flops),) = size_table(sizes, {})
    assert (name, header[-1], flops) == ("a", "FLOPs", f"{sizes['a'].flops_per_token * 10 * 8 * 32:.2g}")
    result = {"verb": "pretrain", "flops_per_token": 100.0, "tokens_per_second": 50.0}
    states = []
    for place, rate in enumerate((50.0, 70.0, 1000.0)):
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({**result, "tokens_per_second": rate}))
        states.append(State(str(place), "x", "x", "done", folder=str(folder)))
    rates = measured_rates(states)
    assert rates == {False: 3 * 100.0 * 70.0}
    header, (row,) = size_table(sizes, {False: sizes["a"].flops_per_token * 10 * 8 * 32 / 7})
    assert (header[-1], row[-1]) == ("time at the measured rate", "7 s")
    header, (row,) = size_table(sizes, {True: 1.0})
    assert row[-1] == "–"
