"""The local engine knows its jobs by their locks, whoever started them, and nobody else's process by a pid."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from concept_encoder.lab.engines.engine import Job
from concept_encoder.lab.engines.local import LocalEngine
from concept_encoder.lab.engines.supervise import start_time
from concept_encoder.lab.verbs import PROGRAM, VERBS, command_line


def job(folder: Path, code: str, name: str = "job", gpus: int = 0) -> Job:
    return Job(folder / name, [sys.executable, "-S", "-E", "-c", code], folder / "output", gpus)


def wait(engine: LocalEngine, job: Job, seconds: float = 20) -> str:
    end = time.time() + seconds
    while engine.status(job).state == "running":
        assert time.time() < end
        time.sleep(0.02)
    return engine.status(job).state


def test_output_and_exit_code_survive_the_client(tmp_path):
    it = job(tmp_path, "import sys, time; time.sleep(0.2); print('bye'); sys.exit(3)")
    assert LocalEngine(1, []).submit(it)
    later = LocalEngine(1, [])
    assert later.status(it).state == "running"
    assert wait(later, it) == "ended"
    assert later.status(it).code == 3
    assert list(later.logs(it)) == ["bye\n"]


def test_slots_and_gpus(tmp_path):
    engine = LocalEngine(1, ["4", "5"])
    code = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(0.5)"
    jobs = [job(tmp_path, code, name, gpus) for name, gpus in (("cpu", 0), ("one", 1), ("two", 2), ("three", 1))]
    assert [engine.submit(each) for each in jobs] == [True, True, False, True]
    assert not engine.submit(job(tmp_path, code, "more"))
    later = LocalEngine(1, ["4", "5"])
    assert [later.status(each).state for each in jobs] == ["running", "running", "lost", "running"]
    assert not later.submit(jobs[2]), "a new client knows which GPUs are taken"
    for each in (jobs[0], jobs[1], jobs[3]):
        wait(later, each)
    assert [next(iter(later.logs(each))).strip() for each in (jobs[0], jobs[1], jobs[3])] == ["", "4", "5"]
    assert later.submit(jobs[2])
    wait(later, jobs[2])


@pytest.mark.parametrize(("given", "threads"), [("", "2"), ("1", "1")])
def test_slots_share_the_cores_unless_threads_are_given(tmp_path, monkeypatch, given, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    engine, it = LocalEngine(2, []), job(tmp_path, "import os; print(os.environ['OMP_NUM_THREADS'])")
    engine.submit(it)
    wait(engine, it)
    assert list(engine.logs(it)) == [f"{threads}\n"]


def test_submitting_twice_starts_once(tmp_path):
    it = job(tmp_path, f"open({str(tmp_path / 'count')!r}, 'a').write('x'); import time; time.sleep(0.3)")
    assert LocalEngine(2, []).submit(it)
    assert LocalEngine(2, []).submit(it)
    engine = LocalEngine(2, [])
    wait(engine, it)
    assert engine.submit(it)
    assert (tmp_path / "count").read_text() == "x"


def test_a_killed_supervisor_does_not_hide_the_run(tmp_path):
    engine = LocalEngine(1, [])
    it = job(tmp_path, "import time; time.sleep(0.6)")
    engine.submit(it)
    while not (it.folder / "log.txt").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(json.loads((it.folder / "process.json").read_text())["pid"], signal.SIGKILL)
    time.sleep(0.1)
    assert engine.status(it).state == "running"
    assert wait(engine, it) == "lost"


def test_a_run_is_stopped_although_its_supervisor_was_killed(tmp_path):
    engine = LocalEngine(1, [], ((0.0, signal.SIGINT),))
    it = job(tmp_path, "import time; time.sleep(30)")
    engine.submit(it)
    while not (it.folder / "child.json").exists():
        time.sleep(0.01)
    os.kill(json.loads((it.folder / "process.json").read_text())["pid"], signal.SIGKILL)
    time.sleep(0.1)
    engine.stop(it)
    assert wait(engine, it, seconds=10) == "lost"


def test_a_reused_pid_is_left_alone(tmp_path):
    """The record names a process that has the pid of our job, but started at another time."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], start_new_session=True)
    try:
        it = job(tmp_path, "")
        it.folder.mkdir(parents=True)
        (it.folder / "process.json").write_text(json.dumps({"pid": stranger.pid, "started": "another time"}))
        engine = LocalEngine(1, [], ((0.0, signal.SIGKILL),))
        assert engine.status(it).state == "lost"
        engine.stop(it)
        time.sleep(0.1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_stop_reaches_the_whole_group(tmp_path):
    engine = LocalEngine(1, [], ((0.0, signal.SIGINT), (0.3, signal.SIGKILL)))
    child = "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(60)"
    code = (
        f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {child!r}]);"
        " print(p.pid, flush=True); import signal; signal.signal(2, signal.SIG_IGN); time.sleep(60)"
    )
    it = job(tmp_path, code)
    engine.submit(it)
    while not list(engine.logs(it)):
        time.sleep(0.02)
    (line,) = engine.logs(it)
    while engine.status(it).state == "running":
        engine.stop(it)
        time.sleep(0.05)
    for _ in range(100):
        if start_time(int(line)) is None:
            break
        time.sleep(0.02)
    assert start_time(int(line)) is None


def test_a_clock_that_was_put_back_still_stops(tmp_path):
    engine = LocalEngine(1, [])
    it = job(tmp_path, "import time; time.sleep(30)")
    engine.submit(it)
    while not (it.folder / "process.json").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    (it.folder / "stop.json").write_text(json.dumps({"time": time.time() + 3600, "sent": 0}))
    while engine.status(it).state == "running":
        engine.stop(it)
        time.sleep(0.02)
    assert engine.status(it).state in ("ended", "lost")


def test_a_missing_program_is_a_mistake_not_a_hang(tmp_path):
    engine = LocalEngine(1, [])
    it = Job(tmp_path / "job", ["/nowhere/concept-encoder"], tmp_path)
    engine.submit(it)
    wait(engine, it)
    assert engine.status(it).code == 2
    assert "error: /nowhere/concept-encoder: No such file" in "".join(engine.logs(it))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux")
def test_start_times_tell_processes_apart():
    one, two = (subprocess.Popen(["sleep", "5"]) for _ in range(2))
    assert start_time(one.pid) == start_time(one.pid)
    one.kill()
    one.wait()
    assert start_time(one.pid) is None
    two.kill()
    two.wait()


def test_commands_are_lists_and_several_gpus_start_through_torchrun(tmp_path):
    recipe, folder = tmp_path / "a recipe.yaml", tmp_path / "a folder; rm -rf"
    one = command_line(VERBS["pretrain"], {}, recipe, folder, gpus=1)
    assert one == [*PROGRAM, "pretrain", str(recipe), f'training.output_dir="{folder}"']
    assert command_line(VERBS["pretrain"], {}, recipe, folder, gpus=4)[1:6] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4",
    ]  # fmt: skip
    options = {"options": {"checkpoint": "--help", "max_texts": 7, "over_training": True, "tags": None}}
    words = command_line(VERBS["analyze"], options, recipe, folder, gpus=0)[len(PROGRAM) :]
    assert words == ["analyze", f"--output={folder}", "--max-texts=7", "--over-training", "--", "--help"]
