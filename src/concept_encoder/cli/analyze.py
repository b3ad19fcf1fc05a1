"""`concept-encoder analyze CHECKPOINT`."""

from pathlib import Path

import click


@click.command("analyze")
@click.argument("checkpoint", type=click.Path())
@click.option(
    "--texts", help="Held-out texts: a file, a folder, a hub id, or quickstart (the default).", default="quickstart"
)
@click.option("--text-column", default="text", show_default=True, help="The column that holds the texts.")
@click.option("--split", default="train", show_default=True, help="The split of a hub data set.")
@click.option("--max-texts", default=1000, type=click.IntRange(min=1), show_default=True, help="Read so many texts.")
@click.option(
    "--tags", help="Word classes, for what concepts select: a CoNLL-U file with gold tags, or spacy:PIPELINE."
)
@click.option("--states", type=click.Choice(["concepts", "tokens"]), default="concepts", show_default=True,
              help="tokens: analyse token states instead, of any transformers encoder.")  # fmt: skip
@click.option("--compare", type=click.Path(), help="Another checkpoint, or its analysis, to set beside it.")
@click.option("--over-training", is_flag=True, help="Also follow the figures over all checkpoints of the run.")
@click.option(
    "--output", type=click.Path(), help="Folder for analysis.json, figures/ and report.html.  [CHECKPOINT/analysis]"
)
def command(checkpoint: str, texts: str, text_column: str, split: str, max_texts: int, tags: str | None, states: str,
            compare: str | None, over_training: bool, output: str | None) -> None:  # fmt: skip
    """Show what the concepts of CHECKPOINT (a checkpoint or a run) hold; nothing is trained.

    Exit code 1 when the health check fails.
    """
    from concept_encoder.analysis.analyze import analyze, geometry_over_training
    from concept_encoder.analysis.compare import write_comparison
    from concept_encoder.analysis.conllu import tag_texts
    from concept_encoder.analysis.present import key_numbers, read_analysis, write_analysis
    from concept_encoder.cli.show import progress, show_table
    from concept_encoder.data.conllu import read_conllu

    held_out = _read_texts(texts, text_column, split, max_texts)
    sentences = None
    if tags:
        kind, _, pipeline = tags.partition(":")
        sentences = tag_texts(held_out, pipeline) if kind == "spacy" else read_conllu(tags)
    with progress("analysing") as step:
        found = analyze(checkpoint, held_out, states=states, sentences=sentences, progress=step)
        if over_training:
            found["training"] = geometry_over_training(checkpoint, held_out, states=states, progress=step)
        other = None
        if compare:
            known = _is_analysis(compare)
            other = read_analysis(compare) if known else analyze(compare, held_out, states=states, progress=step)
    folder = Path(output) if output else Path(checkpoint) / "analysis"
    page = write_analysis(found, folder)
    rows = [[number.label, number.value, number.target] for number in key_numbers(found)]
    show_table("The concepts in numbers", ["figure", "value", "target"], rows)
    if other:
        page = write_comparison(found, other, folder)
    click.echo(f"report: {page}")
    click.get_current_context().exit(1 if found["health"]["verdict"] == "fail" else 0)


def _read_texts(source: str, column: str, split: str, count: int) -> list[str]:
    from itertools import islice

    from concept_encoder.data import quickstart
    from concept_encoder.data.sources import read_texts

    if source == quickstart.NAME:
        return quickstart.documents()[1][:count]
    return list(islice(read_texts(source, column, split=split), count))


def _is_analysis(path: str) -> bool:
    return Path(path).suffix == ".json" or (Path(path) / "analysis.json").is_file()
