"""The Slurm engine: every run a batch job, submitted by submitit, which goes on without the client.

The attempt's folder is on a file system that login and compute nodes share. In it, beside the files of a local run
(job.json, log.txt, exit.json), submitit keeps its own; the name of its file says the job's number, so that a client
that starts later finds the job. A client that dies inside sbatch leaves a job without that file, which ends by itself.
"""

import ctypes
import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from concept_encoder.errors import UserError, nearest
from concept_encoder.lab.engines import supervise
from concept_encoder.lab.engines.engine import Engine, Job, JobStatus, Room
from concept_encoder.records import write_atomically

_ALIVE = (
    "PENDING",
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "REQUEUED",
    "SUSPENDED",
    "RESIZING",
    "STOPPED",
    "SIGNALING",
)
_BUSY = re.compile(r"SubmitLimit|SubmitJob|temporarily unable|timed out|Unable to contact", re.I)  # sbatch's words
_MARGIN = 10  # minutes that Slurm grants beyond the plan's own limit, so that it is the plan that says why
_BEAT = 5.0  # seconds between two signs of life of a run
_OURS = {  # what the plan says, what would start a run twice, and what a shell would read
    "gpus_per_node", "gpus_per_task", "num_gpus", "cpus_per_gpu", "nodes", "ntasks_per_node", "array_parallelism",
    "job_name", "dependency", "stderr_to_stdout", "setup", "teardown", "srun_args", "additional_parameters",
}  # fmt: skip


class SlurmEngine(Engine):
    """Hands runs to Slurm and learns from sacct, and from their signs of life, what has become of them.

    Args:
        options: of sbatch, by submitit's names: partition, account, qos, time (minutes), cpus_per_task, mem, gres …
        slots: how many jobs are in the queue or run at once.
        cluster: `slurm`, or submitit's `local` where tests have no Slurm.
        patience: seconds that a job which Slurm no longer knows may take to leave its exit code; file systems lag.
    Raises:
        UserError: submitit or Slurm is missing, or an option is unknown.
    """

    def __init__(
        self,
        options: Mapping[str, Any] | None = None,
        slots: int = 200,
        cluster: str = "slurm",
        patience: float = 120.0,
    ):
        self.submitit = _import_submitit()
        known = self.submitit.SlurmExecutor._valid_parameters() - _OURS
        for name, value in (options or {}).items():
            if name not in known:
                raise UserError(f"slurm.{name}: no option of Slurm's jobs; {nearest(str(name), sorted(known))}")
            if not isinstance(value, str | int | float):
                raise UserError(f"slurm.{name}: expected text or a number, found {value!r}")
            if name == "time" and (not isinstance(value, int) or value <= 0):
                raise UserError(f"slurm.time: expected minutes, a whole number, found {value!r}")
        if cluster == "slurm" and self.submitit.SlurmExecutor.affinity() < 0:
            raise UserError("slurm: no srun on this machine; give the command on a login node of the cluster")
        if cluster == "slurm" and subprocess.run(["sacct", "--allocations"], capture_output=True).returncode:
            self.submitit.SlurmJob.watcher = _without_accounting()
        self.options, self.slots, self.cluster, self.patience = dict(options or {}), slots, cluster, patience
        self.room = Room(slots, None)
        self._jobs: dict[Path, Any] = {}
        self._running: set[Path] = set()
        self._beats: dict[Path, tuple[int, float]] = {}  # the last sign of life, and when it was first seen

    def submit(self, job: Job) -> bool:
        if self._submitted(job) is not None or _ended(job):
            return True
        if len(self._running) >= self.slots:
            return False
        job.output.mkdir(parents=True, exist_ok=True)
        for name, text in job.files.items():
            write_atomically(job.folder / name, text)
        content = {"command": list(job.command), "environment": dict(job.environment), "gpus": []}
        write_atomically(job.folder / "job.json", json.dumps(content, indent=1) + "\n")
        try:
            self._jobs[job.folder] = self._executor(job).submit(OnNode(str(job.folder)))
        except self.submitit.core.utils.UncompletedJobError as error:
            said = " ".join(str(error).split())
            if _BUSY.search(said):
                return False
            write_atomically(job.folder / "log.txt", f"error: sbatch: {said}\n")
            supervise.reserve(str(job.folder))
            supervise.finish(str(job.folder), 2)
            return True
        self._running.add(job.folder)
        return True

    def status(self, job: Job) -> JobStatus:
        submitted, ended = self._submitted(job), _ended(job)
        if ended or submitted is None:
            self._running.discard(job.folder)
            return JobStatus.of_exit(ended) if ended else JobStatus("lost")
        word = str(submitted.state).upper().partition(" ")[0]  # CANCELLED by 1000
        beat, now = _last_beat(job), time.monotonic()
        if self._beats.get(job.folder, (-1, 0.0))[0] != beat:
            self._beats[job.folder] = (beat, now)
        silent = now - self._beats[job.folder][1] > self.patience
        if silent and word not in _ALIVE and not (word == "UNKNOWN" and not beat):  # not yet in sacct
            submitted.cancel(check=False)  # what is given up for lost shall not come back beside its next attempt
            self._running.discard(job.folder)
            return JobStatus("lost", why=f"Slurm's job {submitted.job_id}: {word}")
        self._running.add(job.folder)
        return JobStatus("running" if beat else "queued")

    def logs(self, job: Job) -> Iterator[str]:
        for file in [*sorted((job.folder / "submitit").glob("*_log.err")), job.folder / "log.txt"]:
            try:
                with open(file, encoding="utf-8", errors="replace") as lines:
                    yield from lines
            except FileNotFoundError:
                pass

    def stop(self, job: Job) -> None:
        """scancel: SIGTERM, and SIGKILL after the cluster's KillWait; once, and again every minute."""
        submitted, mark = self._submitted(job), job.folder / "stop.json"
        asked = supervise.read(mark).get("time", 0.0)
        if submitted is not None and not 0 <= time.time() - asked < 60:
            submitted.cancel(check=False)
            write_atomically(mark, json.dumps({"time": time.time()}) + "\n")

    def fetch(self, job: Job) -> Path:
        return job.output

    def _executor(self, job: Job) -> Any:
        most = math.ceil(60 * job.hours) + _MARGIN
        minutes = int(self.options.get("time", most))
        executor = self.submitit.AutoExecutor(
            job.folder / "submitit", cluster=self.cluster, slurm_max_num_timeout=math.ceil(most / minutes) - 1
        )
        gpus = {"gpus_per_node": job.gpus} if job.gpus and "gres" not in self.options else {}
        options = {f"slurm_{name}": value for name, value in self.options.items() if name != "time"}
        executor.update_parameters(name=job.folder.name, timeout_min=minutes, **gpus, **options)
        return executor

    def _submitted(self, job: Job) -> Any | None:
        """submitit's handle of a job, whoever submitted it; None when nobody has."""
        if job.folder not in self._jobs:
            files = sorted((job.folder / "submitit").glob("*_submitted.pkl"))
            if not files:
                return None
            kind = self.submitit.SlurmJob if self.cluster == "slurm" else self.submitit.LocalJob
            self._jobs[job.folder] = kind(job.folder / "submitit", files[-1].name.partition("_")[0])
        return self._jobs[job.folder]


