"""The file of a store: made, read on from an earlier format, and told apart from what is not ours or not whole."""

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from concept_encoder.errors import UserError

FILE = "plan.db"
FORMAT = 2  # 1 had no `since` and `spent`, and whole paths as folders, of which the last part counts
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE runs (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, experiment TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'waiting',
    reason TEXT NOT NULL DEFAULT '', stopping TEXT NOT NULL DEFAULT '', attempt INTEGER NOT NULL DEFAULT 0,
    failures TEXT NOT NULL DEFAULT '{}', changes TEXT NOT NULL DEFAULT '{}', figures TEXT NOT NULL DEFAULT '{}',
    folder TEXT NOT NULL DEFAULT '', gpus INTEGER NOT NULL DEFAULT 0, steps INTEGER,
    started REAL, ended REAL, seconds REAL NOT NULL DEFAULT 0, since REAL NOT NULL DEFAULT 0,
    spent REAL NOT NULL DEFAULT 0);
CREATE TABLE planned (place INTEGER PRIMARY KEY, id TEXT NOT NULL, name TEXT NOT NULL, experiment TEXT NOT NULL);
CREATE TABLE events (seq INTEGER PRIMARY KEY, time REAL NOT NULL, id TEXT NOT NULL, state TEXT NOT NULL, reason TEXT);
CREATE TABLE requests (seq INTEGER PRIMARY KEY, name TEXT NOT NULL);
"""


def open_file(folder: Path, create: bool) -> sqlite3.Connection:
    """The database of a store, in the present format; made when it is missing and `create` says so. Errors: `Store`."""
    file = folder / FILE
    if not create and not file.is_file():
        raise UserError(f"{folder}: no store of a plan; start one with concept-encoder plan run")
    if create:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"--store: {folder} is a file, or in one; name a folder") from None
        except PermissionError:
            raise UserError(f"--store: no permission to make {folder}; name a folder of yours") from None
    try:
        db = sqlite3.connect(file, timeout=30, isolation_level=None)
        db.row_factory = sqlite3.Row
        found = _tables(db)
        if "meta" not in found and (found or not create):
            raise UserError(f"{file}: not a store of a plan; name another folder with --store")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        _prepare(db, folder)
        if missing := sorted(set(re.findall(r"CREATE TABLE (\w+)", _SCHEMA)) - _tables(db)):
            raise sqlite3.DatabaseError(f"no table {missing[0]}")
    except sqlite3.DatabaseError as error:
        raise UserError(_problem(file, str(error))) from None
    return db


def is_begun(folder: Path) -> bool:
    """Whether a folder has a store with something in it: one that was cut off while it was made holds no table yet."""
    file = folder / FILE
    if not file.is_file():
        return False
    try:
        with closing(sqlite3.connect(file, timeout=30)) as db:
            return bool(_tables(db))
    except sqlite3.DatabaseError:  # `open_file` says what is wrong
        return True


@contextmanager
def transaction(db: sqlite3.Connection, folder: Path) -> Iterator[None]:
    """What is written inside is written whole or not at all."""
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except BaseException as error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / FILE)) from None
        raise


def _tables(db: sqlite3.Connection) -> set[str]:
    return {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _prepare(db: sqlite3.Connection, folder: Path) -> None:
    if "meta" not in _tables(db):
        with transaction(db, folder):
            if "meta" not in _tables(db):  # nobody was faster
                for statement in _SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute("INSERT INTO meta VALUES ('format', ?)", (str(FORMAT),))
    if _written(db) < FORMAT:
        with transaction(db, folder):
            if _written(db) < FORMAT:
                for name in ("since", "spent"):
                    db.execute(f"ALTER TABLE runs ADD COLUMN {name} REAL NOT NULL DEFAULT 0")
                db.execute("UPDATE meta SET value = ? WHERE name = 'format'", (str(FORMAT),))
    if _written(db) > FORMAT:
        raise UserError(
            f"{folder}: the store has format {_written(db)}, this version reads up to {FORMAT}; "
            "update concept-encoder, or choose another folder with --store"
        )


def _written(db: sqlite3.Connection) -> int:
    """The format of the file."""
    row = db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
    if row is None or not str(row[0]).isdecimal():
        raise sqlite3.DatabaseError("no format")
    return int(row[0])


def _problem(file: Path, said: str) -> str:
    """What SQLite's words mean, and the remedy."""
    if "readonly" in said or "unable to open" in said:
        return f"--store: no permission to write {file}, which also looking on needs; ask its owner, or copy the folder"
    if "locked" in said:
        return f"{file}: in use by another command; give the same command again"
    if "full" in said or "I/O" in said:
        return f"{file}: {said}; free some space, or mend the disk, and give the same command again"
    return f"{file}: damaged ({said}); move it away to start anew"
