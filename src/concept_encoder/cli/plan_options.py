"""What the commands of `plan` share: the plan, its store, and how a run is named."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from concept_encoder.errors import UserError, nearest

if TYPE_CHECKING:
    from concept_encoder.lab.store import State

plan_argument = click.argument("plan", type=click.Path())
store_option = click.option(
    "--store", type=click.Path(), help="Folder of the plan's runs.  [default: runs/NAME of the plan]"
)


def store_folder(plan: str, store: str | None) -> Path:
    """The folder of a plan's runs."""
    return Path(store) if store else Path("runs") / Path(plan).stem


def find_run(states: Sequence["State"], name: str) -> "State":
    """The run of this name, or the one whose name begins so."""
    found = [state for state in states if state.name == name] or [s for s in states if s.name.startswith(name)]
    if len(found) > 1:
        raise UserError(f"{name}: {len(found)} runs begin so, such as {found[0].name} and {found[1].name}")
    if not found:
        raise UserError(f"{name}: no run is called so; {nearest(name, [state.name for state in states])}")
    return found[0]


def show_counts(states: Iterable["State"]) -> None:
    """One line: how many are done, running, …"""
    counts = Counter(state.state for state in states)
    order = ("done", "running", "waiting", "failed", "stopped", "skipped")
    click.echo(", ".join(f"{counts[state]} {state}" for state in order if counts[state]))