class OnNode:
    """What runs on the node: the command of an attempt, with signs of life while it goes on.

    When Slurm preempts the job or its time is up, submitit calls `checkpoint` and queues it again; the run goes on from
    its own last checkpoint.
    """

    def __init__(self, folder: str):
        self.folder = folder

    def __call__(self) -> None:
        folder = Path(self.folder)
        if (folder / "exit.json").exists():  # queued again in the moment in which it ended
            return
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # cancelled or preempted; submitit would go on
        supervise.reserve(self.folder)
        with open(folder / "log.txt", "ab") as log:
            process = supervise.start(self.folder, log, preexec_fn=_dies_with_its_parent)
            code = 2
            try:
                while process is not None:
                    (folder / "alive").touch()
                    try:
                        code = process.wait(timeout=_BEAT)
                        break
                    except subprocess.TimeoutExpired:
                        pass
            except BaseException:  # stopped, preempted or out of time: no exit code, it has not ended by itself
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
        supervise.finish(self.folder, code)

    def checkpoint(self) -> Any:
        return _import_submitit().helpers.DelayedSubmission(self)


def _dies_with_its_parent() -> None:
    """In the new process: deaf to what Slurm tells all of a job (the supervisor decides), and killed when that is."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _ended(job: Job) -> dict:
    return supervise.read(job.folder / "exit.json")


def _last_beat(job: Job) -> int:
    try:
        return (job.folder / "alive").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _without_accounting() -> Any:
    """A watcher of jobs for clusters without accounting: what squeue does not list has ended."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    class Queue(SlurmInfoWatcher):
        def update(self) -> None:
            asked = subprocess.run(["squeue", "--noheader", "--format=%i %T"], capture_output=True, text=True)
            if asked.returncode == 0:
                states = dict(line.split() for line in asked.stdout.splitlines())
                self._info_dict = {id: {"State": states.get(id, "GONE")} for id in self._registered}
            self._last_status_check = time.time()

    return Queue(delay_s=10)


def _import_submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError('slurm: submitit is not installed; pip install "concept-encoder[slurm]"') from None
    return submitit
