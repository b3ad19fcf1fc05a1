"""Tables that more than one verb prints."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from concept_encoder.errors import printable

PIPE_WIDTH = 200  # a pipe or a file has no width: wide enough that no name is cut in two and `grep` finds it
NAME_WIDTH = 24  # names up to this long are never broken, as they are typed again

console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH)


@contextmanager
def progress(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar in a terminal; call what it gives with `(what, done, total)`."""
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(title)
        yield lambda what, done, total: bar.update(task, description=f"{title}: {what}", completed=done, total=total)


def show_table(title: str, header: list[str], rows: list[list[Any]]) -> None:
    """Print a table; numbers are aligned right."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    short = all(len(number(row[0])) <= NAME_WIDTH for row in rows)
    for i, name in enumerate(header):
        first = i == 0
        table.add_column(Text(name), justify="left" if first else "right", overflow="fold", no_wrap=first and short)
    for row in rows:
        table.add_row(
            *(Text(printable(number(value))) for value in row)
        )  # as Text: brackets in somebody's words are no markup
    console.print(
        Text(printable(title), style="table.title")
    )  # not the table's own, which would be folded to its width
    console.print(table)


def number(value: Any) -> str:
    """A value as a person reads it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
        return shown.removeprefix("-") if float(shown.replace(",", "")) == 0 else shown  # no minus before a zero
    return f"{value:,}" if isinstance(value, int) else str(value)


def pretraining_rows(results: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: held-out losses beside the unigram baseline."""
    header = ["model", "held-out loss", "tokens/s", "parameters", "MFLOPs / token", "C / N"]
    unigram = next(iter(results.values()))["unigram_loss"]
    rows: list[list[Any]] = [["unigram frequencies", unigram, None, None, None, None]]
    for name, result in results.items():
        ratio = f"{result['concepts']} / {result['sequence_length']}" if result["concepts"] else "none"
        label = f"{name} ({'strict' if result['strict'] else 'hybrid'})" if result["concepts"] else name
        size, flops = result["parameters"], result["flops_per_token"] / 1e6
        rows.append([label, result["eval_loss"], result["tokens_per_second"], size, flops, ratio])
    return header, rows


def show_pretraining(results: dict[str, dict[str, Any]]) -> None:
    show_table("Masked language modelling", *pretraining_rows(results))


def score_rows(scores: dict[str, dict[str, float | None]]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: one row a system, one column a metric."""
    metrics = list(next(iter(scores.values())))
    return ["system", *metrics], [[name, *(found.get(metric) for metric in metrics)] for name, found in scores.items()]


def show_scores(task: str, scores: dict[str, dict[str, float | None]]) -> None:
    show_table(f"Task: {task}", *score_rows(scores))
    note_undefined(scores)


def note_undefined(scores: dict[str, dict[str, float | None]]) -> None:
    """What a dash in a table of scores means, where there is one."""
    if any(value is None for found in scores.values() for value in found.values()):
        console.print("note: – is undefined: the labels, or the answers, are all the same (for f1: none is of class 1)")
