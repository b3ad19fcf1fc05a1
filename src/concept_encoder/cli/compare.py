"""`concept-encoder compare RUN_A RUN_B …`."""

import click


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path())
@click.option(
    "--format", "kind", type=click.Choice(["terminal", "markdown", "html", "latex"]), help="[default: by --output]"
)
@click.option("--output", type=click.Path(), help="Write to a file: .md, .html or .tex.")
def command(runs: tuple[str, ...], kind: str | None, output: str | None) -> None:
    """Compare fine-tuned systems task by task, each with the first.

    A RUN is the folder of a finetune run, or a folder with many of them: several seeds, several tasks. Every score
    stands beside its interval, its baselines and its concept controls; every difference has an interval over seeds and
    examples, a p-value corrected for all the questions asked at once, and a verdict. Fewer than five seeds settle
    nothing: the verdict says so, and how many would.
    """
    from concept_encoder.cli.write_tables import check_output, write_tables
    from concept_encoder.evaluation.compare import compare, tables
    from concept_encoder.evaluation.runs import read_systems

    kind, file = check_output(kind, output)
    systems = read_systems(runs)
    write_tables("Comparison of " + ", ".join(system.name for system in systems), tables(compare(systems)), kind, file)
