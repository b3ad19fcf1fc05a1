"""`concept-encoder gap [RUN…]`."""

import click


@click.command("gap")
@click.argument("runs", nargs=-1, metavar="[RUN...]", type=click.Path())
@click.option("--reference", default="bert-base", show_default=True, help="The published row to measure against.")
@click.option(
    "--format", "kind", type=click.Choice(["terminal", "markdown", "html", "latex"]), help="[default: by --output]"
)
@click.option("--output", type=click.Path(), help="Write to a file that ends in .md, .html or .tex.")
def command(runs: tuple[str, ...], reference: str, kind: str | None, output: str | None) -> None:
    """How far systems are from BERT-Base, per task and on average, like for like.

    A RUN is the folder of a finetune run, a folder with many of them, or the name of a published row (`plan` is the
    research plan's best run). Accuracy is compared with accuracy and F1 with F1; averages are printed under the names
    of their definitions. Without a RUN the published rows are listed, with their sources.
    """
    from pathlib import Path

    from concept_encoder.cli.write_tables import check_output, write_tables
    from concept_encoder.errors import UserError, nearest
    from concept_encoder.evaluation.gap import published_table, standing_of, standing_of_published, tables
    from concept_encoder.evaluation.published import PUBLISHED, published
    from concept_encoder.evaluation.runs import read_systems

    kind, file = check_output(kind, output)
    row = published(reference)
    if not runs:
        write_tables("Published GLUE results", [published_table()], kind, file)
        return
    named = [run for run in runs if not Path(run).is_dir()]
    for name in named:
        if name not in PUBLISHED:
            raise UserError(
                f"{name}: no such run folder, and no published row of that name; {nearest(name, PUBLISHED)}"
            )
    systems = read_systems([run for run in runs if run not in named])
    standings = [*map(standing_of, systems), *(standing_of_published(PUBLISHED[name]) for name in named)]
    write_tables(f"Gap to {row.title}", tables(standings, row), kind, file)
