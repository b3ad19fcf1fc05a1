"""A plan is brought to its end: order, failures, early stops, gates, and clients that die."""

import json
import shutil
import time
from pathlib import Path

import pytest
import yaml

from concept_encoder.lab import scheduler as scheduler_module
from concept_encoder.lab.engines.engine import Engine, Job, JobStatus, NotNow, Room


def fake(what: str, **more) -> dict:
    return {"data.fake": what, **more}


def test_runs_wait_for_the_runs_that_they_read(write_plan, lab):
    scheduler = lab(
        write_plan(
            {"id": "a", "seeds": [0, 1], "overrides": fake("ok")},
            {
                "id": "b",
                "verb": "finetune",
                "seeds": [0, 1],
                "overrides": {"model.checkpoint": {"run": "a"}, "data.task": "mnli"},
            },
        )
    )
    scheduler.run(every=0.02)
    states = {state.name: state for state in scheduler.states.values()}
    assert {state.state for state in states.values()} == {"done"}
    given = scheduler.store.attempt_folder(states["b.s1"]) / "recipe.yaml"
    read = yaml.safe_load(given.read_text())["model"]["checkpoint"]
    assert Path(read) == Path(states["a.s1"].folder).resolve()
    assert states["a.s1"].ended <= states["b.s1"].started


@pytest.mark.parametrize(
    ("what", "state", "reason", "attempts"),
    [
        ("crash", "failed", "ValueError: the hub answered ConnectionError, in behave (", 2),
        ("crash-once", "done", "", 2),
        ("mistake", "failed", "model.preset: no preset is called 'wovn'", 1),
        ("memory 32", "done", "", 2),
        ("memory 8", "failed", "out of memory (2 attempts)", 2),
        ("nan", "stopped", "NaN: the loss is nan at step 4", 1),
        ("losses 1,1,1,1,1,1,1,1,1,1,9,9,9,9,9,9 30", "stopped", "divergence: loss 9.000", 1),
    ],
)
def test_failures_and_early_stops_say_why_and_block_nobody(write_plan, lab, what, state, reason, attempts):
    scheduler = lab(
        write_plan(
            {"id": "poisoned", "overrides": fake(what)},
            {
                "id": "next",
                "verb": "finetune",
                "overrides": {"model.checkpoint": {"run": "poisoned"}, "data.task": "rte"},
            },
            {"id": "other", "overrides": fake("ok")},
        )
    )
    scheduler.run(every=0.02)
    states = {found.experiment: found for found in scheduler.states.values()}
    assert states["poisoned"].state == state, states["poisoned"].reason
    assert reason in states["poisoned"].reason
    assert states["poisoned"].attempt == attempts
    assert states["other"].state == "done"
    assert states["next"].state == ("done" if state == "done" else "skipped")
    if state != "done":
        assert f"model.checkpoint needs poisoned.s0, which was {state}" in states["next"].reason


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(write_plan, lab):
    scheduler = lab(write_plan({"id": "a", "overrides": fake("memory 32")}))
    scheduler.run(every=0.02)
    (state,) = scheduler.states.values()
    training = yaml.safe_load((scheduler.store.attempt_folder(state) / "recipe.yaml").read_text())["training"]
    assert (training["batch_size"], training["micro_batch_size"]) == (64, 32)
    assert len((Path(state.folder) / "starts.txt").read_text().split()) == 2, "it goes on from its checkpoints"


def test_one_run_that_says_disk_does_not_halt_the_plan(write_plan, lab):
    """The disk of the store has room: a quota, another disk, or a word in a log."""
    file = write_plan({"id": "a", "overrides": fake("disk")}, {"id": "b", "priority": 200, "overrides": fake("ok")})
    scheduler = lab(file, slots=1)
    scheduler.run(every=0.02)
    assert not scheduler.halted
    (a, b) = scheduler.states.values()
    assert (a.state, a.reason) == ("failed", "no space left on its disk (2 attempts)")
    assert b.state == "done"


def test_a_full_disk_halts_and_loses_nothing(write_plan, lab, monkeypatch):
    file = write_plan({"id": "a", "overrides": fake("disk")}, {"id": "b", "priority": 200, "overrides": fake("ok")})
    monkeypatch.setattr(scheduler_module, "is_full", lambda folder: True)
    scheduler = lab(file, slots=1)
    scheduler.run(every=0.02)
    assert "the disk is full" in scheduler.halted
    assert {state.state for state in scheduler.states.values()} == {"waiting"}


