"""`concept-encoder probe CHECKPOINT`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from concept_encoder.data.minimal_pairs import BLIMP


@click.command("probe")
@click.argument("checkpoint", type=click.Path())
@click.option("--probe", "probes", multiple=True, type=click.Choice(["blimp", "perplexity"]), default=["blimp"],
              show_default=True, help="What to ask; may be given several times.")  # fmt: skip
@click.option("--pairs", default=BLIMP, show_default=True,
              help="Minimal pairs: a hub id, or files with the columns sentence_good and sentence_bad.")  # fmt: skip
@click.option("--max-pairs", type=click.IntRange(min=1), help="Use no more pairs of each paradigm.")
@click.option("--texts", help="Texts for the perplexity: a file, a folder or a hub id.  [held-out texts of the run]")
@click.option("--text-column", default="text", show_default=True, help="The column of --texts that holds them.")
@click.option("--split", default="train", show_default=True, help="The split of a hub data set.")
@click.option("--max-texts", default=200, type=click.IntRange(min=1), show_default=True, help="Read so many texts.")
@click.option("--max-length", type=click.IntRange(min=4), help="Cut texts to so many tokens.  [what the model takes]")
@click.option("--output", type=click.Path(), help="Folder for probe.json.  [CHECKPOINT/probe]")
def command(checkpoint: str, output: str | None, **options: Any) -> None:
    """Ask CHECKPOINT (a checkpoint, a run, or any transformers masked language model) without training it.

    blimp: does it find the acceptable sentence of a pair more likely? perplexity: how well does it guess each token of
    texts? Every score stands beside its baselines, and beside the same with the concepts shuffled and zeroed.
    """
    import json

    from concept_encoder.cli.show import progress
    from concept_encoder.errors import UserError
    from concept_encoder.records import write_atomically

    folder = Path(output) if output else Path(checkpoint) / "probe"
    if output is None and not Path(checkpoint).is_dir():
        raise UserError(f"--output: {checkpoint} is no folder to write into; name one")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output: {folder} is a file; name a folder")
    asked = [PROBES[name] for name in dict.fromkeys(options["probes"])]
    found: dict[str, Any] = {"verb": "probe", "checkpoint": checkpoint}
    with progress("probing") as step:
        for probe in asked:
            found |= probe(checkpoint, options, step)
    click.echo(f"written: {write_atomically(folder / 'probe.json', json.dumps(found, indent=1) + chr(10))}")


def _blimp(checkpoint: str, options: dict[str, Any], step: Callable[[str, int, int], None]) -> dict[str, Any]:
    from concept_encoder.cli.show import show_table
    from concept_encoder.data.minimal_pairs import read_minimal_pairs
    from concept_encoder.data.tokenizer import load_tokenizer
    from concept_encoder.evaluation.minimal_pairs import score_minimal_pairs
    from concept_encoder.model.loading import load_masked_lm

    paradigms = read_minimal_pairs(options["pairs"], options["max_pairs"])
    tokenizer, model = load_tokenizer(_folder(checkpoint)), load_masked_lm(checkpoint)
    found = score_minimal_pairs(model, tokenizer, paradigms, progress=step)
    header = ["system", "accuracy", "standard error", "pairs", "ties (wrong)"]
    shown = {"chance": {"accuracy": found["chance"]}, **_with_controls(found), **found["paradigms"]}
    rows = [
        [name, *(each.get(field) for field in ("accuracy", "standard_error", "pairs", "ties"))]
        for name, each in shown.items()
    ]
    show_table(f"Minimal pairs: mean of {len(found['paradigms'])} paradigms of {options['pairs']}", header, rows)
    return {"blimp": found}


def _perplexity(checkpoint: str, options: dict[str, Any], step: Callable[[str, int, int], None]) -> dict[str, Any]:
    from concept_encoder.cli.analyze import material_of
    from concept_encoder.cli.show import show_table
    from concept_encoder.data.tokenizer import load_tokenizer
    from concept_encoder.evaluation.perplexity import pseudo_perplexity
    from concept_encoder.model.loading import load_masked_lm

    read = material_of(checkpoint, (), options["texts"], options["text_column"], options["split"], options["max_texts"])
    tokenizer, model = load_tokenizer(_folder(checkpoint)), load_masked_lm(checkpoint)
    found = pseudo_perplexity(model, tokenizer, read.texts, max_length=options["max_length"], progress=step)
    header = ["system", "per token", "per word", "bits per byte"]
    shown = {"guessing by frequency": found["unigram"], **_with_controls(found)}
    rows = [
        [name, *(each[field] for field in ("per_token", "per_word", "bits_per_byte"))] for name, each in shown.items()
    ]
    show_table(f"Pseudo-perplexity of {len(read.texts):,} {read.source} ({found['tokens']:,} tokens)", header, rows)
    if found["cut"]:
        click.echo(f"note: {found['cut']} texts were cut to the length that the model, or --max-length, takes")
    return {"perplexity": found}


PROBES = {"blimp": _blimp, "perplexity": _perplexity}


def _folder(checkpoint: str) -> str:
    """Where the tokenizer is: beside the weights, or at the hub."""
    from concept_encoder.model.loading import resolve_checkpoint

    return str(resolve_checkpoint(checkpoint)) if Path(checkpoint).exists() else checkpoint


def _with_controls(found: dict[str, Any]) -> dict[str, Any]:
    controls = {f"the model, concepts {name}": found[name] for name in ("shuffled", "zeroed") if name in found}
    return {"the model": found, **controls}
