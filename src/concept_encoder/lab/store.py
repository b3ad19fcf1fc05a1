"""The store of a plan: one SQLite file with the state of every run and every change of it, and the lock on both.

    STORE/plan.db        states and events        STORE/runs/        a folder a run, its record
    STORE/attempts/      what was called, its log, process and exit code

A change is one transaction, so `kill -9` leaves the state before it or after it. Folders are kept by name alone: a
store may be moved, and used from any working directory.
"""

import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from concept_encoder.errors import UserError
from concept_encoder.lab.store_file import open_file, transaction
from concept_encoder.records import write_atomically

FINAL = ("done", "failed", "stopped", "skipped")
_CHANGES = {  # from -> to
    "waiting": ("running", "done", "stopped", "skipped"),
    "running": ("waiting", "done", "failed", "stopped"),
    "skipped": ("waiting",),
    "failed": ("waiting",),
    "stopped": ("waiting",),
    "done": (),
}


@dataclass
class State:
    """Where a run stands.

    Attributes:
        stopping: why it is being stopped, as long as it is.
        attempt: how many attempts have started.
        failures: kind of failure -> how often.
        changes: fields that a failure has changed, such as a smaller micro-batch.
        figures: its last numbers, kept when it has ended.
        folder: of its record; the store keeps its name.
        seconds: over all attempts that have ended.
        since: when `plan run --retry` last started it anew; what its metrics said before is forgiven.
        spent: of `seconds`, those before then.
    """

    id: str
    name: str
    experiment: str
    state: str = "waiting"
    reason: str = ""
    stopping: str = ""
    attempt: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    folder: str = ""
    gpus: int = 0
    steps: int | None = None
    started: float | None = None
    ended: float | None = None
    seconds: float = 0.0
    since: float = 0.0
    spent: float = 0.0

    @property
    def final(self) -> bool:
        return self.state in FINAL


