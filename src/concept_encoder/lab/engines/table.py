"""The engines by name: what `plan run --on ENGINE[:FILE]` can say. To add one, add a row to `ENGINES`."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from concept_encoder.errors import UserError, nearest
from concept_encoder.lab.engines.engine import Engine
from concept_encoder.settings import load_yaml


@dataclass(frozen=True)
class Asked:
    """What the command line says about an engine; None leaves it to the engine.

    Attributes:
        slots: CPU runs at once.
        gpus: GPUs to use.
        file: the engine's own settings.
    """

    slots: int | None = None
    gpus: int | None = None
    file: Path | None = None


def _local(asked: Asked) -> Engine:
    from concept_encoder.lab.engines.local import LocalEngine, visible_gpus

    if asked.file is not None:
        raise UserError(f"--on local:{asked.file}: the local engine has no settings; use --slots and --gpus")
    seen = visible_gpus()
    if asked.gpus is None or asked.gpus <= len(seen):
        return LocalEngine(asked.slots, seen[: asked.gpus])
    return LocalEngine(asked.slots, [str(number) for number in range(asked.gpus)])  # a machine to plan for


def _slurm(asked: Asked) -> Engine:
    from concept_encoder.lab.engines.slurm import SlurmEngine

    if asked.gpus is not None:
        raise UserError("--gpus: Slurm has them; the plan's resources say how many a run gets")
    return SlurmEngine({} if asked.file is None else load_yaml(asked.file, "settings"), asked.slots or 200)


def _ray(asked: Asked) -> Engine:
    from concept_encoder.lab.engines.ray_jobs import Places, RayEngine
    from concept_encoder.lab.engines.ray_server import RayServer

    if asked.file is None:
        address = os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")  # Ray's own name and default
        if not address.startswith(("http://", "https://")):
            raise UserError(f"RAY_API_SERVER_ADDRESS: {address!r} is no address such as http://127.0.0.1:8265")
        return RayEngine(RayServer(lambda: address), slots=asked.slots, gpus=asked.gpus)
    from concept_encoder.lab.hosts.cluster import Cluster
    from concept_encoder.lab.hosts.hosts_file import load_hosts

    hosts = load_hosts(asked.file)
    cluster = Cluster(hosts)
    python = f"{cluster.environment}/bin/python"
    places = Places(Path(hosts.folder), hosts.shared, hosts.storage, hosts.variables, python)
    return RayEngine(cluster.server(), places, asked.slots, asked.gpus, hosts.cpus_per_run)


ENGINES: dict[str, Callable[[Asked], Engine]] = {  # each imports what it needs
    "local": _local,
    "ray": _ray,
    "slurm": _slurm,
}


def engine_name(on: str) -> str:
    """`ENGINE[:FILE]` in its one full form. Raises `UserError` when there is no such engine, or no such file."""
    name, colon, file = on.partition(":")
    if name not in ENGINES:
        raise UserError(f"--on {on or repr(on)}: no such engine; {nearest(name, ENGINES)}")
    if colon and not file:
        raise UserError(f"--on {on}: names no file; leave the colon out, or name one after it")
    if file and not Path(file).is_file():
        raise UserError(f"--on {on}: no file {file}")
    return f"{name}:{Path(file).resolve()}" if file else name


def open_engine(on: str, slots: int | None = None, gpus: int | None = None) -> Engine:
    """The engine of this name. Raises `UserError` in one line when it cannot be used."""
    name, _, file = engine_name(on).partition(":")
    return ENGINES[name](Asked(slots, gpus, Path(file) if file else None))
