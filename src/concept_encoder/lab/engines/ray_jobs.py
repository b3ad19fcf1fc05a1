"""The Ray engine: every attempt is a Ray job, queued by CPUs and GPUs, with the code as it was when it was submitted.

The job's process carries its log and small files home in its own log (`carried.py`), so that nothing is needed but
Ray's job server, on loopback or at the end of an SSH tunnel.
"""

import json
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import concept_encoder
from concept_encoder.errors import UserError
from concept_encoder.lab.engines.engine import Engine, Job, JobStatus, NotNow, Room
from concept_encoder.lab.engines.on_host import VARIABLE, packed
from concept_encoder.lab.engines.ray_server import NoAnswer, RayJob, RayServer
from concept_encoder.lab.engines.supervise import read
from concept_encoder.lab.failures import mask
from concept_encoder.lab.verbs import PROGRAM, VERBS, torchrun
from concept_encoder.records import write_atomically

_STOP = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}  # then Ray kills
_REQUEUED = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "None")  # errors that say: node lost


@dataclass(frozen=True)
class Places:
    """Where runs live on the hosts.

    Attributes:
        folder: the same path on every host; None when they see the folders of this machine.
        shared: the hosts see the same files in it.
        storage: an fsspec URL that checkpoints go to; None leaves them where they were written.
        variables: of the environment of every run.
        python: of the environment that runs have; the PATH of a Ray job may begin with others.
    """

    folder: Path | None = None
    shared: bool = True
    storage: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable


