"""The local engine: subprocesses on this machine, with slots for CPU runs and whole GPUs for the others."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import takewhile
from pathlib import Path

from concept_encoder.cores import usable_cores
from concept_encoder.lab.engines import supervise
from concept_encoder.lab.engines.engine import Engine, Job, JobStatus, Room
from concept_encoder.records import write_atomically

_FIRMNESS = ((0.0, signal.SIGINT), (20.0, signal.SIGTERM), (30.0, signal.SIGKILL))  # seconds after the first `stop`


class LocalEngine(Engine):
    """Runs jobs as subprocesses that outlive the client.

    A job's process holds a lock in its folder, taken before it starts: whoever comes later sees by it that the job is
    alive. The pids of supervisor and run, kept with their start times, serve to send signals to their group, which is
    never mistaken for another's.

    Args:
        slots: how many jobs without a GPU run at once; None: one for two cores.
        gpus: the GPUs to use, as CUDA_VISIBLE_DEVICES names them; None: all of `visible_gpus`.
        firmness: pairs of seconds after the first `stop` and the signal that is due then.
    """

    def __init__(self, slots: int | None = None, gpus: list[str] | None = None, firmness: tuple = _FIRMNESS):
        cores = usable_cores()
        self.slots = slots or max(cores // 2, 1)
        self.gpus = visible_gpus() if gpus is None else gpus
        self.firmness = firmness
        self.room = Room(self.slots, {"this machine": len(self.gpus)})
        self._threads = os.environ.get("OMP_NUM_THREADS") or str(max(cores // self.slots, 1))
        self._running: dict[Path, list[str]] = {}  # what is known to run, and its GPUs
        self._children: dict[Path, subprocess.Popen] = {}

    def submit(self, job: Job) -> bool:
        if (
            self.status(job).state != "lost"
        ):  # a client died after it had started the job and before it could record that
            return True
        taken = {gpu for held in self._running.values() for gpu in held}
        free = [gpu for gpu in self.gpus if gpu not in taken]
        if job.gpus > len(free) or (not job.gpus and sum(not held for held in self._running.values()) >= self.slots):
            return False
        chosen = free[: job.gpus]
        environment = dict(job.environment)
        if chosen:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
        else:
            environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": self._threads}
        job.output.mkdir(parents=True, exist_ok=True)
        for name, text in job.files.items():
            write_atomically(job.folder / name, text)
        content = {"command": list(job.command), "environment": environment, "gpus": chosen}
        write_atomically(job.folder / "job.json", json.dumps(content, indent=1) + "\n")
        with open(job.folder / "alive", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._children[job.folder] = subprocess.Popen(
                [sys.executable, "-S", "-E", supervise.__file__, str(job.folder), str(lock.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # a terminal's Ctrl-C does not reach it
            )
        self._running[job.folder] = chosen
        return True

    def status(self, job: Job) -> JobStatus:
        if job.folder in self._children and self._children[job.folder].poll() is not None:
            del self._children[job.folder]
        alive = _is_locked(job.folder / "alive")  # before the exit code: a job that ends in between is seen next time
        ended = supervise.read(job.folder / "exit.json")
        if ended or not alive:
            self._running.pop(job.folder, None)
            return JobStatus.of_exit(ended) if ended else JobStatus("lost")
        held = supervise.read(job.folder / "job.json").get("gpus", [])
        self._running.setdefault(job.folder, [str(gpu) for gpu in held])  # earlier versions kept numbers
        return JobStatus("running")

    def stop(self, job: Job) -> None:
        asked = supervise.read(job.folder / "stop.json")
        if not asked:
            asked = {"time": time.time(), "sent": 0}
        if asked["time"] > time.time():  # the clock was put back
            asked["time"] = time.time()
        waited = time.time() - asked["time"]
        due = [number for after, number in self.firmness if waited >= after]
        group = _group(job.folder)
        if len(due) > asked["sent"] and group is not None:
            os.killpg(group, due[-1])
            asked["sent"] = len(due)
        write_atomically(job.folder / "stop.json", json.dumps(asked) + "\n")

    def fetch(self, job: Job) -> Path:
        return job.output


def visible_gpus() -> list[str]:
    """The GPUs that runs may use: those of CUDA_VISIBLE_DEVICES (numbers, or names of GPUs and MIG slices), else all
    that nvidia-smi lists; none without the NVIDIA driver."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names = (name.strip() for name in given.split(","))
        return list(takewhile(re.compile(r"\d+|(GPU|MIG)-\S+").fullmatch, names))  # CUDA ends at what names none, too
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]


def _group(folder: Path) -> int | None:
    """The process group of an attempt: the supervisor's pid (see `submit`), whichever of it and the run is left."""
    supervisor, child = (supervise.read(folder / name) for name in ("process.json", "child.json"))
    left = any(one and supervise.start_time(one["pid"]) == one["started"] for one in (supervisor, child))
    return supervisor["pid"] if left else None


def _is_locked(file: Path) -> bool:
    try:
        with open(file, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