def test_a_disk_that_is_really_full_loses_nothing(write_plan, lab, tiny_disk):
    """A run fills it: its log is empty, the store cannot be written, and yet the next client knows what happened."""
    file = write_plan(
        {"id": "a", "overrides": fake("fill")}, {"id": "b", "priority": 200, "overrides": {"data.fake": "ok"}}
    )
    first = lab(file, slots=1, store=tiny_disk)
    with pytest.raises(OSError, match="No space left"):
        first.run(every=0.02)
    (a, b) = first.states.values()
    Path(a.folder, "checkpoint").unlink()
    second = lab(file, slots=1, store=tiny_disk)
    second.tick()
    events = [(state, reason) for _, id, state, reason in second.store.events(a.id)]
    assert events[1] == ("waiting", "the disk is full: free some space and give the same command again")
    assert not second.halted, "the command was given again"
    assert second.states[b.id].attempt == 0


@pytest.mark.parametrize(
    ("gates", "value", "opens"),
    [
        ({"go on if": "mnli.accuracy > 0.6"}, 0.7, True),
        ({"go on if": "mnli.accuracy > 0.6"}, 0.5, False),
        ({"stop if": "mnli.accuracy < 0.6"}, 0.7, True),
        ({"stop if": "mnli.accuracy < 0.6"}, 0.5, False),
    ],
)
def test_gates_open_and_close(write_plan, finished, gates, value, opens):
    first = {"verb": "finetune", "overrides": {"model.checkpoint": "x", "data.task": "mnli", "data.value": value}}
    states = finished(
        write_plan(
            {"id": "a", "seeds": [0, 1], "gates": gates, **first},
            {"id": "b", "needs": ["a"], "overrides": fake("ok")},
        )
    )
    assert states["b.s0"] == ("done" if opens else "skipped")


def test_a_gate_after_steps_stops_the_run(write_plan, lab):
    gates = {"stop if": "eval_loss > 4 after 2 steps"}
    scheduler = lab(write_plan({"id": "a", "gates": gates, "overrides": fake("losses 4.5 30")}))
    scheduler.run(every=0.02)
    (state,) = scheduler.states.values()
    assert (state.state, state.reason) == (
        "stopped",
        "gate: eval_loss is 4.5 at step 4 (stop if eval_loss > 4 after 2 steps)",
    )


def test_priority_decides(write_plan, lab):
    experiments = [
        {"id": name, "priority": place, "overrides": {"data.x": name}} for name, place in zip("abc", (3, 1, 2))
    ]
    scheduler = lab(write_plan(*experiments), slots=1)
    scheduler.run(every=0.01)
    started = sorted(scheduler.states.values(), key=lambda state: state.started)
    assert [state.experiment for state in started] == ["b", "c", "a"]


def test_a_stubborn_run_is_killed(write_plan, lab):
    scheduler = lab(write_plan({"id": "a", "overrides": fake("stubborn")}))
    scheduler.tick()
    (state,) = scheduler.states.values()
    scheduler.store.request_stop(state.id)
    scheduler.run(every=0.02)
    assert (state.state, state.reason) == ("stopped", "by request")


def test_a_dead_client_loses_nothing(write_plan, lab):
    file = write_plan({"id": "a", "seeds": [0, 1, 2], "overrides": fake("sleep 0.5")})
    first = lab(file, slots=2)
    first.tick()
    second = lab(file, slots=2)  # the first is never heard of again
    second.run(every=0.02)
    for state in second.states.values():
        assert (state.state, state.attempt) == ("done", 1)
        assert len((Path(state.folder) / "starts.txt").read_text().split()) == 1
    third = lab(file)
    assert not third.tick(), "a finished plan has nothing to do"


