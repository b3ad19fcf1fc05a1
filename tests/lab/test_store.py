"""The store keeps what it was told, for one scheduler at a time, and refuses what it cannot read."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from concept_encoder.errors import UserError
from concept_encoder.lab.store import State, Store


def test_states_survive_and_changes_are_recorded(tmp_path):
    store = Store(tmp_path)
    store.set_plan([State("x", "a.s0", "a"), State("y", "b.s0", "b")])
    (first, _) = store.states()
    store.move(first, "running", attempt=1)
    store.move(first, "failed", "it crashed", failures={"crash": 2})
    again = Store(tmp_path).states()[0]
    assert (again.state, again.reason, again.failures, again.attempt) == ("failed", "it crashed", {"crash": 2}, 1)
    assert [event[2:] for event in store.events("x")] == [("running", ""), ("failed", "it crashed")]
    store.set_plan([State("y", "b.s0", "b"), State("x", "a.s0", "a")])
    assert [state.state for state in store.states()] == ["waiting", "failed"]


def test_a_final_state_is_final(tmp_path):
    store = Store(tmp_path)
    store.set_plan([State("x", "a.s0", "a")])
    mine, theirs = store.states()[0], Store(tmp_path).states()[0]
    store.move(mine, "running")
    store.move(mine, "done")
    with pytest.raises(AssertionError):
        store.move(mine, "running")
    with pytest.raises(AssertionError, match="no longer waiting"):
        Store(tmp_path).move(theirs, "running")


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path):
    code = (
        "import sys, time\nfrom concept_encoder.lab.store import Store\n"
        f"with Store({str(tmp_path)!r}).lock():\n    print('held', flush=True)\n    time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    store = Store(tmp_path)
    with pytest.raises(UserError, match=f"in use by process {other.pid} on "), store.lock():
        pass
    assert str(other.pid) in store.holder()
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    other.stdout.close()
    with store.lock():
        pass
    assert store.holder() == ""


def test_a_newer_store_and_a_damaged_one_are_refused(tmp_path):
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "plan.db") as database:
        database.execute("UPDATE meta SET value = '99'")
    with pytest.raises(UserError, match="the store has format 99, this version reads up to 2; update concept-encoder"):
        Store(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plan.db").write_text("this is no database, just text that is long enough to be read" * 30)
    with pytest.raises(UserError, match=r"plan\.db: damaged .*; move it away to start anew"):
        Store(tmp_path / "other")
    with pytest.raises(UserError, match="no store of a plan"):
        Store(tmp_path / "nowhere", create=False)


@pytest.mark.parametrize("met", ["marked", "stopped"])
def test_a_request_stays_until_it_is_met(tmp_path, met):
    """Whoever reads it may be killed before it has done anything."""
    store = Store(tmp_path)
    store.set_plan([State("x", "a.s0", "a"), State("y", "b.s0", "b")])
    for _ in range(2):
        Store(tmp_path).request_stop("x")
    assert store.requests() == store.requests() == ["x"]
    run, other = store.states()
    store.move(other, "running")
    store.mark(other, stopping="budget spent")
    assert store.requests() == ["x"]
    if met == "marked":
        store.move(run, "running")
        assert store.requests() == ["x"]
        store.mark(run, stopping="by request")
    else:
        store.move(run, "stopped", "by request")
    assert store.requests() == []


def test_a_request_that_came_too_late_stops_no_later_life(tmp_path):
    store = Store(tmp_path)
    store.set_plan([State("x", "a.s0", "a")])
    (run,) = store.states()
    store.move(run, "running")
    store.move(run, "failed", "it crashed")
    store.request_stop("x")
    store.move(run, "waiting", "tried again")
    assert store.requests() == []


@pytest.mark.parametrize("kept", ["runs/plan/runs/a.s0-1", "/home/me/old/runs/a.s0-1"])
def test_a_store_of_the_first_format_is_read_on(tmp_path, kept):
    """It kept paths as they were seen from where the command was given."""
    store = Store(tmp_path)
    store.set_plan([State("x", "a.s0", "a", folder="a.s0-1")])
    store.close()
    with sqlite3.connect(tmp_path / "plan.db") as database:
        database.execute("UPDATE meta SET value = '1' WHERE name = 'format'")
        database.execute("UPDATE runs SET folder = ?", (kept,))
        for name in ("since", "spent"):
            database.execute(f"ALTER TABLE runs DROP COLUMN {name}")
    (run,) = Store(tmp_path).states()
    assert (run.folder, run.since, run.spent) == (str(tmp_path / "runs" / "a.s0-1"), 0.0, 0.0)
    with sqlite3.connect(tmp_path / "plan.db") as database:
        assert database.execute("SELECT value FROM meta WHERE name = 'format'").fetchone() == ("2",)


def test_a_thousand_runs_are_read_at_once(tmp_path):
    """No time is asserted here; docs/plans.md has the figure."""
    store = Store(tmp_path)
    store.set_plan([State(str(i), f"a.s{i}", "a") for i in range(1000)])
    started = time.time()
    assert len(store.states()) == 1000
    print(f"{time.time() - started:.3f} s")


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["UPDATE meta SET value = '2.0'"], "plan.db: damaged (no format)"),
        (["DELETE FROM meta"], "plan.db: damaged (no format)"),
        (["DROP TABLE requests"], "plan.db: damaged (no table requests)"),
        (["DROP TABLE meta"], "plan.db: not a store of a plan"),
    ],
)
def test_a_store_that_lacks_something_is_refused(tmp_path, statements, message):
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "plan.db") as db:
        for statement in statements:
            db.execute(statement)
    db.close()
    with pytest.raises(UserError) as refused:
        Store(tmp_path, create=False)
    assert message in str(refused.value)


def test_looking_writes_nothing_into_what_is_no_store(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "plan.db").touch()
    with sqlite3.connect(tmp_path / "plan.db") as db:
        db.execute("CREATE TABLE other (x)")
    db.close()
    before = (tmp_path / "plan.db").read_bytes()
    for folder, create in ((tmp_path / "empty", False), (tmp_path, False), (tmp_path, True)):
        with pytest.raises(UserError, match=r"plan.db: not a store of a plan; name another folder with --store"):
            Store(folder, create)
    assert (tmp_path / "plan.db").read_bytes() == before
    assert (tmp_path / "empty" / "plan.db").stat().st_size == 0
    Store(tmp_path / "empty")  # a client that died as it made its store


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("attempt to write a readonly database", "--store: no permission to write"),
        ("unable to open database file", "--store: no permission to write"),
        ("database is locked", "plan.db: in use by another command"),
        ("database or disk is full", "plan.db: database or disk is full; free some space"),
    ],
)
def test_a_store_that_cannot_be_written_is_not_called_damaged(tmp_path, monkeypatch, said, message):
    def refused(*_, **__):
        raise sqlite3.OperationalError(said)

    monkeypatch.setattr(sqlite3, "connect", refused)
    with pytest.raises(UserError, match=message):
        Store(tmp_path)
