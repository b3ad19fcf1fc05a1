"""`concept-encoder plan …` as a user meets it."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from concept_encoder.cli.main import main
from concept_encoder.lab.engines.local import LocalEngine
from concept_encoder.lab.plan import load_plan
from concept_encoder.lab.runs import expand
from concept_encoder.lab.store import State, Store

PLANS = Path(__file__).parents[2] / "plans"


def call(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *arguments])
    out, err = capsys.readouterr()
    return stopped.value.code or 0, out, err


@pytest.fixture
def program(monkeypatch):
    """The scheduler of the command line starts the fake command."""
    from concept_encoder.lab import scheduler

    fake = (sys.executable, "-S", "-E", str(Path(__file__).with_name("fake.py")))
    monkeypatch.setattr(scheduler, "PROGRAM", fake)


@pytest.mark.parametrize("plan", sorted(PLANS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_plans_that_are_shipped_are_sound(plan):
    loaded = load_plan(plan)
    runs = expand(loaded)
    assert len({run.id for run in runs}) == len(runs), "no run is planned twice"
    assert {name for run in runs for name in run.inputs.values()} <= {run.id for run in runs}


def test_run_status_logs_report(capsys, program, write_plan, tmp_path):
    file = write_plan(
        {"id": "a", "seeds": [0, 1], "overrides": {"data.fake": "ok"}},
        {"id": "b", "overrides": {"data.fake": "mistake", "data.token": "hf_abcdefghijklmnop"}},
    )
    store = ("--store", str(tmp_path / "store"))
    code, out, err = call(capsys, "run", str(file), *store, "--no-check", "--slots", "4")
    assert code == 1
    assert "2 done, 1 failed" in out
    assert "failed   b.s0: model.preset: no preset is called 'wovn'" in err
    code, out, _ = call(capsys, "status", str(file), *store)
    assert code == 0
    assert "a.s0" in out
    assert f"the plan has ended: concept-encoder plan report {file}" in out
    code, out, err = call(capsys, "logs", str(file), "b", *store)
    assert "no preset is called 'wovn'" in out
    assert "running" in err
    code, out, _ = call(capsys, "watch", str(file), *store)
    assert "2 done, 1 failed" in out
    code, out, _ = call(capsys, "report", str(file), *store)
    assert (tmp_path / "store" / "report.html").is_file()


def test_logs_are_followed_over_attempts_to_the_end(capsys, program, write_plan, tmp_path):
    """Whole lines alone: half a token would not be known as one."""
    store = Store(tmp_path / "store")
    store.set_plan([State("1", "a.s0", "a", folder=str(tmp_path / "a"))])
    (run,) = store.states()
    store.move(run, "running", attempt=1)

    def write(text: str) -> None:
        folder = store.attempt_folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.txt", "a") as log:
            log.write(text)

    def go_on() -> None:
        time.sleep(0.5)
        write("token hf_abcdefgh")
        time.sleep(0.5)
        write("ijklmnop\n")
        theirs = Store(tmp_path / "store")  # a connection belongs to its thread
        theirs.move(theirs.states()[0], "waiting", "it crashed")
        theirs.move(theirs.states()[0], "running", attempt=2)
        run.attempt = 2
        time.sleep(0.5)
        write("the end")
        theirs.move(theirs.states()[0], "done")

    (tmp_path / "plan.yaml").touch()
    thread = threading.Thread(target=go_on)
    thread.start()
    code, out, err = call(
        capsys, "logs", str(tmp_path / "plan.yaml"), "a", "--follow", "--store", str(tmp_path / "store")
    )
    thread.join()
    assert (code, out) == (0, "token ***\nthe end")
    assert "attempt 2" in err


def test_stop_works_without_a_scheduler(capsys, program, write_plan, tmp_path, monkeypatch):
    file = write_plan(
        {"id": "a", "overrides": {"data.fake": "sleep 30"}}, {"id": "b", "overrides": {"data.fake": "ok"}}
    )
    from concept_encoder.lab.scheduler import Scheduler

    first = Scheduler(expand(load_plan(file)), Store(tmp_path / "store"), LocalEngine(1, []))
    first.tick()
    code, out, _ = call(capsys, "stop", str(file), "--all", "--store", str(tmp_path / "store"))
    assert code == 0
    assert "stopped  a.s0: by request" in out
    assert {state.state for state in Store(tmp_path / "store").states()} == {"stopped"}


def test_a_run_that_left_the_plan_is_seen_and_stopped(capsys, program, write_plan, tmp_path):
    from concept_encoder.lab.scheduler import Scheduler

    file, store = write_plan({"id": "a", "overrides": {"data.fake": "sleep 30"}}), Store(tmp_path / "store")
    Scheduler(expand(load_plan(file)), store, LocalEngine(1, [])).tick()
    write_plan({"id": "b", "overrides": {"data.fake": "ok"}})
    store.set_plan([State("b", "b.s0", "b")])  # as plan run does
    (left,) = store.left_over()
    options = ("--store", str(tmp_path / "store"))
    _, out, _ = call(capsys, "status", str(file), *options)
    assert f"{left.name}: no longer in the plan" in out
    assert "1 running, 1 waiting" in out
    code, out, _ = call(capsys, "stop", str(file), left.name, *options)
    assert code == 0
    assert f"stopped  {left.name}: by request" in out
    assert store.state(left.id).state == "stopped"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu", "PLAN"], "plan rnu: no such command; did you mean 'run'"),
        (["check", "nothing.yaml"], "nothing.yaml: no such plan file"),
        (["status", "nothing.yaml"], "nothing.yaml: no such plan file"),
        (["check", "PLAN", "--quick", "--on", ""], "--on '': no such engine"),
        (["check", "PLAN", "--quick", "--on", "local:"], "--on local:: names no file"),
        (["check", "PLAN", "--gpus", "9999999999"], "9999999999 is not in the range 0<=x<=100000"),
        (["check", "PLAN", "--slots", "9" * 30], "is not in the range 1<=x<=100000"),
        (["status", "PLAN"], "no store of a plan; start one with concept-encoder plan run"),
        (["check", "PLAN", "--quick", "--gpus", "0"], "experiments.a.resources.gpus: 4, but this machine has 0"),
        (["run", "PLAN", "--gpus", "1"], "experiments.a.resources.gpus: 4, but this machine has 1"),
        (["run", "PLAN", "--no-check", "--gpus", "4", "--store", "PLAN"], "is a file, or in one; name a folder"),
        (["hosts", "check", "nothing.yaml"], "nothing.yaml: no such hosts file"),
        (["stop", "PLAN"], "plan stop: name runs, or give --all"),
        (["stop", "PLAN", "a", "--all"], "--all: given together with runs"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(capsys, write_plan, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    file = write_plan({"id": "a", "resources": {"gpus": 4}})
    code, _, err = call(capsys, *(str(file) if word == "PLAN" else word for word in arguments))
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists(), "nothing is half-written"


def test_gpus_of_others_are_not_taken(capsys, write_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    file = str(write_plan({"id": "a", "resources": {"gpus": 3}}))
    code, _, err = call(capsys, "run", file, "--gpus", "3", "--no-check")
    assert code == 2
    assert err == "error: --gpus: 3, but 2 are visible (CUDA_VISIBLE_DEVICES, nvidia-smi); ask for fewer\n"
    assert call(capsys, "check", file, "--gpus", "3", "--quick")[0] == 0  # a machine to plan for


def test_a_store_that_was_cut_off_as_it_was_made_is_made(capsys, program, write_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "plan").mkdir(parents=True)
    (tmp_path / "runs" / "plan" / "plan.db").touch()
    file = write_plan({"id": "a", "overrides": {"data.fake": "ok"}})
    code, out, err = call(capsys, "run", str(file), "--no-check", "--store", "runs/plan")
    assert code == 0, err
    assert "1 done" in out


def test_a_run_that_is_refused_leaves_no_store(capsys, write_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "run", str(write_plan({"id": "a"})))
    assert code == 2
    assert "a.s0: data.corpus: required; set it in the recipe, or as section.field=value" in err
    assert not (tmp_path / "runs").exists()


def test_a_strangers_words_do_not_steer_the_terminal(capsys, write_plan):
    file = write_plan({"id": "a"}, title="a\x1b[31mred")
    code, out, _ = call(capsys, "check", str(file), "--quick")
    assert code == 0
    assert r"a\x1b[31mred" in out
    code, _, err = call(capsys, "check", str(write_plan({"id": "a", "\x1b]0;x\a": 1})), "--quick")
    assert code == 2
    assert r"experiments.a.\x1b]0;x\x07: no such field" in err


def test_a_terminal_without_dashes(write_plan):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "concept_encoder.cli.main", "plan", "check", write_plan({"id": "a"}), "--quick"]
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (found.returncode, found.stderr) == (0, "")


def test_a_remembered_engine_whose_file_is_gone(capsys, write_plan, tmp_path):
    store = tmp_path / "store"
    Store(store).set_engine("ray:/gone.yaml")
    code, _, err = call(capsys, "check", str(write_plan({"id": "a"})), "--quick", "--store", str(store))
    assert code == 2
    assert f"{store} remembers where its runs are: --on ray:/gone.yaml: no file /gone.yaml" in err


@pytest.mark.parametrize("name", ["", "a"])
def test_only_the_whole_name_stops_a_run(capsys, write_plan, tmp_path, name):
    store = Store(tmp_path / "store")
    store.set_plan([State("1", "a.s0", "a")])
    code, _, err = call(capsys, "stop", str(write_plan({"id": "a"})), name, "--store", str(store.folder))
    assert code == 2
    assert f"{name or repr(name)}: no run is called so; " in err
    assert store.requests() == []


def test_a_report_of_another_plan_is_refused(capsys, write_plan, tmp_path):
    Store(tmp_path / "store").set_plan([State("1", "other.s0", "other")])
    code, _, err = call(capsys, "report", str(write_plan({"id": "a"})), "--store", str(tmp_path / "store"))
    assert code == 2
    assert "holds no run of" in err
    assert not (tmp_path / "store" / "report.html").exists()


def test_two_plans_on_one_store_are_refused(capsys, write_plan, tmp_path):
    file = write_plan({"id": "a"})
    with Store(tmp_path / "store").lock():
        code, _, err = call(capsys, "run", str(file), "--store", str(tmp_path / "store"), "--no-check")
    assert code == 2
    assert "in use by process" in err


def test_status_needs_no_torch(write_plan, tmp_path):
    file = write_plan({"id": "a"})
    Store(tmp_path / "store").set_plan([State(str(i), f"a.s{i}", "a") for i in range(1000)])
    lines = [
        "import sys; from concept_encoder.cli.main import main",
        f"try: main(['plan', 'status', {str(file)!r}, '--store', {str(tmp_path / 'store')!r}])",
        "except SystemExit: print({'torch', 'transformers', 'scipy', 'matplotlib'} & set(sys.modules))",
    ]
    found = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert "1000 waiting" in found.stdout
    assert found.stdout.rstrip().endswith("set()")
