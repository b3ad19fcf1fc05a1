"""The table of `plan status` and `plan watch`."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from concept_encoder.errors import printable
from concept_encoder.lab.failures import mask
from concept_encoder.lab.progress import duration, figures, glance
from concept_encoder.lab.store import State, Store

_STYLES = {"done": "green", "running": "bold", "failed": "red", "stopped": "yellow", "skipped": "dim", "waiting": ""}
_ORDER = ("running", "failed", "stopped", "done", "waiting", "skipped")
_COLUMNS = ("run", "state", "step", "loss", "curve", "tokens/s", "result", "time", "left", "GPU")
_SHORT = 8  # of a state, unless all are asked for


def status_table(states: Sequence[State], store: Store, width: int, everything: bool = False) -> Group:
    """Runs with state, progress, loss as a line of bars, tokens/s and time left; by state unless `everything`.

    Only runs that are going are looked up on disk, so that a thousand finished ones cost nothing.
    """
    if everything:
        shown, rest = list(states), {}
    else:
        groups = {name: [state for state in states if state.state == name] for name in _ORDER}
        limits = {name: len(group) if name == "running" else _SHORT for name, group in groups.items()}
        # the latest that ended, the first that wait
        kept = {
            name: group[: limits[name]] if name in ("waiting", "skipped") else _latest(group, limits[name])
            for name, group in groups.items()
        }
        shown = [state for name in _ORDER for state in kept[name]]
        rest = {name: len(groups[name]) - len(kept[name]) for name in _ORDER if len(groups[name]) > len(kept[name])}
    rows = [_cells(state, store) for state in shown]
    hidden = () if width >= 100 else ("curve", "tokens/s", "time")
    used = [i for i, name in enumerate(_COLUMNS) if name not in hidden and any(row[i].plain for row in rows)]
    table = Table(title=Text(str(store.folder)), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i in used:
        table.add_column(_COLUMNS[i], justify="left" if i < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[i] for i in used))
    told = [state for state in shown if state.stopping or state.reason]
    why = [Text(printable(f"{state.name}: {mask(state.stopping or state.reason)}")) for state in told]
    if rest:
        why.append(Text("and " + ", ".join(f"{count} {name}" for name, count in rest.items()) + " (--all)"))
    return Group(table, *why)


def _latest(group: list[State], count: int) -> list[State]:
    return sorted(group, key=lambda state: state.ended or 0.0)[-count:] if count else []


def _cells(state: State, store: Store) -> list[Text]:
    found: dict[str, Any] = dict(state.figures)
    if state.state == "running":
        found = figures(glance(Path(state.folder)), state.steps)
    now, before = time.time(), state.seconds
    seconds = before + (now - state.started if state.state == "running" and state.started else 0.0)
    step = found.get("step")
    progress = "" if step is None else f"{step:,}" + (f"/{found['steps']:,}" if found.get("steps") else "")
    rate, loss, left = found.get("tokens_per_second"), found.get("loss"), found.get("eta")
    headline = " ".join(f"{value:.4g}" for value in (found.get("headline") or {}).values())
    queued = state.state == "running" and state.started is None
    label = "stopping" if state.stopping else "queued" if queued else state.state
    return [
        Text(state.name),
        Text(label + (f" ({state.attempt})" if state.attempt > 1 else ""), style=_STYLES[state.state]),
        Text(progress),
        Text("" if loss is None else f"{loss:.3f}"),
        Text(found.get("curve", "")),
        Text("" if rate is None else f"{rate:,.0f}"),
        Text(headline),
        Text(duration(seconds) if seconds else ""),
        Text("" if left is None else duration(left)),
        Text(_gpus(state, store)),
    ]


def _gpus(state: State, store: Store) -> str:
    """Which GPUs a run has, or how many it will ask for."""
    try:
        held = json.loads((store.attempt_folder(state) / "job.json").read_text(encoding="utf-8"))["gpus"]
    except (OSError, ValueError, KeyError):
        held = []
    running = state.state == "running" and held
    return ",".join(map(str, held)) if running else f"{state.gpus} asked" if state.gpus and not state.final else ""
