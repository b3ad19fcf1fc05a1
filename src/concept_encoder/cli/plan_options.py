"""What the commands of `plan` share: the plan, its store, and how a run is named."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from concept_encoder.errors import UserError, naming, nearest

if TYPE_CHECKING:
    from concept_encoder.lab.store import State, Store


def _plan_file(context: click.Context, parameter: click.Parameter, plan: str) -> str:
    if not Path(plan).is_file():
        raise UserError(f"{plan}: no such plan file")
    return plan


plan_argument = click.argument("plan", type=click.Path(), callback=_plan_file)
store_option = click.option(
    "--store", type=click.Path(), help="Folder of the plan's runs.  [default: runs/NAME of the plan]"
)


def store_folder(plan: str, store: str | None) -> Path:
    """The folder of a plan's runs."""
    return Path(store) if store else Path("runs") / Path(plan).stem


def store_before(plan: str, store: str | None) -> "Store | None":
    """The store, where there is one already."""
    from concept_encoder.lab.store import Store
    from concept_encoder.lab.store_file import is_begun

    folder = store_folder(plan, store)
    return Store(folder, create=False) if is_begun(folder) else None


def chosen_engine(on: str | None, before: "Store | None") -> str:
    """What `--on` says, in its full form; else where the runs of the store were given to the last time, or local."""
    from concept_encoder.lab.engines.table import engine_name

    if on is not None:
        return engine_name(on)
    if before is None:
        return "local"
    with naming(f"{before.folder} remembers where its runs are"):
        return engine_name(before.engine)


def find_run(states: Sequence["State"], name: str, whole: bool = False) -> "State":
    """The run of this name, or (unless the `whole` name is asked for) the one whose name begins so."""
    found = [state for state in states if state.name == name]
    if name and not whole:
        found = found or [state for state in states if state.name.startswith(name)]
    if len(found) > 1:
        raise UserError(f"{name}: {len(found)} runs begin so, such as {found[0].name} and {found[1].name}")
    if not found:
        raise UserError(f"{name or repr(name)}: no run is called so; {nearest(name, [state.name for state in states])}")
    return found[0]


def show_counts(states: Iterable["State"]) -> None:
    """One line: how many are done, running, …"""
    counts = Counter(state.state for state in states)
    order = ("done", "running", "waiting", "failed", "stopped", "skipped")
    click.echo(", ".join(f"{counts[state]} {state}" for state in order if counts[state]))
