"""Tables as Markdown and LaTeX; a terminal and a page show the same rows in their own way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}


@dataclass(frozen=True)
class Table:
    """Cells as they are read. The first `text_columns` are set to the left, as is the last where `remarks` says so."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    text_columns: int = 3
    remarks: bool = True

    def is_text(self, column: int) -> bool:
        return column < self.text_columns or (self.remarks and column == len(self.header) - 1)


def markdown(tables: Sequence[Table]) -> str:
    """GitHub's Markdown; a bar in somebody's name does not end a cell."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) + " |"

    blocks = []
    for table in tables:
        rule = ["---" if table.is_text(i) else "---:" for i in range(len(table.header))]
        lines = [line(table.header), line(rule), *map(line, table.rows)]
        blocks.append(f"**{table.title}**\n\n" + "\n".join(lines))
        blocks += ["\n".join(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n\n".join(blocks) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """Tables for `\\usepackage{booktabs}`, the notes below each."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_escaped, cells)) + r" \\"

    blocks = []
    for table in tables:
        columns = "".join("l" if table.is_text(i) else "r" for i in range(len(table.header)))
        notes = [rf"\par\footnotesize {_escaped(note)}" for note in table.notes]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(table.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            line(table.header),
            r"\midrule",
            *map(line, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            *notes,
            r"\end{table}",
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {"markdown": markdown, "latex": latex}


def points(value: float | None, signed: bool = False) -> str:
    """A score or difference of scores x 100, as GLUE prints it."""
    return "–" if value is None else f"{100 * value:{'+' if signed else ''}.1f}"


def short(metric: str) -> str:
    """A metric's name in a column of a table."""
    return "MCC" if metric == "matthews_correlation" else metric


def bounds(low: float, high: float, signed: bool = False) -> str:
    """An interval in points."""
    return f"{points(low, signed)} to {points(high, signed)}"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
