"""The Slurm engine, with submitit's local executor in Slurm's place; what it hands to sbatch is read, not sent."""

import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from concept_encoder.errors import UserError
from concept_encoder.lab.engines.engine import Job, JobStatus

pytest.importorskip("submitit")
from concept_encoder.lab.engines.slurm import SlurmEngine
from concept_encoder.lab.engines.supervise import start_time


def engine(**options) -> SlurmEngine:
    return SlurmEngine(cluster="local", patience=1.0, **options)


def job(folder: Path, code: str, name: str = "job", **fields) -> Job:
    return Job(folder / name, [sys.executable, "-S", "-E", "-c", code], folder / "output", **fields)


def wait(engine: SlurmEngine, job: Job, until: str, seconds: float = 60) -> None:
    end = time.time() + seconds
    while (found := engine.status(job).state) != until:
        assert time.time() < end, found
        time.sleep(0.05)


def test_a_job_is_queued_runs_and_ends_with_its_code_and_log(tmp_path):
    it, first = job(tmp_path, "import sys; print('bye'); sys.exit(3)"), engine()
    assert first.submit(it)
    assert first.submit(it), "submitting twice starts once"
    assert len(list((it.folder / "submitit").glob("*_submitted.pkl"))) == 1
    wait(first, it, "ended")
    assert first.status(it).code == 3
    assert list(first.logs(it))[-1] == "bye\n"
    later = engine()
    assert later.submit(it)
    assert later.status(it).code == 3
    assert later.fetch(it) == it.output
    assert later.status(job(tmp_path, "", "never")).state == "lost"


def test_the_job_outlives_the_client_and_is_found_again(tmp_path):
    """A client is killed; the next one knows the job by its folder alone, and waits for its end."""
    go = tmp_path / "go"
    code = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)"
    it = job(tmp_path, code)
    client = textwrap.dedent(f"""
        import os, signal, sys, time
        from pathlib import Path
        from concept_encoder.lab.engines.engine import Job
        from concept_encoder.lab.engines.slurm import SlurmEngine
        job = Job(Path({str(it.folder)!r}), {list(it.command)!r}, Path({str(it.output)!r}))
        SlurmEngine(cluster="local").submit(job)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert subprocess.run([sys.executable, "-c", client]).returncode == -signal.SIGKILL
    later = engine()
    later.patience = 60.0  # the local executor forgets its jobs; Slurm does not
    assert later.submit(it)
    wait(later, it, "running")
    go.touch()
    wait(later, it, "ended")
    assert later.status(it).code == 0


def test_stop_ends_the_job_and_what_it_runs(tmp_path):
    it, mine = job(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(60)"), engine()
    mine.submit(it)
    pid = int(_first_line(mine, it))
    mine.stop(it)
    mine.stop(it)
    wait(mine, it, "lost")
    assert start_time(pid) is None


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_a_lost_job_takes_its_run_along(tmp_path):
    """The node's supervisor is killed: the run must not go on beside its next attempt."""
    it, mine = job(tmp_path, "import os, time; print(os.getppid(), os.getpid(), flush=True); time.sleep(60)"), engine()
    mine.submit(it)
    supervisor, pid = map(int, _first_line(mine, it).split())
    os.kill(supervisor, signal.SIGKILL)
    wait(mine, it, "lost")
    assert "Slurm's job" in mine.status(it).why
    assert start_time(pid) is None


def test_a_preempted_job_goes_on(tmp_path):
    """submitit queues it again: the same attempt, the same log, and one exit code."""
    mark = tmp_path / "mark"
    code = f"import os, time; first = not os.path.exists({str(mark)!r}); open({str(mark)!r}, 'w');"
    it, mine = job(tmp_path, code + " print(os.getppid(), flush=True); time.sleep(60 * first)"), engine()
    mine.submit(it)
    os.kill(int(_first_line(mine, it)), signal.SIGUSR2)  # as Slurm warns
    wait(mine, it, "ended")
    assert mine.status(it).code == 0
    assert (it.folder / "log.txt").read_text().count("\n") >= 2


def test_no_more_jobs_than_asked_for(tmp_path):
    mine = engine(slots=1)
    assert mine.submit(job(tmp_path, "", "one"))
    assert not mine.submit(job(tmp_path, "", "two"))
    wait(mine, job(tmp_path, "", "one"), "ended")
    assert mine.submit(job(tmp_path, "", "two"))
    wait(mine, job(tmp_path, "", "two"), "ended")


def test_a_plan_runs_to_its_end_under_two_clients(write_plan, lab):
    file = write_plan(
        {"id": "a", "seeds": [0, 1], "overrides": {"data.fake": "ok"}},
        {"id": "b", "overrides": {"data.fake": "crash"}},
        {"id": "c", "verb": "finetune", "overrides": {"model.checkpoint": {"run": "a"}, "data.task": "rte"}},
    )
    first = lab(file, engine=engine())
    first.tick()
    second = lab(file, engine=engine())
    second.engine.patience = 30.0
    second.run(every=0.05)
    states = {state.name: (state.state, state.attempt) for state in second.states.values()}
    assert states == {"a.s0": ("done", 1), "a.s1": ("done", 1), "b.s0": ("failed", 2), "c.s0": ("done", 1)}


def test_waiting_in_the_queue_takes_no_time(write_plan, lab):
    class Queue:
        now = "queued"
        there = staticmethod(lambda folder: folder)
        submit = stop = staticmethod(lambda job: True)
        logs = staticmethod(lambda job: iter(()))
        fetch = staticmethod(lambda job: job.output)

        def status(self, job: Job) -> JobStatus:
            return JobStatus(self.now)

    scheduler = lab(write_plan({"id": "a", "resources": {"hours": 1e-9}}), engine=Queue())
    for _ in range(3):
        scheduler.tick()
    (state,) = scheduler.states.values()
    assert (state.state, state.started, state.stopping) == ("running", None, "")
    scheduler.engine.now = "running"
    scheduler.tick()
    assert state.started is not None
    time.sleep(0.01)
    scheduler.tick()
    assert "budget spent" in state.stopping


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """sbatch, sacct and scancel that answer what a test says, and keep what they were given."""

    def script(name: str, text: str) -> None:
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n{text}\n')
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    for name, text in (("srun", ""), ("scancel", ""), ("sacct", ""), ("sbatch", "echo Submitted batch job 77")):
        script(name, text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    import submitit

    monkeypatch.setattr(submitit.SlurmJob, "watcher", type(submitit.SlurmJob.watcher)(delay_s=600))
    return script


def test_what_slurm_is_asked_for(tmp_path, cluster):
    it = job(tmp_path, "print('never in the script')", "spans.s0-1", gpus=2, hours=3)
    mine = SlurmEngine({"partition": "gpu", "account": "me", "time": 60, "cpus_per_task": 8}, patience=0.0)
    assert mine.submit(it)
    (file,) = (it.folder / "submitit").glob("77_submission.sh")
    text = file.read_text()
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, flags=re.M))
    wanted = {"partition": "gpu", "account": "me", "time": "60", "cpus-per-task": "8", "gpus-per-node": "2"}
    assert {name: flags[name] for name in wanted} == wanted
    assert flags["job-name"] == "spans.s0-1"
    assert "never in the script" not in text
    cluster("sacct", "echo 'JobID|State|NodeList'; echo '77|PENDING|'")
    assert mine.status(it).state == "queued"
    again = SlurmEngine(patience=0.0)
    cluster("sacct", "echo 'JobID|State|NodeList'; echo '77|OUT_OF_MEMORY|n1'")
    assert again.status(it).state in ("queued", "lost")
    found = again.status(it)
    assert (found.state, found.why) == ("lost", "Slurm's job 77: OUT_OF_MEMORY")
    assert "scancel 77" in (tmp_path / "calls").read_text()


