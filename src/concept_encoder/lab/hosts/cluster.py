"""The user's machines as one Ray cluster, brought up and down over SSH by whoever may log in there; no root needed.

Ray's ports are bound between the hosts, its dashboard to the head's loopback, reached through an SSH tunnel. Everyone
needs the token, which travels inside SSH and lies in files that only the user reads.
"""

import base64
import contextlib
import importlib.metadata
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import concept_encoder
from concept_encoder.errors import UserError
from concept_encoder.lab.engines.ray_server import RayServer
from concept_encoder.lab.hosts import remote
from concept_encoder.lab.hosts.hosts_file import PORTS, Host, Hosts
from concept_encoder.lab.hosts.ssh import Ssh, free_port
from concept_encoder.lab.progress import duration

_CLOCK = 30  # seconds that a host's clock may be off: times of metrics decide about budgets
_DISK = 10 * 2**30  # bytes for an environment with torch and some checkpoints
_PORTS = (
    "object-manager-port", "node-manager-port", "runtime-env-agent-port", "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port", "metrics-export-port",
)  # fmt: skip
_DASHBOARD, _CLIENTS, _WORKERS = 7, 8, 20  # ports after the first


class Cluster:
    """The machines of a hosts file."""

    def __init__(self, hosts: Hosts):
        self.hosts = hosts
        self._ssh = {host.ssh: Ssh(host.ssh, hosts.ssh_config) for host in hosts.all}
        self._tunnel: subprocess.Popen | None = None

    def check(self) -> list[tuple[Host, dict[str, Any], list[str]]]:
        """Every host with what it has and what it lacks, in seconds."""

        def ask(host: Host) -> tuple[Host, dict[str, Any], list[str]]:
            before = time.time()
            try:
                found = self._call(host, "check", folder=self.hosts.folder, environment=self.environment)
            except UserError as error:
                return host, {}, [str(error).removeprefix(f"{host.ssh}: ")]
            found["clock"] = found["time"] - min(max(found["time"], before), time.time())
            return host, found, list(lacks(host, found, self.hosts))

        rows = self._everywhere(ask)
        for name, of in (("Python", _python), ("Ray", _ray)):
            versions = sorted({of(found) for _, found, _ in rows if found and of(found)})
            for _, found, missing in rows:
                if found and len(versions) > 1:
                    missing.append(f"{name}: {' and '.join(versions)} among the hosts, which have to agree")
        return rows

    def install(self, wheel: Path) -> None:
        """Put the wheel, and Ray in the version that is here, into a virtual environment on every host.

        Raises:
            UserError: a host could not; the others may have.
        """
        content = base64.b64encode(wheel.read_bytes()).decode("ascii")
        packages = [f"ray[default]=={_version_of_ray()}"]
        where = self.hosts.all[:1] if self.hosts.shared else self.hosts.all
        values = {"folder": self.hosts.folder, "name": wheel.name, "wheel": content, "packages": packages}
        values["extras"] = self.hosts.extras
        self._everywhere(lambda host: self._call(host, "install", seconds=3600, **values), where)

    def up(self, tell: Callable[[str], None]) -> None:
        """Start what is not up: the head, then the others, until all have joined.

        Raises:
            UserError: a host lacks something or did not start; what this call has started is stopped again.
        """
        _version_of_ray()
        rows = self.check()
        wrong = [f"{host.ssh}: {missing[0]}" for host, _, missing in rows if missing]
        if wrong:
            more = f" (and {len(wrong) - 1} more hosts; see plan hosts check)" if len(wrong) > 1 else ""
            raise UserError(wrong[0] + more)
        found = {host.ssh: facts for host, facts, _ in rows}
        address = self._address(self.hosts.head, found)
        started: list[Host] = []

        def start(host: Host) -> None:
            words = list(self._words(host, found, address))
            values = {"environment": self.environment, "token": self._token(), "words": words, "port": self.hosts.port}
            started.append(host)
            if self._call(host, "start", seconds=remote.PATIENCE + 60, **values)["was"] == "up":
                started.remove(host)
            tell(f"{host.ssh}: up")

        try:
            start(self.hosts.head)
            self._everywhere(start, self.hosts.workers)
            self._wait_for_all()
        except BaseException:
            for host in reversed(started):
                with contextlib.suppress(UserError):  # the first problem is the one to tell
                    self._call(host, "stop")
                    tell(f"{host.ssh}: stopped again")
            raise

    def down(self, tell: Callable[[str], None]) -> None:
        """Stop what `up` has started, on every host that answers, and forget the token.

        Raises:
            UserError: some host could not be asked.
        """

        def stop(host: Host) -> str:
            try:
                was = self._call(host, "stop")["was"]
            except UserError as error:
                return str(error)
            tell(f"{host.ssh}: {'stopped' if was == 'up' else 'was not up'}")
            return ""

        problems = [problem for problem in self._everywhere(stop, self.hosts.all[::-1]) if problem]
        if problems:
            raise UserError(f"{problems[0]}; its part of the cluster may still be up")
        self.hosts.token.unlink(missing_ok=True)

    def server(self) -> RayServer:
        """The cluster's job server, through a tunnel that is dug anew when it breaks."""
        if not self.hosts.token.is_file():
            raise UserError(f"{self.hosts.file}: not up; concept-encoder plan hosts up {self.hosts.file}")
        port = free_port()

        def reach() -> str:
            if self._tunnel is None or self._tunnel.poll() is not None:
                try:
                    self._tunnel = self._ssh[self.hosts.head.ssh].tunnel(port, self.hosts.port + _DASHBOARD)
                except UserError as error:
                    raise ConnectionError(str(error)) from None
            return f"http://127.0.0.1:{port}"

        return RayServer(reach, self._token())

    @property
    def environment(self) -> str:
        return self.hosts.environment or f"{self.hosts.folder}/venv"

    def _words(self, host: Host, found: dict[str, dict[str, Any]], head: str) -> Iterator[str]:
        """Of `ray start`."""
        port, facts = self.hosts.port, found[host.ssh]
        yield f"--node-ip-address={self._address(host, found)}"
        yield f"--num-cpus={host.cpus or facts['cpus']}"
        yield f"--num-gpus={len(facts['gpus']) if host.gpus is None else host.gpus}"
        yield from (f"--{name}={port + 1 + place}" for place, name in enumerate(_PORTS))
        yield from (f"--min-worker-port={port + _WORKERS}", f"--max-worker-port={port + PORTS - 1}")
        yield from ("--object-store-memory=100000000", "--disable-usage-stats")  # runs share no objects
        if host is self.hosts.head:
            yield from ("--head", f"--port={port}", "--dashboard-host=127.0.0.1")
            yield from (f"--dashboard-port={port + _DASHBOARD}", f"--ray-client-server-port={port + _CLIENTS}")
        else:
            yield f"--address={head}:{port}"

    def _address(self, host: Host, found: dict[str, dict[str, Any]]) -> str:
        address = host.address or next(iter(found[host.ssh]["address"]), "")
        if not address:
            raise UserError(f"{host.ssh}: its address is not known; set address: to how the other hosts reach it")
        return address

    def _token(self) -> str:
        file = self.hosts.token
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.touch(mode=0o600)
            file.write_text(secrets.token_hex(32), encoding="ascii")
        return file.read_text(encoding="ascii").strip()

    def _wait_for_all(self, seconds: float = 60) -> None:
        server, end = self.server(), time.monotonic() + seconds
        while len(server.nodes()) < len(self.hosts.all):
            if time.monotonic() > end:
                here = ", ".join(node.ip for node in server.nodes())
                ports = f"{self.hosts.port} to {self.hosts.port + PORTS - 1}"
                raise UserError(
                    f"after {seconds:.0f} s only {here} have joined; are ports {ports} open between the hosts?"
                )
            time.sleep(0.5)

    def _call(self, host: Host, function: str, **values: Any) -> dict[str, Any]:
        if function != "install":
            values["state"] = f"{self.hosts.folder}/on-{re.sub(r'[^a-zA-Z0-9.-]', '-', host.ssh)}"
        return self._ssh[host.ssh].call(function, host.python, **values)

    def _everywhere(self, ask: Callable[[Host], Any], hosts: list[Host] | None = None) -> list[Any]:
        hosts = self.hosts.all if hosts is None else hosts
        with ThreadPoolExecutor(max(min(len(hosts), 16), 1)) as pool:
            return list(pool.map(ask, hosts))


