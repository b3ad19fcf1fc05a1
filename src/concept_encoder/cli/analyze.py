"""`concept-encoder analyze CHECKPOINT [data.field=value …]`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from concept_encoder.analysis.material import Material
    from concept_encoder.analysis.subject import Subject


@click.command("analyze")
@click.argument("checkpoint", type=click.Path())
@click.argument("task", nargs=-1, metavar="[data.field=value]...")
@click.option("--texts", help="Texts to read instead: a file, a folder, a hub id, or quickstart.")
@click.option("--text-column", default="text", show_default=True, help="The column of --texts that holds them.")
@click.option("--split", default="train", show_default=True, help="The split of a hub data set.")
@click.option("--max-texts", default=1000, type=click.IntRange(min=1), show_default=True, help="Read so many texts.")
@click.option(
    "--tags", help="Word classes, for what concepts select: a CoNLL-U file with gold tags, or spacy:PIPELINE."
)
@click.option("--states", type=click.Choice(["concepts", "tokens"]), default="concepts", show_default=True,
              help="tokens: analyse token states instead, of any transformers encoder.")  # fmt: skip
@click.option("--compare", type=click.Path(), help="Another checkpoint or its analysis, to set beside it; BERT too.")
@click.option("--over-training", is_flag=True, help="Also follow the figures over all checkpoints of the run.")
@click.option(
    "--output", type=click.Path(), help="Folder for analysis.json, figures/ and report.html.  [CHECKPOINT/analysis]"
)
def command(checkpoint: str, task: tuple[str, ...], texts: str | None, text_column: str, split: str, max_texts: int,
            tags: str | None, states: str, compare: str | None, over_training: bool,
            output: str | None) -> None:  # fmt: skip
    """Show what the concepts of CHECKPOINT (a checkpoint or a run) hold; nothing is trained.

    It reads the held-out texts of the run, as its recipe.yaml says; or --texts; or the held-out examples of a task, to
    see which concepts carry it: given as to finetune, data.task=mrpc, or data.train=mine.csv data.label=topic.

    Exit code 1 when the health check fails.
    """
    from concept_encoder.analysis.analyze import analyze, geometry_over_training
    from concept_encoder.analysis.key_figures import key_numbers, notes_of
    from concept_encoder.analysis.material import run_of
    from concept_encoder.analysis.present import write_analysis
    from concept_encoder.analysis.subject import load_subject
    from concept_encoder.analysis.words import tag_texts
    from concept_encoder.cli.show import progress, show_table
    from concept_encoder.cli.write_tables import writable_folder
    from concept_encoder.data.conllu import read_conllu

    subject = load_subject(checkpoint, states)
    folder = writable_folder(Path(output) if output else Path(checkpoint) / "analysis")
    other = _other(compare, states) if compare else None
    kind, _, pipeline = (tags or "").partition(":")
    sentences = read_conllu(tags)[:max_texts] if tags and kind != "spacy" else None
    material = material_of(checkpoint, task, texts, text_column, split, max_texts)
    click.echo(f"reading {len(material.texts):,} {material.source}")
    if kind == "spacy":
        sentences = tag_texts(material.texts, pipeline)
    with progress("analysing") as step:
        points = over_training and geometry_over_training(run_of(checkpoint), material, states=states, progress=step)
        found = analyze(subject, material, sentences=sentences, progress=step)
        if points:
            found["training"] = points
        if other is not None and not isinstance(other, dict):
            other = analyze(other, material, sentences=sentences, progress=step)
    page = write_analysis(found, folder)
    if other:
        click.echo(f"comparison: {_compare(found, other, folder)}")
    else:
        rows = [[number.label, number.value, number.mark] for number in key_numbers(found)]
        show_table("The concepts in numbers", ["figure", "value", "target"], rows)
    for note in notes_of(found):
        click.echo(f"note: {note}")
    click.echo(f"report: {page}")
    click.get_current_context().exit(1 if found["health"]["verdict"] == "fail" else 0)


def material_of(
    checkpoint: str, task: tuple[str, ...], texts: str | None, column: str, split: str, count: int
) -> "Material":
    """What --texts, or data.… or the run's own recipe says is to be read."""
    from itertools import islice

    from concept_encoder.analysis.material import Material, held_out_material
    from concept_encoder.data import quickstart
    from concept_encoder.data.sources import read_texts
    from concept_encoder.data.tasks.config import TaskConfig
    from concept_encoder.errors import UserError
    from concept_encoder.settings import from_mapping, parse_overrides, set_fields

    if task and texts is not None:
        raise UserError(f"--texts: given together with {task[0]}, whose examples are the texts; give one of them")
    if task:
        sections = set_fields({}, parse_overrides(task))
        if other := next((name for name in sections if name != "data"), None):
            raise UserError(f"{other}: an analysis trains nothing; only data.… names its task")
        return Material.of_task(from_mapping(TaskConfig, {"max_examples": count, **sections["data"]}, "data"))
    if texts is None:
        return held_out_material(checkpoint, count)
    if texts == quickstart.NAME:
        return Material.of_texts(quickstart.documents()[1][:count], "held-out documents of quickstart")
    return Material.of_texts(list(islice(read_texts(texts, column, split=split), count)), f"texts of {texts}")


def _compare(found: dict, other: dict, folder: Path) -> Path:
    """Print both side by side, each with its mark, and write the page."""
    from concept_encoder.analysis.compare import compare, write_comparison
    from concept_encoder.cli.show import show_table

    compared = compare(found, other)
    rows = [[*row, target] for row, target in zip(compared["rows"], compared["targets"])]
    show_table("The concepts in numbers", ["figure", *compared["names"], "difference", "target"], rows)
    for note in compared["notes"]:
        click.echo(f"note: {note}")
    return write_comparison(found, other, folder)


def _other(compare: str, states: str) -> "dict | Subject":
    """What to compare with: an analysis that is there, or a checkpoint; one without concepts shows its token states."""
    from concept_encoder.analysis.present import read_analysis
    from concept_encoder.analysis.subject import load_subject

    if Path(compare).suffix == ".json" or (Path(compare) / "analysis.json").is_file():
        return read_analysis(compare)
    return load_subject(compare, "tokens" if states == "tokens" else None)
