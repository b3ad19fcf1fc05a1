"""Whatever the graph of experiments and whatever fails: order, slots and final states hold."""

import json
import tempfile
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from concept_encoder.lab.engines.engine import Engine, Job, JobStatus
from concept_encoder.lab.plan import load_plan
from concept_encoder.lab.runs import expand
from concept_encoder.lab.scheduler import Scheduler
from concept_encoder.lab.store import Store


class PaperEngine(Engine):
    """Runs nothing: a job takes two looks and ends as its recipe says. It remembers like a machine does."""

    def __init__(self, slots: int):
        self.slots, self.looks, self.order = slots, {}, []

    def submit(self, job: Job) -> bool:
        if sum(looks < 2 for looks in self.looks.values()) >= self.slots:
            return False
        assert job.folder not in self.looks, "an attempt is started once"
        self.looks[job.folder] = 0
        self.order.append(job.output)
        return True

    def status(self, job: Job) -> JobStatus:
        self.looks[job.folder] += 1
        if self.looks[job.folder] < 2:
            return JobStatus("running")
        if yaml.safe_load(job.files["recipe.yaml"])["data"]["fails"]:
            return JobStatus("ended", 1)
        job.output.mkdir(parents=True, exist_ok=True)
        (job.output / "result.json").write_text(json.dumps({"eval_loss": 1.0}))
        return JobStatus("ended", 0)

    def logs(self, job: Job):
        return iter(())

    def stop(self, job: Job) -> None:
        raise AssertionError("nobody asked")

    def fetch(self, job: Job) -> Path:
        return job.output


@st.composite
def plans(draw):
    """Experiments in random order; each needs some with a lower number, so that there is no circle."""
    count = draw(st.integers(1, 9))
    experiments = []
    for place in range(count):
        earlier = [f"e{i}" for i in range(place)]
        needs = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if earlier else []
        overrides = {"data.place": place, "data.fails": draw(st.integers(0, 4)) == 0}
        if needs and draw(st.booleans()):
            overrides["model.checkpoint"] = {"run": needs.pop()}
        gates = {"go on if": draw(st.sampled_from(["eval_loss < 2", "eval_loss > 2"]))} if draw(st.booleans()) else {}
        experiments.append(
            {"id": f"e{place}", "needs": needs, "overrides": overrides, "gates": gates, "seeds": [0, 1],
             "priority": draw(st.integers(1, 3))}
        )  # fmt: skip
    return draw(st.permutations(experiments))


@settings(max_examples=40)
@given(plans(), st.integers(1, 3))
def test_any_plan_ends_in_order(experiments, slots):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text("training: {batch_size: 8}\n")
        content = {"title": "t", "defaults": {"recipe": "recipe.yaml"}, "experiments": list(experiments)}
        (folder / "plan.yaml").write_text(yaml.safe_dump(content))
        runs, engine = expand(load_plan(folder / "plan.yaml")), PaperEngine(slots)
        scheduler = Scheduler(runs, Store(folder / "store"), engine)
        for _ in range(200):
            if not scheduler.tick():
                break
            assert sum(state.state == "running" for state in scheduler.states.values()) <= slots
        check(runs, scheduler, engine)


def check(runs, scheduler: Scheduler, engine: PaperEngine) -> None:
    states = scheduler.states
    place = {id: engine.order.index(Path(s.folder).resolve()) for id, s in states.items() if s.attempt}
    by_experiment = {run.experiment.id: [r for r in runs if r.experiment is run.experiment] for run in runs}
    for run in runs:
        state, fails = states[run.id], run.sections["data"]["fails"]
        assert state.final
        closed = [
            need
            for need in run.experiment.all_needs
            if by_experiment[need][0].experiment.gates.get("go on if") == "eval_loss > 2"
            or all(states[other.id].state != "done" for other in by_experiment[need])
        ]
        blocked = any(states[id].state != "done" for id in run.inputs.values()) or bool(closed)
        assert state.state == ("skipped" if blocked else "failed" if fails else "done"), (run.name, state.reason)
        assert state.attempt == (0 if blocked else 2 if fails else 1)
        for need in run.experiment.needs if state.attempt else ():
            assert all(place[other.id] < place[run.id] for other in by_experiment[need] if other.id in place)