def _python(found: dict[str, Any]) -> str:
    """The version that runs will have."""
    return found["versions"][1] if found["versions"] else ".".join(map(str, found["python"][:2]))


def _ray(found: dict[str, Any]) -> str:
    return found["versions"][0] if found["versions"] else ""


def lacks(host: Host, found: dict[str, Any], hosts: Hosts) -> Iterator[str]:
    """What a host lacks, each with its remedy."""
    if found["python"] < [3, 11]:
        version = ".".join(map(str, found["python"]))
        yield f"python: {version}; set python: to an interpreter of version 3.11 or newer"
    elif not found["venv"] and hosts.environment is None:
        yield "python: it cannot make environments; install python3-venv there, or set environment:"
    if found["nvidia"] and not found["gpus"] and host.gpus != 0:
        yield f"GPU driver: nvidia-smi says {found['driver'] or 'nothing'}; mend the driver, or set gpus: 0"
    if host.gpus is not None and host.gpus > len(found["gpus"]):
        yield f"gpus: {host.gpus} asked, {len(found['gpus'])} there"
    if not found["writable"]:
        yield f"folder: {found['exists']} cannot be written to; set folder: to another"
    if found["free"] < _DISK:
        yield f"disk: {found['free'] / 2**30:.1f} GiB free at {found['exists']}, {_DISK / 2**30:.0f} are needed"
    if abs(found["clock"]) > _CLOCK:
        way = "ahead" if found["clock"] > 0 else "behind"
        off = duration(abs(found["clock"]))
        yield f"clock: {off} {way} of this machine's; set the time (timedatectl set-ntp true)"
    if hosts.environment is not None and not found["versions"]:
        yield f"environment: no Ray and concept-encoder in {hosts.environment}"


def _version_of_ray() -> str:
    try:
        return importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        raise UserError('plan hosts: needs Ray here too; pip install "concept-encoder[ray]"') from None


def build_wheel() -> Path:
    """The wheel of this project, built now. Raises `UserError` outside a checkout."""
    root = Path(concept_encoder.__file__).parents[2]
    if not (root / "pyproject.toml").is_file():
        raise UserError("plan hosts install: this is no checkout to build from; give --wheel FILE")
    folder = Path(tempfile.mkdtemp(prefix="concept-encoder-"))
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(root)]
    found = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if found.returncode or not wheels:
        last = next((line for line in reversed((found.stdout + found.stderr).splitlines()) if line.strip()), "")
        raise UserError(f"plan hosts install: python -m build: {last.strip()}")
    return wheels[0]
