"""What an engine is: something that runs commands, five methods in all, whatever machines are behind it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol


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
        inputs: folders of the runs that it reads.
        hours: after which it is stopped anyway; a queue may be told so.
    """

    folder: Path
    command: Sequence[str]
    output: Path
    gpus: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[Path] = ()
    hours: float = 24.0


@dataclass(frozen=True)
class JobStatus:
    """`queued` waits for a machine; `lost` is gone without an exit code: its machine or its supervisor died.

    Attributes:
        why: what the engine knows about a job that ended badly.
        full: the disk was full when it ended.
    """

    state: Literal["queued", "running", "ended", "lost"]
    code: int | None = None
    why: str = ""
    full: bool = False

    @classmethod
    def of_exit(cls, ended: Mapping[str, Any]) -> "JobStatus":
        """What an exit.json says (`supervise.finish`)."""
        return cls("ended", ended["code"], full=ended.get("full", False))

    @property
    def going(self) -> bool:
        return self.state in ("queued", "running")


@dataclass(frozen=True)
class Room:
    """What an engine has for runs, as far as it knows.

    Attributes:
        slots: runs without a GPU at once.
        gpus: host -> how many it has; None where somebody else's queue decides.
        widest: how many GPUs a run may have over several hosts; 0 where a run lives on one.
    """

    slots: int
    gpus: Mapping[str, int] | None
    widest: int = 0


class NotNow(Exception):
    """A job has to wait for something of its own, named in one line; others may start before it."""


class Engine(Protocol):
    """Every method may be called again after any crash: each looks at what is, not at what it remembers.

    Attributes:
        room: what it has for runs.
        shares_files: its machines see the folders of this one; otherwise `fetch` brings the small files here.
    """

    room: Room
    shares_files: bool = True

    def there(self, folder: Path) -> Path:
        """What a run's or an attempt's folder is called on the machine that runs the job."""
        return folder

    def submit(self, job: Job) -> bool:
        """Start a job unless it was started before; False when there is no room for it now. May raise `NotNow`."""

    def status(self, job: Job) -> JobStatus:
        """Where a submitted job stands."""

    def logs(self, job: Job) -> Iterator[str]:
        """Its output so far, line by line: of the file log.txt unless an engine knows better."""
        try:
            with open(job.folder / "log.txt", encoding="utf-8", errors="replace") as file:
                yield from file
        except FileNotFoundError:
            return

    def stop(self, job: Job) -> None:
        """Ask it to end; called again, more and more firmly. Returns at once."""

    def fetch(self, job: Job) -> Path:
        """The run's folder on this machine, with its small files up to date; called again and again as it runs."""
