"""What seeds say of a claim: all of them, whichever came first, and never one of them several times."""

from dataclasses import replace

import pytest

from concept_encoder.errors import UserError
from concept_encoder.lab.findings import find
from concept_encoder.lab.plan import load_plan
from concept_encoder.lab.runs import expand
from concept_encoder.lab.store import State

SEEDS = {"seeds": [0, 1, 2, 3, 4]}


def expect(against, by=0.5, metric="eval_loss"):
    return {"metric": metric, "direction": "down", "by": by, "against": against}


def findings(file, values, ended="failed"):
    """`values`: of runs by the start of their name; the others are in the state `ended`."""
    plan = load_plan(file)
    runs = expand(plan)
    states, metrics = {}, {}
    for run in runs:
        value = next((value for name, value in values.items() if run.name.startswith(name)), None)
        state = State(run.id, run.name, run.experiment.id)
        states[run.id] = replace(state, state=ended if value is None else "done", seconds=3600.0)
        if value is not None:
            metrics[run.id] = {"eval_loss": value + 0.01 * run.seed}
    return {finding.experiment.id: finding for finding in find(plan, runs, states, metrics)}


def test_survivors_do_not_stand_for_all_seeds(write_plan):
    file = write_plan({"id": "base", **SEEDS}, {"id": "a", "seeds": list(range(7)), "expect": expect(5.0)})
    lost = {f"a.s{seed}": 4.0 for seed in range(5)}
    found = findings(file, lost)["a"]
    assert (found.verdict, found.would_decide) == ("undecided", "2 of 7 seeds are missing")
    assert (found.rows[0].seeds, found.rows[0].planned) == (5, 7)
    assert findings(file, {"a": 4.0})["a"].verdict == "supported"


def test_no_verdict_while_runs_are_left(write_plan):
    rows = {"x": {"data.value": 1}, "y": {"data.value": 2}}
    file = write_plan({"id": "a", **SEEDS, "rows": rows, "expect": expect(5.0)})
    assert findings(file, {"a.x": 4.0}, ended="waiting")["a"].verdict == "open"
    assert findings(file, {"a.x": 4.0})["a"].verdict == "supported (by x)"
    assert findings(file, {"a.x": 6.0})["a"].verdict == "undecided"  # y was never heard


def test_variants_that_reported_nothing_count_as_questions(write_plan):
    rows = {name: {"data.value": place} for place, name in enumerate("wxyz")}
    file = write_plan({"id": "a", **SEEDS, "rows": rows, "expect": expect(5.0)})
    whole, alone = (findings(file, values)["a"].rows[0].verdict for values in ({"a": 4.0}, {"a.w": 4.0}))
    assert (whole.low, whole.high) == (alone.low, alone.high)


def test_what_is_compared_never_depends_on_what_has_finished(write_plan):
    rows = {"x": {"data.value": 1}, "y": {"data.value": 2}}
    base = {"id": "base", **SEEDS, "rows": rows}
    file = write_plan(base, {"id": "a", **SEEDS, "overrides": {"data.value": 3}, "expect": expect("base")})
    with pytest.raises(UserError, match=r"expect.against: base has 2 variants; write base/ and one of x, y"):
        expand(load_plan(file))
    file = write_plan(base, {"id": "a", **SEEDS, "overrides": {"data.value": 3}, "expect": expect("base/y")})
    assert findings(file, {"a": 4.0, "base.x": 5.0})["a"].would_decide == "nothing to compare with yet"
    assert findings(file, {"a": 4.0, "base": 5.0})["a"].verdict == "supported"


def test_cells_that_share_a_run_cost_it_once(write_plan):
    rows = {"x": {"data.value": 1}, "y": {"data.value": 1}}
    found = findings(write_plan({"id": "a", "rows": rows}), {"a": 4.0})["a"]
    assert (found.hours, found.states) == (1.0, {"done": 1})


@pytest.mark.parametrize("kind", ["stop if", "go on if"])
def test_a_gate_on_what_nobody_reported_is_closed(write_plan, kind):
    file = write_plan({"id": "a", "gates": {kind: "eval_loss > 3"}}, {"id": "b", "needs": ["a"]})
    assert findings(file, {})["a"].advice == "do not go on from here"


def test_seeds_that_change_nothing_are_refused(write_plan):
    options = {"options.checkpoint": "runs/mine"}
    probe = {"id": "a", **SEEDS, "verb": "probe", "recipe": None, "overrides": options}
    with pytest.raises(UserError, match=r"experiments.a.seeds: probe takes no seed, so 5 seeds are one run"):
        expand(load_plan(write_plan(probe)))
    bench = {"id": "a", **SEEDS, "verb": "bench", "recipe": None, "overrides": {"options.mode": "body"}}
    assert len({run.id for run in expand(load_plan(write_plan(bench)))}) == 5  # measured five times
    pretrained = {"id": "p", **SEEDS}
    read = {**probe, "overrides": {"options.checkpoint": {"run": "p"}}}
    assert len({run.id for run in expand(load_plan(write_plan(pretrained, read)))}) == 10


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": "a", "expect": expect("a")}, "expect.against: a itself; name one of its variants"),
        ({"id": "a", "seeds": [7], "expect": expect("base")}, "expect.against: base has none of these seeds"),
    ],
)
def test_comparisons_with_nothing_are_refused(write_plan, fields, message):
    with pytest.raises(UserError, match=message):
        expand(load_plan(write_plan({"id": "base", "overrides": {"data.value": 5}}, fields)))
