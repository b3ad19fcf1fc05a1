"""A plan file says what is meant, or is refused in one line that names the field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concept_encoder.analysis.key_figures import KEY_FIGURES
from concept_encoder.errors import UserError
from concept_encoder.evaluation.averages import AVERAGES
from concept_encoder.lab.cost import cost
from concept_encoder.lab.engines.engine import Room
from concept_encoder.lab.gates import parse_gate
from concept_encoder.lab.metrics import ANALYSIS, FEWEST_AVERAGED, reported, reports
from concept_encoder.lab.plan import load_plan
from concept_encoder.lab.runs import expand
from concept_encoder.lab.verbs import VERBS

A = {"id": "a"}
Z = {"id": "z", "verb": "bench", "recipe": None, "overrides": {"options.mode": "body"}}


def expecting(**fields) -> dict:
    return {"id": "a", "expect": {"metric": "eval_loss", "direction": "up", "by": 1, "against": 2, **fields}}


@pytest.mark.parametrize(
    ("experiments", "message"),
    [
        ([{"id": "a", "needs": ["b"]}, {"id": "b", "needs": ["a"]}], "needs: a circle, "),
        ([{"id": "a", "needs": ["a"]}], "experiments.a.needs: a circle, a needs a"),
        ([A, {"id": "b", "needs": ["aa"]}], "experiments.b.needs: no experiment is called 'aa'; did you mean 'a'"),
        ([A, A], "experiments.a.id: given twice"),
        ([{"id": "a", "hypotesis": "x"}], "experiments.a.hypotesis: no such field; did you mean 'hypothesis'"),
        (
            [{"id": "a", "verb": "bench", "recipe": None, "overrides": {"options.peer": "evil.py"}}],
            "experiments.a.overrides.options.peer: not in a plan",
        ),
        (
            [{"id": "a", "verb": "bench", "recipe": None, "overrides": {"options.peer=evil.py": True}}],
            "experiments.a.overrides.options.peer=evil.py: no option of bench can be called so",
        ),
        (
            [A, {"id": "b", "expect": {"metric": "eval_loss", "direction": "up", "by": 0, "against": "a/wovn"}}],
            "experiments.b.expect.against: a has no variant 'wovn'",
        ),
        (
            [
                {"id": "a", "expect": {"metric": "eval_loss", "direction": "up", "by": 0, "against": "b"}},
                {"id": "b", "verb": "bench", "recipe": None, "overrides": {"options.mode": "body"}},
            ],
            "experiments.a.expect.against: eval_loss: no run of b reports it",
        ),
        (
            [{"id": "a", "grid": {f"data.x{i}": list(range(100)) for i in range(9)}}],
            "experiments.a: a plan has at most 20,000 runs",
        ),
        (
            [
                {
                    "id": "a",
                    "verb": "bench",
                    "recipe": None,
                    "gates": {"go on if": "bert.512.tokens_per_second > 1"},
                    "overrides": {"options.models": "bert,bixt", "options.lengths": "128,256"},
                }
            ],
            "experiments.a.gates.go on if: bert.512.tokens_per_second: no run of a reports it",
        ),
        ([{"hypothesis": "x"}], "plan.experiments[0].id: missing"),
        (
            [
                {
                    "id": "a",
                    "verb": "analyze",
                    "recipe": None,
                    "gates": {"stop if": "rank.content_rnk < 1"},
                    "overrides": {"options.checkpoint": "runs/mine"},
                }
            ],
            "experiments.a.gates.stop if: rank.content_rnk: no run of a reports it; did you mean 'rank.content_rank'",
        ),
        (
            [{"id": "a", "expect": {"metric": [], "direction": "up", "by": 1, "against": 2}}],
            "experiments.a.expect.metric: an empty list; name one at least",
        ),
        (
            [
                {
                    "id": "a",
                    "expect": {"metric": "eval_loss", "direction": "up", "by": 0, "relative": True, "against": 2},
                }
            ],
            "experiments.a.expect.by: 0.0 is no factor",
        ),
        ([{"id": "a/b"}], "experiments.a/b.id: 'a/b' cannot name a folder"),
        ([{"id": "a", "verb": "pretrian"}], "experiments.a.verb: no run is called 'pretrian'; did you mean 'pretrain'"),
        ([{"id": "a", "resources": {"gpu": 1}}], "experiments.a.resources.gpu: no such field; did you mean 'gpus'"),
        ([{"id": "a", "seeds": [0, 0]}], "experiments.a.seeds: [0, 0] is not a list of different numbers"),
        ([{"id": "a", "recipe": "nothing.yaml"}], "experiments.a.recipe: no file"),
        ([{"id": "a", "gates": {"go if": "eval_loss < 2"}}], "experiments.a.gates.go if: no such gate; did you mean"),
        ([{"id": "a", "gates": {"stop if": "__import__('os')"}}], "experiments.a.gates.stop if: \"__import__('os')\""),
        ([{"id": "a", "gates": {"go on if": "accuracy > 1"}}], "gates.go on if: accuracy: no run of a reports it"),
        ([{"id": "a", "gates": {"stop if": "los > 9 after 5 steps"}}], "gates.stop if: los: not in metrics.jsonl"),
        ([{"id": "a", "overrides": {"modl.preset": "x"}}], "experiments.a.overrides.modl.preset: write section.field"),
        (
            [{"id": "a", "overrides": {"model.checkpoint": {"run": "b"}}}],
            "experiments.a.model.checkpoint: no experiment",
        ),
        (
            [A, {"id": "b", "seeds": [1], "overrides": {"model.checkpoint": {"run": "a"}}}],
            "experiments.b.model.checkpoint: a has no run with seed 1",
        ),
        (
            [
                {"id": "a", "grid": {"model.preset": ["woven", "bert"]}},
                {"id": "b", "overrides": {"model.checkpoint": {"run": "a/wovn"}}},
            ],
            "experiments.b.model.checkpoint: a has no variant 'wovn'; did you mean 'woven'",
        ),
        (
            [{"id": "a", "expect": {"metric": "mnli.accuracy", "direction": "up", "by": 0.1, "against": 0.5}}],
            "experiments.a.expect.metric: mnli.accuracy: no run of a reports it",
        ),
        ([expecting(direction="left")], "direction: 'left'"),
        ([expecting(against=float("nan"))], "experiments.a.expect.against: expected a number or text, found nan"),
        ([expecting(metric=["eval_loss", "eval_loss"])], "experiments.a.expect.metric: one is given twice"),
        ([A, {"id": "b", "needs": ["a/x"]}], "experiments.b.needs: a/x: name the experiment, a"),
        (
            [{"id": "a", "overrides": {"model.checkpoint": {"run": 5}}}],
            "experiments.a.model.checkpoint.run: expected the",
        ),
        ([A, {"id": "b", "grid": {"data.x": [[{"run": "a"}]]}}], "experiments.b.data.x: {run: …} inside a value"),
        (
            [Z, {"id": "a", "overrides": {"model.checkpoint": {"run": "z"}}}],
            "experiments.a.model.checkpoint: z is a run of bench, which leaves no checkpoint",
        ),
        (
            [{"id": "a", "overrides": {"model.checkpoint": {"run": "a"}}}],
            "experiments.a.model.checkpoint: a circle, a needs a",
        ),
        ([{"id": "a", "grid": {"training.seed": [1, 2]}}], "experiments.a.training.seed: use seeds:"),
        ([{"id": "a", "overrides": {"training.output_dir": "x"}}], "experiments.a.training.output_dir: leave it out"),
        (
            [{"id": "a", "rows": {"big": {"data.x": 1}}, "grid": {"data.x": [2, 3]}}],
            "experiments.a.rows.big.data.x: the grid sets it too",
        ),
        (
            [{"id": "a", "rows": {"a b": {"data.x": 1}, "a-b": {"data.x": 2}}}],
            "experiments.a.rows: two cells are called",
        ),
        ([{"id": "a", "overrides": {"training.max_steps": [1]}}], "experiments.a.training.max_steps: expected a whole"),
        ([{"id": "a", "resources": {"hours": 1e308}}], "experiments.a.resources.hours: 1e+308 is not above 0 and at"),
        ([{"id": "a", "early": {"divergence": float("nan")}}], "experiments.a.early.divergence: nan is not a finite"),
        ([{"id": "a", "early": {"plateau_by": -1}}], "experiments.a.early.plateau_by: -1.0 is negative"),
        ([{"id": "a", "early": {"pruner_steps": -5}}], "experiments.a.early.pruner_steps: -5 is not positive"),
        ([{**Z, "early": {"pruner": "median"}}], "experiments.z.early.pruner: bench takes no steps; budget alone"),
        ([{**Z, "gates": {"stop if": "loss > 8 after 5 steps"}}], "bench takes no steps; leave out after N steps"),
        ([{"id": "a", "gates": {"stop if": []}}], "experiments.a.gates.stop if: an empty list"),
        ([{"id": "a", "gates": {"stop if": "eval_loss > 1e999"}}], "no number is that large"),
    ],
)
def test_mistakes_are_named_in_one_line(write_plan, experiments, message):
    with pytest.raises(UserError) as error:
        expand(load_plan(write_plan(*experiments)))
    assert message in str(error.value)
    assert str(error.value).startswith(f"{write_plan(A)}: "), "the file is named"
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("rows: [a, b]", "recipe.yaml: rows: expected a mapping, found ['a', 'b']"),
        ("rows: {a: 5}", "recipe.yaml: rows.a: expected a mapping, found 5"),
        ("rows: {a: {model.checkpoint: {run: b}}}", "recipe.yaml: rows.a: {run: …} is for a plan"),
        ("training: 5", "recipe.yaml: training: expected a mapping, found 5"),
        ("modle: {}", "recipe.yaml: modle: no such section of a recipe; did you mean 'model'"),
    ],
)
def test_a_recipe_of_the_wrong_shape(write_plan, recipe, message):
    file = write_plan(A)
    (file.parent / "recipe.yaml").write_text(recipe)
    with pytest.raises(UserError) as error:
        expand(load_plan(file))
    assert message in str(error.value)


def test_what_the_defaults_say_of_training_is_not_for_a_bench(write_plan):
    early = {"pruner": "median", "budget": 3}
    training, bench = load_plan(write_plan(A, Z, defaults={"early": early})).experiments
    assert (training.early.pruner, bench.early.pruner, bench.early.budget) == ("median", None, 3)


def test_a_run_with_a_long_name_has_a_folder(write_plan):
    (run,) = expand(load_plan(write_plan({"id": "a" * 90, "rows": {"漢" * 60: {"data.x": 1}}})))
    assert len(f"{run.folder_name}-micro128-10".encode()) < 255


@pytest.mark.parametrize(
    ("verb", "options", "known", "unknown"),
    [
        ("analyze", {}, "rank.share_of_ceiling", "blimp.accuracy"),
        ("probe", {}, "blimp.paradigms.wh_island.accuracy", "perplexity.per_word"),
        ("probe", {"probe": ["perplexity"]}, "perplexity.shuffled.per_word", "blimp.accuracy"),
        ("probe", {"probe": "sts"}, "sts.stsb.tokens.spearman", "sts.cola.tokens.spearman"),
        ("probe", {"task": "cola"}, "linear.cola.concepts.zeroed.accuracy", "linear.cola.concepts.f1"),
        ("probe", {"mteb": ["STS12"]}, "mteb.STS12.main_score", "mteb.STS13.main_score"),
        ("bench", {"models": "hf:bert,bixt"}, "hf-bert.512.memory_bytes", "bixt.512.megabytes"),
        ("evaluate", {"suite": "glue"}, "mrpc.baseline.majority-class.f1", "via_decoder.mrpc.f1"),
        ("evaluate", {"task": "rte", "head": ["pair", "cls_query"]}, "pair.rte.accuracy", "rte.accuracy"),
        ("evaluate", {"task": ["mnli", "rte"], "mnli_first": True}, "pair-mnli-first.rte.accuracy", "rte.accuracy"),
        ("evaluate", {"set": "data.train=mine.csv"}, "mine.macro_f1", "mine.recall"),
    ],
)
def test_what_a_run_will_report(verb, options, known, unknown):
    names = reported(VERBS[verb], {"options": options})
    assert reports(names, known)
    assert not reports(names, unknown)


def test_an_analysis_reports_its_key_figures():
    assert set(ANALYSIS) == {".".join(key.path) for key in KEY_FIGURES} - {"health.verdict"}


def test_an_average_needs_all_its_tasks():
    fewest = min(len({name.split(".")[0] for part in each.parts for name in part}) for each in AVERAGES.values())
    assert fewest == FEWEST_AVERAGED
    assert not reports(reported(VERBS["evaluate"], {"options": {"task": "cola"}}), "average.AVG8-acc")
    assert reports(reported(VERBS["evaluate"], {"options": {"suite": "glue"}}), "average.AVG8-acc")


def test_defaults_of_training_are_left_out_where_nothing_trains(write_plan):
    defaults = {"overrides": {"training.precision": "bf16", "options.device": "cpu"}}
    probe = {"id": "p", "verb": "probe", "recipe": None, "overrides": {"options.checkpoint": "runs/mine"}}
    (run,) = expand(load_plan(write_plan(probe, defaults=defaults)))
    assert run.sections["options"] == {"device": "cpu", "checkpoint": "runs/mine"}


def test_a_plan_cannot_run_code(write_plan):
    file = write_plan(A)
    file.write_text(file.read_text() + "reference: !!python/object/apply:os.system ['touch hacked']\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_plan(file)


def test_resources_that_no_host_has(write_plan):
    plan = load_plan(write_plan({"id": "a", "resources": {"gpus": 8}}))
    with pytest.raises(UserError, match=r"experiments.a.resources.gpus: 8, but a has 2, b has 1; ask for fewer"):
        cost(plan, expand(plan), Room(1, {"a": 2, "b": 1}))


def test_cost_and_critical_path(write_plan):
    plan = load_plan(
        write_plan(
            {"id": "a", "resources": {"gpus": 2, "hours": 3}, "seeds": [0, 1]},
            {"id": "b", "needs": ["a"], "resources": {"hours": 4}, "overrides": {"data.x": 1}},
            {"id": "c", "needs": ["a"], "resources": {"hours": 1}, "overrides": {"data.x": 2}},
        )
    )
    found = cost(plan, expand(plan), Room(2, {"a": 4}))
    assert (found.gpu_hours, found.cpu_hours, found.critical_path, found.critical_hours) == (12, 5, ["a", "b"], 7)


def test_the_content_is_the_identity(write_plan):
    def ids(**changes):
        first = {"id": "a", "overrides": {"training.learning_rate": 1e-3}, **changes}
        second = {"id": "b", "verb": "finetune", "overrides": {"model.checkpoint": {"run": "a"}, "data.task": "mnli"}}
        return [run.id for run in expand(load_plan(write_plan(first, second)))]

    before = ids()
    assert ids(hypothesis="other words", priority=3, resources={"hours": 9}) == before
    assert ids(overrides={"training.learning_rate": 1e-3, "training.num_workers": 4}) == before
    edited = ids(overrides={"training.learning_rate": 2e-3})
    assert edited[0] != before[0]
    assert edited[1] != before[1], "what reads the run is touched too"


@pytest.mark.parametrize(("gpus", "micro", "half"), [(0, None, 32), (0, 16, 8), (4, None, 8), (4, 64, 8), (0, 1, None)])
def test_half_a_micro_batch_is_half_of_what_one_device_reads(write_plan, gpus, micro, half):
    training = {"training.batch_size": 64, **({} if micro is None else {"training.micro_batch_size": micro})}
    (run,) = expand(load_plan(write_plan({"id": "a", "overrides": training, "resources": {"gpus": gpus}})))
    assert run.out_of_memory_remedy({}) == (None if half is None else {"training.micro_batch_size": half})


def test_rows_grids_seeds_and_references(write_plan):
    plan = load_plan(
        write_plan(
            {
                "id": "a",
                "rows": {"small": {"model.hidden_size": 64}, "wide": {"model.hidden_size": 128}},
                "seeds": [0, 1],
            },
            {
                "id": "b",
                "verb": "finetune",
                "grid": {"model.checkpoint": [{"run": "a/small"}, {"run": "a/wide"}], "data.task": ["mnli", "rte"]},
                "seeds": [0, 1],
            },
        )
    )
    runs = {run.name: run for run in expand(plan)}
    assert len(runs) == 4 + 8
    run = runs["b.a-wide.rte.s1"]
    assert run.inputs == {"model.checkpoint": runs["a.wide.s1"].id}
    assert run.variant == "a-wide"
    assert run.sections["training"]["seed"] == 1
    assert run.resolved({run.inputs["model.checkpoint"]: "there"}, {})["model"]["checkpoint"] == "there"


@given(st.text(max_size=30))
def test_gates_are_parsed_or_refused(text):
    try:
        gate = parse_gate(text)
    except ValueError:
        return
    assert parse_gate(str(gate)).metric == gate.metric


def test_gates_compare():
    assert parse_gate("mnli.accuracy > 0.60").holds(0.61)
    assert not parse_gate("mnli.accuracy > 0.60").holds(0.60)
    assert not parse_gate("loss < 1e3").holds(float("nan"))
    assert parse_gate("loss >= -.5 after 100 steps").after == 100
