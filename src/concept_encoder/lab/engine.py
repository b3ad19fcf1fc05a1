"""What an engine is: something that runs commands, five methods in all, whatever machines are behind it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True)
class Job:
    """One attempt at a run.

    Attributes:
        folder: of the attempt; it identifies the job, also to a client that starts after this one has died.
        command: the words of the command; no shell reads them.
        output: the run's folder, made if it is missing.
        gpus: how many it needs; 0 takes a CPU slot.
        environment: variables beside those of the client.
        files: name -> text of what has to lie in `folder` when it starts.
    """

    folder: Path
    command: Sequence[str]
    output: Path
    gpus: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobStatus:
    """`lost` is a job that is gone without an exit code: its machine or its supervisor died."""

    state: Literal["running", "ended", "lost"]
    code: int | None = None


class Engine(Protocol):
    """Every method may be called again after any crash: each looks at what is, not at what it remembers."""

    def submit(self, job: Job) -> bool:
        """Start a job unless it was started before; False when there is no room for it now."""

    def status(self, job: Job) -> JobStatus:
        """Where a submitted job stands."""

    def logs(self, job: Job) -> Iterator[str]:
        """Its output so far, line by line."""

    def stop(self, job: Job) -> None:
        """Ask it to end; called again, more and more firmly. Returns at once."""

    def fetch(self, job: Job) -> Path:
        """The run's folder on this machine, with its small files up to date."""
