"""`concept-encoder probe CHECKPOINT`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from concept_encoder.data.tasks.minimal_pairs import BLIMP
from concept_encoder.data.tasks.table import TASKS

Step = Callable[[str, int, int], None]
Found = dict[str, Any]


@click.command("probe")
@click.argument("checkpoint", type=click.Path())
@click.option("--probe", "probes", multiple=True, type=click.Choice(["blimp", "perplexity", "sts"]),
              help="What to ask; may be given several times.  [blimp, when no task is named either]")  # fmt: skip
@click.option("--task", "tasks", multiple=True, metavar="TASK", type=click.Choice(list(TASKS)),
              help="Train a linear probe on a named task (several times).")  # fmt: skip
@click.option("--mteb", "mteb", multiple=True, metavar="TASK", help="A task of MTEB (several times).")
@click.option("--baseline", "baselines", multiple=True, type=click.Choice(["cbow", "bilstm"]),
              help="Train it beside the linear probes (several times).")  # fmt: skip
@click.option("--pairs", default=BLIMP, show_default=True,
              help="Minimal pairs: a hub id, or files with the columns sentence_good and sentence_bad.")  # fmt: skip
@click.option("--max-pairs", type=click.IntRange(min=1), help="Use no more pairs of each paradigm.")
@click.option("--texts", help="Texts for the perplexity: a file, a folder or a hub id.  [held-out texts of the run]")
@click.option("--text-column", default="text", show_default=True, help="The column of --texts that holds them.")
@click.option("--split", default="train", show_default=True, help="The split of a hub data set.")
@click.option("--max-texts", default=200, type=click.IntRange(min=1), show_default=True, help="Read so many texts.")
@click.option("--max-examples", type=click.IntRange(min=1), help="Use no more examples of each side of a task.")
@click.option("--max-length", type=click.IntRange(min=4), help="Cut texts to so many tokens.  [what the model takes]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to run.")
@click.option("--output", type=click.Path(), help="Folder for probe.json.  [CHECKPOINT/probe]")
def command(checkpoint: str, output: str | None, **options: Any) -> None:
    """Ask CHECKPOINT (a checkpoint, a run, or any transformers encoder) without fine-tuning it.

    blimp: does it find the acceptable sentence of a pair more likely? perplexity: how well does it guess each token of
    texts? sts: does the cosine of two texts' states say how alike they are (stsb, sick-relatedness)? --task: a linear
    probe on frozen states. Every score stands beside its baselines, and beside the same with the concepts shuffled and
    zeroed.
    """
    import json

    import torch

    from concept_encoder.cli.show import progress
    from concept_encoder.cli.write_tables import writable_folder
    from concept_encoder.errors import UserError
    from concept_encoder.model.loading import resolve_checkpoint
    from concept_encoder.records import write_atomically

    if Path(checkpoint).exists():
        resolve_checkpoint(checkpoint)  # before any data is asked for
    elif output is None:
        raise UserError(
            f"{checkpoint}: no such checkpoint or run folder; for an id of the hub name a folder (--output)"
        )
    folder = writable_folder(Path(output) if output else Path(checkpoint) / "probe")
    if options["device"] == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: no CUDA device is visible; use cpu")
    asked = [PROBES[name] for name in dict.fromkeys(options["probes"])]
    asked += [_linear] * bool(options["tasks"]) + [_mteb] * bool(options["mteb"])
    found: Found = {"verb": "probe", "checkpoint": checkpoint}
    with progress("probing") as step:
        for probe in asked or [_blimp]:
            found |= probe(checkpoint, options, step)
    click.echo(f"written: {write_atomically(folder / 'probe.json', json.dumps(found, indent=1) + chr(10))}")


def _blimp(checkpoint: str, options: Found, step: Step) -> Found:
    from concept_encoder.cli.show import show_table
    from concept_encoder.data.tasks.minimal_pairs import read_minimal_pairs
    from concept_encoder.evaluation.probes.minimal_pairs import score_minimal_pairs
    from concept_encoder.model.loading import load_masked_lm

    paradigms = read_minimal_pairs(options["pairs"], options["max_pairs"])
    tokenizer = _tokenizer(checkpoint)
    model = load_masked_lm(checkpoint).to(options["device"])
    found = score_minimal_pairs(model, tokenizer, paradigms, progress=step)
    header = ["system", "accuracy", "standard error", "pairs", "ties (wrong)"]
    shown = {"chance": {"accuracy": found["chance"]}, **_with_controls(found), **found["paradigms"]}
    rows = [
        [name, *(each.get(field) for field in ("accuracy", "standard_error", "pairs", "ties"))]
        for name, each in shown.items()
    ]
    show_table(f"Minimal pairs: mean of {len(found['paradigms'])} paradigms of {options['pairs']}", header, rows)
    if found["cut"]:
        click.echo(f"note: {found['cut']} sentences were cut to the length that the model takes")
    return {"blimp": found}


def _perplexity(checkpoint: str, options: Found, step: Step) -> Found:
    from concept_encoder.cli.analyze import material_of
    from concept_encoder.cli.show import show_table
    from concept_encoder.evaluation.probes.perplexity import pseudo_perplexity
    from concept_encoder.model.loading import load_masked_lm

    read = material_of(checkpoint, (), options["texts"], options["text_column"], options["split"], options["max_texts"])
    tokenizer = _tokenizer(checkpoint)
    model = load_masked_lm(checkpoint).to(options["device"])
    found = pseudo_perplexity(model, tokenizer, read.texts, max_length=options["max_length"], progress=step)
    fields = ("per_token", "per_word", "bits_per_byte")
    shown = {"guessing by frequency": found["unigram"], **_with_controls(found)}
    title = f"Pseudo-perplexity of {len(read.texts):,} {read.source} ({found['tokens']:,} tokens)"
    rows = [[name, *(each[field] for field in fields)] for name, each in shown.items()]
    show_table(title, ["system", "per token", "per word", "bits per byte"], rows)
    if found["cut"]:
        click.echo(f"note: {found['cut']} texts were cut to the length that the model, or --max-length, takes")
    return {"perplexity": found}


def _sts(checkpoint: str, options: Found, step: Step) -> Found:
    from concept_encoder.evaluation.probes.linear import SIMILARITY_TASKS, similarity, word_overlap

    tasks = [_task(name, options) for name in SIMILARITY_TASKS]
    encoder = _frozen(checkpoint, options, step)
    found = {}
    for task in tasks:
        found[task.name] = {"baselines": {"word overlap": word_overlap(task)}, **similarity(task, encoder)}
        _show_states(f"Cosine on {task.name}: {len(task.validation):,} held-out pairs", task, found[task.name])
    return {"sts": found}


def _linear(checkpoint: str, options: Found, step: Step) -> Found:
    from concept_encoder.evaluation.baselines import baselines
    from concept_encoder.evaluation.probes.linear import linear_probe

    tasks = [_task(name, options) for name in dict.fromkeys(options["tasks"])]
    encoder = _frozen(checkpoint, options, step)
    found = {}
    for task in tasks:
        beside = baselines(task) | (baselines(task, options["baselines"]) if options["baselines"] else {})
        found[task.name] = {"baselines": beside, **linear_probe(task, encoder)}
        title = (
            f"Linear probe on {task.name}: {len(task.validation):,} held-out examples, {len(task.train):,} to train on"
        )
        _show_states(title, task, found[task.name])
    return {"linear": found}


def _mteb(checkpoint: str, options: Found, step: Step) -> Found:
    from importlib.util import find_spec

    from concept_encoder.cli.show import show_table
    from concept_encoder.errors import UserError

    for package in ("sentence_transformers", "mteb"):
        if find_spec(package) is None:
            raise UserError(f'--mteb: {package} is not installed; pip install "concept-encoder[mteb]"')
    from concept_encoder.evaluation.probes.mteb_tasks import embedding_model, score_mteb, tasks_named

    tasks = tasks_named(list(options["mteb"]))
    found = score_mteb(embedding_model(checkpoint), tasks)
    rows = [[name, each["metric"], each["random"], each["main_score"]] for name, each in found.items()]
    show_table("MTEB", ["task", "metric", "random vectors", "the model"], rows)
    return {"mteb": found}


PROBES = {"blimp": _blimp, "perplexity": _perplexity, "sts": _sts}


def _frozen(checkpoint: str, options: Found, step: Step) -> "Frozen":  # noqa: F821
    from concept_encoder.evaluation.probes.linear import Frozen
    from concept_encoder.model.loading import load_encoder

    model = load_encoder(checkpoint).to(options["device"])
    return Frozen(model, _tokenizer(checkpoint), options["max_length"], step)


def _tokenizer(checkpoint: str) -> "PreTrainedTokenizerFast":  # noqa: F821
    """Beside the weights, or at the hub."""
    from concept_encoder.data.tokenizer import load_tokenizer
    from concept_encoder.model.loading import resolve_checkpoint

    return load_tokenizer(str(resolve_checkpoint(checkpoint)) if Path(checkpoint).exists() else checkpoint)


def _task(name: str, options: Found) -> "TaskData":  # noqa: F821
    from concept_encoder.data.tasks.config import TaskConfig
    from concept_encoder.data.tasks.load import load_task
    from concept_encoder.settings import from_mapping

    return load_task(from_mapping(TaskConfig, {"task": name, "max_examples": options["max_examples"]}, "data"))


def _with_controls(found: Found, name: str = "the model") -> Found:
    controls = {f"{name}, concepts {control}": found[control] for control in ("shuffled", "zeroed") if control in found}
    return {name: found, **controls}


def _show_states(title: str, task: "TaskData", found: Found) -> None:  # noqa: F821
    """One row a baseline, then one a kind of state and control."""
    from concept_encoder.cli.show import note_undefined, show_table

    shown = dict(found["baselines"])
    for kind, scores in found.items():
        if kind != "baselines":
            shown |= _with_controls(scores, kind)
    shown = {name: {metric: scores[metric] for metric in task.metrics} for name, scores in shown.items()}
    show_table(title, ["system", *task.metrics], [[name, *scores.values()] for name, scores in shown.items()])
    note_undefined(shown)