def test_without_accounting_the_queue_says_what_has_ended(tmp_path, cluster):
    cluster("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    cluster("squeue", "echo '77 PENDING'")
    it, mine = job(tmp_path, ""), SlurmEngine(patience=0.0)
    mine.submit(it)
    assert mine.status(it).state == "queued"
    cluster("squeue", "true")
    later = SlurmEngine(patience=0.0)
    later.status(it)
    assert later.status(it).why == "Slurm's job 77: GONE"


def test_sbatch_says_no(tmp_path, cluster):
    """A limit of the queue is for later; a wrong partition is the plan's end for this run, in its own words."""
    cluster("sbatch", "echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; exit 1")
    it, mine = job(tmp_path, ""), SlurmEngine()
    assert not mine.submit(it)
    cluster("sbatch", "echo 'sbatch: error: invalid partition specified: gpuu' >&2; exit 1")
    assert mine.submit(it)
    assert mine.status(it).code == 2
    assert list(mine.logs(it)) == ["error: sbatch: sbatch: error: invalid partition specified: gpuu\n"]


def test_mistakes_are_one_line(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"slurm.partitoin: no option of Slurm's jobs; did you mean 'partition'"):
        SlurmEngine({"partitoin": "gpu"}, cluster="local")
    with pytest.raises(UserError, match=r"slurm.setup: no option of Slurm's jobs"):
        SlurmEngine({"setup": ["rm"]}, cluster="local")
    with pytest.raises(UserError, match=r"slurm.time: expected minutes, a whole number, found '04:00:00'"):
        SlurmEngine({"time": "04:00:00"}, cluster="local")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="slurm: no srun on this machine"):
        SlurmEngine()


def _first_line(engine: SlurmEngine, job: Job) -> str:
    end = time.time() + 60
    while time.time() < end:
        file = job.folder / "log.txt"
        if file.exists() and "\n" in file.read_text():
            return file.read_text().splitlines()[0]
        time.sleep(0.05)
    raise AssertionError("".join(engine.logs(job)))
