"""`concept-encoder compare RUN_A RUN_B …`."""

from collections.abc import Sequence

import click


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path())
@click.option(
    "--format", "kind", type=click.Choice(["terminal", "markdown", "html", "latex"]), help="[default: by --output]"
)
@click.option("--output", type=click.Path(), help="Write to a file that ends in .md, .html or .tex.")
def command(runs: tuple[str, ...], kind: str | None, output: str | None) -> None:
    """Compare fine-tuned systems task by task, each with the first.

    A RUN is the folder of a finetune run, or a folder with many of them: several seeds, several tasks. Every score
    stands beside its interval, its baselines and its concept controls; every difference has an interval over seeds and
    examples, a p-value corrected for all the questions asked at once, and a verdict. Fewer than five seeds settle
    nothing: the verdict says so, and from two seeds on how many would.
    """
    from concept_encoder.cli.write_tables import check_output, write_tables
    from concept_encoder.evaluation.compare import compare
    from concept_encoder.evaluation.compare_tables import tables
    from concept_encoder.evaluation.runs import read_systems

    kind, file = check_output(kind, output)
    systems = read_systems(runs)
    found = compare(systems)
    tested = [row for row in found.differences if row.found is not None]
    figures = {f"Differences from {systems[0].name}": _forest(tested)} if tested and kind == "html" else {}
    title = "Comparison of " + ", ".join(system.name for system in systems)
    write_tables(title, tables(found), kind, file, figures)


def _forest(rows: Sequence["DifferenceRow"]) -> "Figure":  # noqa: F821
    """Every difference with its interval, from top to bottom; filled where there is a verdict."""
    from concept_encoder.analysis.figures import STYLES, figure, new_axes
    from concept_encoder.evaluation.tables import short

    candidates = list(dict.fromkeys(row.candidate for row in rows))

    @figure
    def draw() -> "Figure":  # noqa: F821
        fig, (axes,) = new_axes(height=1.0 + 0.26 * len(rows))
        for place, row in enumerate(rows):
            found = row.found.interval
            style = STYLES[candidates.index(row.candidate) % len(STYLES)]
            axes.plot([100 * found.low, 100 * found.high], [place, place], color=style["color"])
            filled = style["color"] if row.verdict in ("higher", "lower") else "white"
            axes.plot(100 * found.value, place, marker=style["marker"], color=style["color"], markerfacecolor=filled)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [f"{row.task} {short(row.metric)}, {row.candidate}" for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("points; 95 % interval; filled: higher or lower after correction")
        return fig

    return draw()