class Store:
    """The store in a folder; made when it is missing, unless `create` is False.

    Raises:
        UserError: there is none, it is not ours or not ours to write, was written by a newer version, or is damaged.
    """

    def __init__(self, folder: str | Path, create: bool = True):
        self.folder = Path(folder)
        self._db = open_file(self.folder, create)
        self._lock = FileLock(self.folder / "lock")

    def close(self) -> None:
        self._db.close()

    def transaction(self) -> AbstractContextManager[None]:
        """What is written inside is written whole or not at all."""
        return transaction(self._db, self.folder)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only scheduler of this store; any death frees it. Raises `UserError` with who holds it."""
        try:
            self._lock.acquire(timeout=1, poll_interval=0.05)  # `holder` of others may hold it for a moment
        except Timeout:
            raise UserError(
                f"{self.folder}: in use by {self.holder() or 'another command'}; wait for it or end it"
            ) from None
        try:
            who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
            write_atomically(self.folder / "holder.json", json.dumps(who) + "\n")
            yield
        finally:
            (self.folder / "holder.json").unlink(missing_ok=True)
            self._lock.release()

    def holder(self) -> str:
        """Who holds the lock, in words; '' when nobody does."""
        try:
            with self._lock.acquire(timeout=0):
                return ""
        except Timeout:
            pass
        try:
            who = json.loads((self.folder / "holder.json").read_text(encoding="utf-8"))
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(who["since"]))
            return f"process {who['pid']} on {who['host']} since {since}"
        except (OSError, ValueError, KeyError):
            return "another command"

    @property
    def engine(self) -> str:
        """Where its runs were last given to, as `--on` names it."""
        row = self._db.execute("SELECT value FROM meta WHERE name = 'engine'").fetchone()
        return row[0] if row else "local"

    def set_engine(self, on: str) -> None:
        """Give the runs to this engine from now on. Raises `UserError` while some go on at another."""
        going = self._db.execute("SELECT count(*) FROM runs WHERE state = 'running'").fetchone()[0]
        if going and on != self.engine:
            raise UserError(
                f"{self.folder}: {going} runs go on at {self.engine!r}; let them end there "
                f"(plan run --on {self.engine}), or end them (plan stop --all)"
            )
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('engine', ?)", (on,))

    def set_plan(self, planned: Iterable[State]) -> None:
        """Make these the runs of the plan, in this order; what is known of a run stays known."""
        with self.transaction():
            self._db.execute("DELETE FROM planned")
            for place, run in enumerate(planned):
                self._db.execute(
                    "INSERT INTO runs (id, name, experiment, folder, gpus, steps) VALUES (?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT (id) DO UPDATE SET gpus = excluded.gpus",
                    (run.id, run.name, run.experiment, Path(run.folder).name, run.gpus, run.steps),
                )
                self._db.execute("INSERT INTO planned VALUES (?, ?, ?, ?)", (place, run.id, run.name, run.experiment))

    def states(self) -> list[State]:
        """The runs of the plan in its order; a run that two experiments share comes once, as the first calls it."""
        rows = self._db.execute(
            "SELECT runs.*, planned.name AS called, planned.experiment AS of "
            "FROM planned JOIN runs USING (id) ORDER BY place"
        )
        found: dict[str, State] = {}
        for row in rows:
            found.setdefault(row["id"], self._state(row, name=row["called"], experiment=row["of"]))
        return list(found.values())

    def known(self) -> set[str]:
        """The ids of all runs that were ever planned here."""
        return {row[0] for row in self._db.execute("SELECT id FROM runs")}

    def left_over(self) -> list[State]:
        """Runs that go on although an edited plan no longer has them, by their folders' names, which differ."""
        rows = self._db.execute("SELECT * FROM runs WHERE state = 'running' AND id NOT IN (SELECT id FROM planned)")
        return [
            self._state(row, name=Path(row["folder"]).name, reason="no longer in the plan: it is seen to its end")
            for row in rows
        ]

    def all_states(self) -> list[State]:
        """The runs of the plan, then those left over."""
        return [*self.states(), *self.left_over()]

    def state(self, id: str) -> State:
        """Where one run stands, in the plan or not."""
        return self._state(self._db.execute("SELECT * FROM runs WHERE id = ?", (id,)).fetchone())

    def attempt_folder(self, run: State, attempt: int | None = None) -> Path:
        """Where the latest attempt at a run (or another) has its log and its process."""
        return self.folder / "attempts" / f"{Path(run.folder).name}-{run.attempt if attempt is None else attempt}"

    def move(self, run: State, state: str, reason: str = "", **fields: Any) -> None:
        """Change the state of a run, and say why; further fields change in the same transaction."""
        assert state in _CHANGES[run.state], f"{run.name}: {run.state} -> {state}"
        before = run.state
        self._write(run, {**fields, "state": state, "reason": reason}, state, reason, before)

    def mark(self, run: State, **fields: Any) -> None:
        """Change fields of a run whose state stays."""
        self._write(run, fields, run.state, str(fields.get("stopping", "")), run.state)

    def _write(self, run: State, fields: Mapping[str, Any], state: str, reason: str, before: str) -> None:
        plain = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in fields.items()}
        names = ", ".join(f"{name} = ?" for name in plain)
        with self.transaction():
            changed = self._db.execute(
                f"UPDATE runs SET {names} WHERE id = ? AND state = ?", (*plain.values(), run.id, before)
            ).rowcount
            assert changed == 1, f"{run.name} is no longer {before}"
            if before in FINAL or state in FINAL or fields.get("stopping"):  # they are met, or of no use any more
                self._db.execute("DELETE FROM requests WHERE name = ?", (run.id,))
            if "state" in fields or reason:
                values = (time.time(), run.id, state, reason)
                self._db.execute("INSERT INTO events (time, id, state, reason) VALUES (?, ?, ?, ?)", values)
        for name, value in fields.items():
            setattr(run, name, value)

    def events(self, run: str | None = None) -> list[tuple[float, str, str, str]]:
        """Every change, oldest first: (time, run's id, state, reason); of one run, or of all."""
        where, values = ("WHERE id = ?", (run,)) if run else ("", ())
        return [
            tuple(row)
            for row in self._db.execute(f"SELECT time, id, state, reason FROM events {where} ORDER BY seq", values)
        ]

    def request_stop(self, name: str) -> None:
        """Ask whoever schedules (or will) to stop a run, by its id."""
        with self.transaction():
            self._db.execute("INSERT INTO requests (name) VALUES (?)", (name,))

    def requests(self) -> list[str]:
        """The ids that were asked to stop; a request goes in the transaction that meets it."""
        return [row[0] for row in self._db.execute("SELECT DISTINCT name FROM requests")]

    def _state(self, row: sqlite3.Row, **instead: Any) -> State:
        values = {name: row[name] for name in State.__dataclass_fields__}
        values |= {name: json.loads(values[name]) for name in ("failures", "changes", "figures")}
        folder = row["folder"] and str(self.folder / "runs" / Path(row["folder"]).name)
        return State(**{**values, "folder": folder, **instead})