def test_a_client_that_died_before_it_wrote_finds_the_run(write_plan, lab, monkeypatch):
    """Killed between the start of the process and the record of it."""
    file = write_plan({"id": "a", "overrides": fake("sleep 0.3")})
    first = lab(file)

    class KilledError(Exception):
        pass

    def killed(*_, **__):
        raise KilledError

    monkeypatch.setattr(first.store, "move", killed)
    with pytest.raises(KilledError):
        first.tick()
    second = lab(file)
    (state,) = second.states.values()
    assert (state.state, state.attempt) == ("running", 1)
    second.run(every=0.02)
    assert state.state == "done"
    assert len((Path(state.folder) / "starts.txt").read_text().split()) == 1


def test_what_a_dead_client_started_is_stopped_although_the_plan_was_edited(write_plan, lab, monkeypatch):
    first = lab(write_plan({"id": "a", "overrides": fake("sleep 30")}))
    monkeypatch.setattr(first.store, "move", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        first.tick()
    (old,) = first.states
    second = lab(write_plan({"id": "b", "overrides": fake("ok")}))
    second.store.request_stop(old)
    second.run(every=0.02)
    assert second.store.state(old).state == "stopped"


def test_a_store_may_be_moved_and_used_from_anywhere(write_plan, lab, tmp_path, monkeypatch):
    file = write_plan(
        {"id": "a", "overrides": fake("ok")},
        {"id": "b", "overrides": fake("crash-once")},
        {"id": "c", "verb": "finetune", "overrides": {"model.checkpoint": {"run": "a"}, "data.task": "rte"}},
    )
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    lab(file, store="runs/plan").run(every=0.02)
    shutil.move("runs", tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there" / "runs")
    again = lab(file, store="plan")
    assert not again.tick(), "nothing is left to do"
    for run in again.runs.values():
        assert again.metrics(run) is not None
        assert Path(again.states[run.id].folder, "result.json").is_file()
    assert not Path("runs").exists()


def test_an_edited_recipe_runs_just_what_it_touches(write_plan, lab):
    def plan(value: int):
        return write_plan(
            {"id": "a", "overrides": {"data.x": value}},
            {"id": "b", "overrides": fake("ok")},
            {"id": "c", "verb": "finetune", "overrides": {"model.checkpoint": {"run": "a"}, "data.task": "rte"}},
        )

    lab(plan(1)).run(every=0.02)
    again = lab(plan(2))
    assert {s.experiment: s.state for s in again.states.values()} == {"a": "waiting", "b": "done", "c": "waiting"}
    again.run(every=0.02)
    assert {state.state for state in again.states.values()} == {"done"}


def test_failed_runs_start_again_when_asked(write_plan, lab):
    file = write_plan(
        {"id": "a", "overrides": fake("mistake")},
        {"id": "b", "verb": "finetune", "overrides": {"model.checkpoint": {"run": "a"}, "data.task": "rte"}},
    )
    lab(file).run(every=0.02)
    assert not lab(file).tick()
    again = lab(file, retry=True)
    (a, b) = again.states.values()
    folder = Path(a.folder)
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"eval_loss": 1.0}))  # mended by hand
    again.run(every=0.02)
    assert (a.state, b.state) == ("done", "done")


def test_a_run_that_left_the_plan_is_seen_to_its_end(write_plan, lab):
    first = lab(write_plan({"id": "a", "overrides": fake("sleep 0.3")}), slots=1)
    first.tick()
    (old,) = first.states
    second = lab(write_plan({"id": "b", "overrides": fake("ok")}), slots=1)
    second.run(every=0.02)
    assert [state for _, id, state, _ in second.store.events() if id == old] == ["running", "done"]
    (state,) = second.states.values()
    assert state.state == "done"


@pytest.mark.parametrize(("request_it", "hours", "reason"), [(True, 1.0, "by request"), (False, 1e-9, "budget spent")])
def test_a_run_that_left_the_plan_can_be_stopped(write_plan, lab, request_it, hours, reason):
    """By request, or as its experiment's budget is spent; it is called by its folder, as its successor has its name."""
    first = lab(write_plan({"id": "a", "overrides": fake("sleep 30")}))
    first.tick()
    (old,) = first.states
    second = lab(write_plan({"id": "a", "overrides": fake("ok"), "resources": {"hours": hours}}))
    (left,) = second.store.left_over()
    assert left.name == f"a.s0-{old[:8]}"
    assert [state.name for state in second.store.all_states()] == ["a.s0", left.name]
    if request_it:
        second.store.request_stop(old)
    second.run(every=0.02)
    assert second.store.state(old).state == "stopped"
    assert second.store.state(old).reason.startswith(reason)


