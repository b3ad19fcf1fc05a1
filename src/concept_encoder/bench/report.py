"""The record of a benchmark as tables: for a terminal, and as Markdown for the documentation."""

from typing import Any


def table(record: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows, one row a contestant and length."""
    rows = record["rows"]
    header = ["model", "N", "tokens/s", "texts/s", f"x {record['options']['models'][0]}", "spread"]
    extra = [name for name in ("mfu", "memory_bytes") if any(name in row for row in rows)]
    header += [{"mfu": "of matmul", "memory_bytes": "peak MiB"}[name] for name in extra]
    return header, [_cells(row, record["options"]["repeats"], extra) for row in rows]


def _cells(row: dict[str, Any], repeats: int, extra: list[str]) -> list[Any]:
    spread = f"{(row['slowest'] - row['fastest']) / row['seconds']:.0%}" if repeats > 1 else "–"  # one has none
    cells = [
        row["model"],
        f"{row['length']:,}" if row["length"] else f"{row['tokens'] / row['texts']:.0f} (real)",
        f"{row['tokens_per_second']:,.0f}",
        f"{row['texts_per_second']:,.1f}",
        _ratio(row),
        spread,
    ]
    for name in extra:
        value = row.get(name)
        shown = "–" if value is None else f"{value:.0%}" if name == "mfu" else f"{value / 2**20:,.0f}"
        cells.append(shown)
    return cells


def _ratio(row: dict[str, Any]) -> str:
    return "–" if row["ratio"] is None else f"{row['ratio']:.2f}"


def ratio_grid(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Speed as a multiple of the first contestant's: one row a contestant, one column a length."""
    lengths = sorted({row["length"] for row in record["rows"]})
    found = {(row["model"], row["length"]): _ratio(row) for row in record["rows"]}
    header = ["model", *(f"N = {length:,}" for length in lengths)]
    cells = [[name, *(found.get((name, length), "–") for length in lengths)] for name in record["options"]["models"]]
    return header, cells


def markdown(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
