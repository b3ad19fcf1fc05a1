"""One self-contained HTML file: sections of prose, key numbers, tables and figures.

    report = Report("Concepts of my-run", "1,000 held-out texts")
    report.section("Rank").prose("Effective rank is ...").numbers(Number("effective rank", 21.4, note="ceiling 28.9"))
    report.table(["model", "loss"], [["ours", 4.93], ["unigram", 7.1]])
    report.figure(to_svg(fig), "Singular values")
    report.write("report.html")

Nothing is fetched from anywhere, and all text is escaped. Figures are `matplotlib` figures or SVG text.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.figure import Figure

from concept_encoder.analysis.figures import to_svg
from concept_encoder.records import write_atomically


@dataclass
class Number:
    """A key number on a card. `met` True or False marks it against `target`; None leaves it unjudged."""

    label: str
    value: Any
    target: str = ""
    met: bool | None = None
    note: str = ""

    @property
    def mark(self) -> str:
        """The target and whether it is met: "✓ met: > 0.8"; empty where none is set."""
        verdict = {True: "✓ met: ", False: "✗ missed: ", None: ""}[self.met]
        return verdict + self.target if self.target else ""


@dataclass
class Section:
    """A heading and its blocks, in the order in which they were added."""

    title: str
    blocks: list[tuple[str, Any]] = field(default_factory=list)


class Report:
    """Builds a page block by block; every method but `render` and `write` returns the report itself."""

    def __init__(self, title: str, subtitle: str = ""):
        self.title, self.subtitle = title, subtitle
        self.sections: list[Section] = []
        self._figures = 0

    def section(self, title: str) -> "Report":
        """Start a section; what follows belongs to it."""
        self.sections.append(Section(title))
        return self

    def prose(self, *paragraphs: str) -> "Report":
        """Plain paragraphs."""
        for paragraph in paragraphs:
            self._add("prose", paragraph)
        return self

    def notes(self, notes: Iterable[str]) -> "Report":
        """Caveats, set apart; nothing when there are none."""
        notes = list(notes)
        if notes:
            self._add("notes", notes)
        return self

    def numbers(self, *numbers: Number) -> "Report":
        """Key numbers, side by side."""
        return self._add("numbers", numbers)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> "Report":
        """A table; a column of numbers, or mostly so, is set to the right, None is printed as a dash."""
        rows = [list(row) for row in rows]
        for row in rows:
            assert len(row) == len(columns), f"table {caption!r}: {len(row)} cells under {len(columns)} columns"
        right = [_numeric([row[index] for row in rows]) for index in range(len(columns))]
        return self._add("table", {"columns": columns, "rows": rows, "caption": caption, "right": right})

    def figure(self, figure: Figure | str, caption: str = "") -> "Report":
        """A figure, inlined. Its ids get a prefix of their own, so that figures on one page do not mix."""
        svg = to_svg(figure) if isinstance(figure, Figure) else figure
        self._figures += 1
        return self._add("figure", {"svg": inline_svg(svg, f"f{self._figures}-", caption), "caption": caption})

    def render(self) -> str:
        """The page as HTML text."""
        environment = Environment(
            loader=PackageLoader("concept_encoder.analysis", "."), autoescape=True, trim_blocks=True
        )
        environment.filters["cell"] = cell
        template = environment.get_template("report.html.j2")
        return template.render(title=self.title, subtitle=self.subtitle, sections=self.sections)

    def write(self, path: str | Path) -> Path:
        """Write the page whole or not at all. Raises `OSError` where it cannot be written."""
        return write_atomically(path, self.render())

    def _add(self, kind: str, block: Any) -> "Report":
        assert self.sections, "start a section first"
        self.sections[-1].blocks.append((kind, block))
        return self


def cell(value: Any) -> str:
    """A value as people read it: 12,345 · 0.1234 · 1.2e-05 · – for None."""
    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        size = abs(value)
        if size and (size < 1e-3 or size >= 1e6):
            return f"{value:.2g}"
        return f"{value:,.0f}" if size >= 1e4 else f"{value:,.1f}" if size >= 100 else f"{value:.3f}"
    return str(value)


def _numeric(values: list[Any]) -> bool:
    known = [value for value in values if value is not None]
    return 2 * sum(isinstance(value, int | float) for value in known) > len(known)


def inline_svg(svg: str, prefix: str, label: str = "") -> Markup:
    """SVG to stand inside HTML: no prolog, its own ids, and a label for readers who cannot see it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'((?:xlink:)?href)="#', rf'\1="#{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}")
    return Markup(svg.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(label or "figure"), 1))