class PaperEngine(Engine):
    """Its jobs are where a test says they are."""

    room = Room(4, {})

    def __init__(self, now: str = "running"):
        self.now, self.away = now, ""

    def submit(self, job: Job) -> bool:
        if self.away in job.folder.name and self.away:
            raise NotNow("its host is away")
        return True

    def status(self, job: Job) -> JobStatus:
        return JobStatus(self.now, None if self.now == "running" else 1)

    def logs(self, job: Job):
        return iter(())

    def stop(self, job: Job) -> None:
        self.now = "ended"

    def fetch(self, job: Job) -> Path:
        return job.output


def test_retry_forgives_what_a_run_was_stopped_for(write_plan, lab):
    """NaN in its metrics and a budget that was spent; what comes after the retry is judged."""
    file = write_plan({"id": "a", "overrides": fake("ok")})
    first = lab(file, engine=PaperEngine())
    first.tick()
    (state,) = first.states.values()
    Path(state.folder).mkdir(parents=True)

    def log(loss: float) -> None:
        with open(Path(state.folder) / "metrics.jsonl", "a") as metrics:
            metrics.write(json.dumps({"step": 7, "loss": loss, "time": time.time()}) + "\n")

    log(float("nan"))
    first.tick()
    first.tick()
    assert (state.state, state.reason) == ("stopped", "NaN: the loss is nan at step 7")
    first.store.mark(state, seconds=100 * 3600.0)
    again = lab(file, engine=PaperEngine(), retry=True)
    (state,) = again.states.values()
    for _ in range(3):
        again.tick()
        assert (state.state, state.stopping) == ("running", "")
    later = lab(file, engine=PaperEngine())  # another client knows it too
    (state,) = later.states.values()
    later.tick()
    assert state.stopping == ""
    log(float("nan"))
    later.tick()
    assert state.stopping == "NaN: the loss is nan at step 7"
    assert state.seconds == 100 * 3600.0, "what was spent stays in the record"


def test_a_run_that_waits_for_a_host_of_its_own_holds_up_nobody(write_plan, lab):
    engine = PaperEngine()
    engine.away = "a.s0"
    file = write_plan({"id": "a", "overrides": fake("ok")}, {"id": "b", "overrides": fake("x")})
    scheduler = lab(file, engine=engine)
    assert scheduler.tick()
    (a, b) = scheduler.states.values()
    assert (a.state, a.reason, a.attempt) == ("waiting", "its host is away", 0)
    assert b.state == "running"
    engine.away = ""
    scheduler.tick()
    assert (a.state, a.reason, a.attempt) == ("running", "", 1)


def test_what_is_needed_must_have_ended_as_a_whole_although_it_is_read(write_plan, lab, tmp_path):
    go = tmp_path / "go"
    file = write_plan(
        {"id": "a", "seeds": [0, 1], "rows": {"x": fake("ok"), "y": fake(f"until {go}")}},
        {
            "id": "b",
            "needs": ["a"],
            "verb": "finetune",
            "seeds": [0, 1],
            "overrides": {"model.checkpoint": {"run": "a/x"}, "data.task": "rte"},
        },
    )
    scheduler = lab(file)
    states = {state.name: state for state in scheduler.states.values()}
    end = time.time() + 30
    while [state.state for state in states.values()].count("done") < 2:
        assert time.time() < end
        scheduler.tick()
    assert {states[name].state for name in ("b.s0", "b.s1")} == {"waiting"}
    go.touch()
    scheduler.run(every=0.02)
    assert {state.state for state in states.values()} == {"done"}


def test_experiments_share_a_run_of_the_same_content(write_plan, lab):
    """It runs once, as soon as one of them may."""
    file = write_plan(
        {"id": "never", "overrides": fake("mistake")},
        {"id": "a", "needs": ["never"], "overrides": {"data.x": 1}},
        {"id": "b", "overrides": {"data.x": 1}},
    )
    scheduler = lab(file)
    scheduler.run(every=0.02)
    assert [state.state for state in scheduler.states.values()].count("done") == 1
    assert len(scheduler.states) == 2
