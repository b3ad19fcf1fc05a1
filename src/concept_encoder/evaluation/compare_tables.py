"""A comparison as people read it: in points, with what a reader has to know below each table."""

from collections.abc import Sequence

from concept_encoder.evaluation.compare import AT_MAJORITY_NOTE, Comparison, DifferenceRow
from concept_encoder.evaluation.statistics import MIN_SEEDS
from concept_encoder.evaluation.tables import Table, bounds, points, short


def tables(comparison: Comparison) -> list[Table]:
    """Scores, then differences from each reference."""
    names = dict.fromkeys(name for row in comparison.scores for name in row.beside)
    found = [
        Table(
            "Scores, mean over seeds, x 100",
            ["task", "metric", "system", "score", "95 % interval", "seeds", *names, "remarks"],
            [
                [
                    *(row.task, short(row.metric), row.system, points(row.value)),
                    bounds(row.interval.low, row.interval.high) if row.interval else "–",
                    str(row.seeds),
                    *(points(row.beside.get(name)) for name in names),
                    "; ".join(row.remarks),
                ]
                for row in comparison.scores
            ],
            [
                "intervals: BCa bootstrap over seeds and examples together; of one seed, over examples only; of 2 to "
                f"{MIN_SEEDS - 1} seeds Student's t, which may leave the range of a score",
                AT_MAJORITY_NOTE,
                *comparison.notes,
            ],
        )
    ]
    asked = sum(row.found is not None for row in comparison.differences)
    for reference in dict.fromkeys(row.reference for row in comparison.differences):
        found.append(_difference_table([row for row in comparison.differences if row.reference == reference], asked))
    return found


def _difference_table(rows: Sequence[DifferenceRow], asked: int) -> Table:
    """Of one reference; `asked` counts the questions of all."""
    return Table(
        f"Differences from {rows[0].reference}, x 100",
        [
            "task",
            "metric",
            "system",
            "difference",
            "95 % interval",
            "g",
            "ahead",
            "p",
            "p, Holm",
            "p, seeds",
            "verdict",
        ],
        [[row.task, short(row.metric), row.candidate, *_cells(row), row.verdict] for row in rows],
        [
            f"p: t test with the variance of seeds and examples; p, Holm: corrected for all {asked} questions",
            "p, seeds: exact permutation of seeds, with the least that so many seeds can give",
            "g: the difference in standard deviations of a seed (Hedges); ahead: pairs of seeds in which it is ahead",
            "intervals are of one difference each, not corrected",
        ],
    )


def _cells(row: DifferenceRow) -> list[str]:
    found = row.found
    if found is None:
        return ["–"] * 7
    exact = found.permutation
    return [
        points(found.interval.value, signed=True),
        bounds(found.interval.low, found.interval.high, signed=True),
        "–" if found.hedges_g is None else f"{found.hedges_g:+.1f}",
        f"{found.superiority:.0%}",
        _p(found.p),
        _p(row.adjusted_p),
        "–" if exact is None else f"{_p(exact.p)} (least {_p(exact.minimum)})",
    ]


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"