class RayEngine(Engine):
    """Runs jobs on a Ray cluster.

    Args:
        server: of the cluster's jobs.
        slots: how many jobs without a GPU run at once; None: one for `cpus` of the cluster's.
        gpus: at most so many at once.
        cpus: of a job without a GPU; one with GPUs takes one for each.

    A run with more GPUs than any host has goes over several that share files, through Ray Train (`ray_train.py`).
    """

    def __init__(
        self,
        server: RayServer,
        places: Places = Places(),
        slots: int | None = None,
        gpus: int | None = None,
        cpus: int = 1,
    ):
        self.server, self.places, self.shares_files = server, places, places.folder is None
        self.cpus = max(1, min([cpus, *(int(node.cpus) for node in server.nodes())]))  # that every host has
        self._asked = slots, gpus
        self._running: dict[Path, int] = {}  # what is known to run, and how many GPUs it has

    @property
    def room(self) -> Room:
        nodes = self.server.nodes()
        slots, gpus = self._asked
        cpus = sum(int(node.cpus) // self.cpus for node in nodes)
        per_host: dict[str, int] = {}
        for node in nodes:
            name = node.name if node.name not in per_host else f"{node.name} ({node.id[:6]})"  # two nodes on one host
            per_host[name] = node.gpus if gpus is None else min(node.gpus, gpus)
        return Room(slots or max(cpus, 1), per_host or {"the cluster": 0}, self._most if self.places.shared else 0)

    @property
    def _most(self) -> int:
        """GPUs in use at once, over all hosts."""
        total, asked = sum(node.gpus for node in self.server.nodes()), self._asked[1]
        return total if asked is None else min(total, asked)

    def there(self, folder: Path) -> Path:
        if self.places.folder is None:
            return folder
        return self.places.folder / self._stored(folder)

    def submit(self, job: Job) -> bool:
        try:
            if self._known(job):  # a client died after it had submitted and before it could record that
                return True
            if not self._has_room(job):
                return False
            pinned, spread = self._pinned(job), self._over_hosts(job)
            self.server.submit(
                self._id(job),
                entrypoint=shlex.join(
                    [self.places.python, "-m", "concept_encoder.lab.engines.on_host"]
                ),  # all that a shell sees
                variables={VARIABLE: packed(self._content(job, spread)), **_STOP},
                module=Path(concept_encoder.__file__).parent,
                cpus=0 if spread else job.gpus or self.cpus,  # its processes take theirs on their own hosts
                gpus=0 if spread else job.gpus,
                host=pinned,
            )
        except NoAnswer:
            return False
        except UserError as error:  # this run cannot start; others may
            write_atomically(job.folder / "log.txt", f"error: {error}\n")
            write_atomically(job.folder / "exit.json", json.dumps({"code": 2}) + "\n")
            return True
        self._running[job.folder] = job.gpus
        return True

    def _has_room(self, job: Job) -> bool:
        room, running = self.room, self._running.values()
        if not job.gpus:
            return sum(not gpus for gpus in running) < room.slots
        return job.gpus + sum(running) <= self._most

    def _over_hosts(self, job: Job) -> list[str] | None:
        """The command with Ray Train in torchrun's place; None when a run lives on one host."""
        launcher = torchrun(job.gpus)
        wide = job.gpus > max((node.gpus for node in self.server.nodes()), default=0)
        if not (wide and self.places.shared and list(job.command[: len(launcher)]) == launcher):
            return None
        words = job.command[len(launcher) + len(PROGRAM) - 1 :]
        return [sys.executable, "-m", "concept_encoder.lab.engines.ray_train", "GPU", str(job.gpus), *words]

    def _id(self, job: Job) -> str:
        """The job's name on Ray, written down before Ray hears of it."""
        record = read(job.folder / "job.json")
        if "id" not in record:
            id = f"plan-{job.folder.name}-{secrets.token_hex(6)}"
            record = {"id": id, "command": list(job.command), "gpus": []}
            write_atomically(job.folder / "job.json", json.dumps(record, indent=1) + "\n")
        return record["id"]

    def _known(self, job: Job) -> bool:
        id = read(job.folder / "job.json").get("id")
        ended = "code" in read(job.folder / "exit.json")
        return ended or (id is not None and self.server.job(id) is not None)

    def status(self, job: Job) -> JobStatus:
        id, code = read(job.folder / "job.json").get("id"), read(job.folder / "exit.json").get("code")
        if code is None and id is not None:
            try:
                found = self._look(job, id)
            except NoAnswer:  # a cut link says nothing about the job
                found = JobStatus("running")
        else:
            found = JobStatus("lost") if code is None else JobStatus("ended", code)
        if found.going:
            self._running[job.folder] = job.gpus
        else:
            self._running.pop(job.folder, None)
        return found

    def _look(self, job: Job, id: str) -> JobStatus:
        found = self.server.job(id)
        if found is None:
            return JobStatus("lost", why="the Ray cluster knows nothing of it: it was started anew")
        if found.host and not self.shares_files:
            self._record_host(job, found.host)
        stream = self.server.follow(id, job.folder, None if self.shares_files else job.output)
        if stream.code is None and not (found.ended and stream.over):
            return JobStatus("queued" if found.state == "PENDING" else "running")
        code = self._without_code(job, found) if stream.code is None else stream.code
        if code is None:
            return JobStatus("lost", why=f"Ray: {mask(' '.join(found.message.split()))[:200]}")
        write_atomically(job.folder / "exit.json", json.dumps({"code": code, "time": time.time()}) + "\n")
        return JobStatus("ended", code)

    def _without_code(self, job: Job, found: RayJob) -> int | None:
        """What became of a job that did not tell its exit code: None is lost."""
        if found.state == "STOPPED":
            return -signal.SIGTERM
        if found.code is not None:
            return found.code
        if found.error in _REQUEUED:
            return None
        with open(job.folder / "log.txt", "a", encoding="utf-8") as log:
            log.write(f"error: Ray could not start it: {mask(' '.join(found.message.split())[-500:])}\n")
        return 2

    def stop(self, job: Job) -> None:
        id = read(job.folder / "job.json").get("id")
        if id is not None:
            self.server.stop(id)

    def fetch(self, job: Job) -> Path:
        return job.output  # `status` has the stream followed, which writes there

    def _stored(self, folder: Path) -> Path:
        """A folder of a store by the store's own name, which no other store on these hosts has."""
        store = folder.parent.parent
        file = store / "name.txt"
        if not file.is_file():
            write_atomically(file, f"{store.name}-{secrets.token_hex(4)}")
        return Path(file.read_text(encoding="utf-8"), *folder.parts[-2:])

    def _content(self, job: Job, spread: list[str] | None) -> dict[str, Any]:
        environment = {"OMP_NUM_THREADS": str(self.cpus), "CUDA_VISIBLE_DEVICES": ""} if not job.gpus else {}
        content = {
            "folder": str(self.there(job.folder)),
            "output": str(self.there(job.output)),
            "command": spread or list(job.command),
            "spread": spread is not None,
            "python": sys.executable,  # is the host's own there
            "environment": {**self.places.variables, **job.environment, **environment},
            "files": dict(job.files),
            "last": sorted({verb.result for verb in VERBS.values()}),
        }
        if self.places.storage:
            stored = {"stored": str(self._stored(job.output)), "storage": self.places.storage}
            content |= {**stored, "inputs": [[str(self._stored(path)), str(self.there(path))] for path in job.inputs]}
        return content

    def _pinned(self, job: Job) -> str | None:
        """The host that has the files a job reads; None when any will do.

        Raises:
            NotNow: that host is not up.
            UserError: none can have them all.
        """
        if self.places.shared or self.places.storage:
            return None
        up = {node.ip for node in self.server.nodes()}
        hosts = {path: read(_host_file(path)).get("host") for path in job.inputs}
        for path, host in hosts.items():
            if not host:
                raise UserError(
                    f"the run {path.name}, which it reads, lies on none of the hosts; "
                    "set storage: or shared: in the hosts file"
                )
        if len(set(hosts.values())) > 1:
            raise UserError("the runs that it reads lie on several hosts; set storage: or shared: in the hosts file")
        for path, host in hosts.items():
            if host not in up:
                raise NotNow(f"waits for {host}, which is not up, where {path.name} lies (plan hosts up)")
        own = read(_host_file(job.output)).get("host")  # its checkpoints
        return next(iter(hosts.values()), own if own in up else None)

    def _record_host(self, job: Job, host: str) -> None:
        if read(_host_file(job.output)).get("host") != host:
            write_atomically(_host_file(job.output), json.dumps({"host": host}) + "\n")


def _host_file(output: Path) -> Path:
    """Where the host of a run is noted: beside its folder, which holds what the run itself has written."""
    return output.with_name(f".{output.name}.host.json")
