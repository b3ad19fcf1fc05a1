"""Tables to a terminal or a file, in the format that was asked for."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from concept_encoder.errors import UserError
from concept_encoder.evaluation.tables import FORMATS, Table
from concept_encoder.records import write_atomically

_SUFFIXES = {".md": "markdown", ".html": "html", ".tex": "latex"}


def check_output(kind: str | None, output: str | None) -> tuple[str, Path | None]:
    """The format and the file, before any work is done.

    Raises:
        UserError: a file whose name is not that of a page, or in a folder that is not there. Any other name may be
            that of a result, and what is written replaces it.
    """
    if output is None:
        return kind or "terminal", None
    file = Path(output)
    if not file.parent.is_dir():
        raise UserError(f"--output: {file.parent} is no folder")
    if file.is_dir():
        raise UserError(f"--output: {file} is a folder; name a file in it")
    if file.suffix not in _SUFFIXES:
        raise UserError(f"--output: {file.name} is not the name of a page; end it in {', '.join(_SUFFIXES)}")
    if file.exists() and not file.is_file():
        raise UserError(f"--output: {file} is no regular file; name another")
    if kind == "terminal":
        raise UserError("--format: terminal goes to no file; choose markdown, html or latex")
    return kind or _SUFFIXES[file.suffix], file


def writable_folder(folder: Path) -> Path:
    """The folder, when it can be made or written into: better said before the work than after it."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--output: {there} is a file; name a folder")
    if not os.access(there, os.W_OK):
        raise UserError(f"--output: {folder} cannot be written; name a folder of yours")
    return folder


def write_tables(
    title: str,
    tables: Sequence[Table],
    kind: str,
    file: Path | None,
    figures: Mapping[str, "Figure"] | None = None,  # noqa: F821
) -> None:
    """Print the tables, or write them whole. A page shows the figures too, by their captions."""
    if kind == "terminal":
        for table in tables:
            _show(table)
        return
    text = _page(title, tables, figures or {}) if kind == "html" else FORMATS[kind](tables)
    if file is None:
        click.echo(text, nl=False)
        return
    write_atomically(file, text)
    click.echo(f"written: {file}")


def _show(table: Table) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    from concept_encoder.cli.show import console

    shown = RichTable(title=Text(table.title), title_justify="left")
    for i, name in enumerate(table.header):
        shown.add_column(Text(name), justify="left" if table.is_text(i) else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    console.print(shown)
    for note in table.notes:
        console.print(Text(f"  {note}"))
    console.print()


def _page(title: str, tables: Sequence[Table], figures: Mapping[str, "Figure"]) -> str:  # noqa: F821
    from concept_encoder.analysis.report import Report

    report = Report(title)
    for table in tables:
        report.section(table.title).table(table.header, table.rows).notes(table.notes)
    for caption, figure in figures.items():
        report.figure(figure, caption)
    return report.render()
