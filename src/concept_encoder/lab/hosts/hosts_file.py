"""hosts.yaml: the user's machines, one of them the head; every field is checked when the file is read."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from concept_encoder.errors import UserError, naming, shown
from concept_encoder.lab.failures import is_secret, mask
from concept_encoder.settings import from_mapping, load_yaml

_MOST = 10_000  # cores or GPUs of a host
PORTS = 400  # that the cluster takes, from `port` on: Ray's own, then one for each worker process


@dataclass(frozen=True)
class Host:
    """One machine.

    Attributes:
        ssh: its name, as `ssh` takes it: `~/.ssh/config`, jump hosts and agents count.
        address: as the other hosts reach it; None: the one at which ssh reached it.
        python: the interpreter there (3.11 or newer) that the environment is made with.
        gpus: how many to use; None: all.
        cpus: how many to use; None: all.
    """

    ssh: str
    address: str | None = None
    python: str = "python3"
    gpus: int | None = None
    cpus: int | None = None

    def __post_init__(self) -> None:
        for name in ("ssh", "address"):  # not an option of ssh, no word for a shell
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[A-Za-z0-9_:\[][\w.@:%\[\]-]{0,254}", value):
                raise ValueError(f"{name}: {shown(value)} is no name of a host")
        if not re.match(r"[^\s-]", self.python) or not self.python.isprintable():
            raise ValueError(f"python: {shown(self.python)} is no command; name an interpreter, such as python3.12")
        for name in ("gpus", "cpus"):
            value = getattr(self, name)
            if value is not None and not (name == "cpus") <= value <= _MOST:
                raise ValueError(f"{name}: {value} is too {'many' if value > 0 else 'few'}")

    @property
    def same(self) -> set[str]:
        """What no other host may share: its name as ssh takes it, without the user, and its address."""
        return {name.rpartition("@")[2].lower() for name in (self.ssh, self.address) if name}


@dataclass(frozen=True)
class Hosts:
    """The machines of a cluster.

    Attributes:
        head: the host that the others join; runs take place there too.
        workers: the others, each a name or the fields of a `Host`.
        folder: the same absolute path on every host: environment, runs, logs.
        shared: the hosts see the same files in `folder`.
        storage: an fsspec URL that checkpoints go to; without it, and not shared, a run goes where those lie that it
            reads.
        environment: a virtual environment that the hosts have already, with this project and Ray; nothing is installed.
        extras: of this project, installed there with it.
        python: of every host that says no other.
        variables: of the environment of every run, such as HF_HOME or CONCEPT_ENCODER_DATA_ROOT; no secrets.
        cpus_per_run: for a run without a GPU.
        port: the first of 400 that the cluster uses between its hosts.
        ssh_config: a file to use in place of ~/.ssh/config.
    """

    head: Any
    folder: str
    workers: list[Any] = field(default_factory=list)
    shared: bool = False
    storage: str | None = None
    environment: str | None = None
    extras: list[str] = field(default_factory=lambda: ["quickstart"])
    python: str = "python3"
    variables: dict[str, str] = field(default_factory=dict)
    cpus_per_run: int = 2
    port: int = 6379
    ssh_config: str | None = None
    file: Path = Path()

    def __post_init__(self) -> None:
        for name in ("folder", "environment"):
            value = getattr(self, name)
            if value is not None and not PurePosixPath(value).is_absolute():
                raise ValueError(f"{name}: {shown(value)} is not an absolute path; it has to be the same on every host")
            if value is not None and (".." in PurePosixPath(value).parts or not value.isprintable()):
                raise ValueError(f"{name}: {shown(value)} is no plain path; write it without '..' and line ends")
        if not 1024 <= self.port <= 65_535 - PORTS:
            raise ValueError(f"port: {self.port} is not between 1024 and {65_535 - PORTS}")
        for name in self.extras:
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise ValueError(f"extras: {shown(name)} is no name of an extra, such as quickstart or cuda")
        if not 1 <= self.cpus_per_run <= _MOST:
            raise ValueError(f"cpus_per_run: {self.cpus_per_run} is too {'many' if self.cpus_per_run > 0 else 'few'}")
        if self.ssh_config is not None and not Path(self.ssh_config).is_file():
            raise ValueError(f"ssh_config: no file {shown(self.ssh_config)}")
        self._check_secrets()

    def _check_secrets(self) -> None:
        for name, value in self.variables.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"variables: {shown(name)} is no name of a variable, such as HF_HOME")
            if is_secret(name) or mask(value) != value:
                raise ValueError(
                    f"variables.{name}: a secret; every user of the cluster could read it, log in on the hosts"
                )
        if self.storage is None:
            return
        if re.search(r"://[^/]*@", self.storage) or "?" in self.storage or mask(self.storage) != self.storage:
            raise ValueError("storage: holds a password; put credentials into the hosts' environment or profile")
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S*[^\s/]\S*", self.storage):
            raise ValueError(f"storage: {shown(self.storage)} is no URL such as s3://bucket/folder")

    @property
    def all(self) -> list[Host]:
        """The head first."""
        return [self.head, *self.workers]

    @property
    def token(self) -> Path:
        """Where this machine keeps the cluster's token, readable by its user alone."""
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "concept-encoder"
        name = hashlib.sha256(str(self.file.resolve()).encode()).hexdigest()[:16]
        return folder / f"ray-{name}.token"


def load_hosts(path: str | Path) -> Hosts:
    """Read and check a hosts file. Raises `UserError` in one line that names file and field."""
    path = Path(path)
    content = load_yaml(path, "hosts")
    with naming(path):
        return _hosts(content, path)


def _hosts(content: dict[str, Any], path: Path) -> Hosts:
    python = content.get("python", "python3")
    if "head" in content:
        content["head"] = _host(content["head"], python, "hosts.head")
    if isinstance(content.get("workers"), list):
        each = enumerate(content["workers"])
        content["workers"] = [_host(raw, python, f"hosts.workers[{place}]") for place, raw in each]
    hosts = from_mapping(Hosts, content, "hosts", file=path)
    known: set[str] = set()
    for host in hosts.all:
        if twice := sorted(known & host.same):
            raise UserError(
                f"hosts.workers: {twice[0]} is given twice; every host once, the head not among the workers"
            )
        known |= host.same
    return hosts


def _host(raw: Any, python: Any, where: str) -> Host:
    if isinstance(raw, str):
        raw = {"ssh": raw}
    if not isinstance(raw, Mapping):
        raise UserError(f"{where}: expected a name or fields, found {shown(raw)}")
    return from_mapping(Host, {"python": python, **raw}, where)
