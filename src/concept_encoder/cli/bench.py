"""`concept-encoder bench MODE`."""

import json
import os
from pathlib import Path

import click

from concept_encoder.bench.modes import MODES
from concept_encoder.bench.sizes import Sizes

_MODELS = "hf:bert,bert,perceiver_mlm,perceiver_mlm:ratio,perceiver_io,bixt,funnel,anchored,woven"
_TIMED = "\n".join(f"  {name:<10} {what}" for name, what in MODES.items())
_HELP = f"""Measure speed and memory of the presets beside their peers, at equal sizes.

\b
MODE is what is timed:
{_TIMED}

Contestants are the presets (`:ratio` lets C follow N, C = N / {Sizes.concept_ratio}, where it is fixed otherwise) and,
from transformers, hf:bert, hf:modernbert, hf:perceiver, hf:funnel and hf:longformer. They take turns in one process
after a warm-up; medians and spread are printed. Run nothing else meanwhile.
"""


@click.command("bench", help=_HELP)
@click.argument("mode", type=click.Choice(list(MODES)))
@click.option("--models", default=_MODELS, show_default=True, help="Contestants, the first is 1.")
@click.option("--peer", "peers", multiple=True, type=click.Path(), help="A model of yours: a file with build(sizes).")
@click.option("--lengths", default="128,512,2048", show_default=True, help="Tokens of a text.")
@click.option("--tokens", default=4096, show_default=True, help="Tokens of a batch (at least one text).")
@click.option("--task", default="quickstart-topics", show_default=True, help="finetune: whose texts give the lengths.")
@click.option("--tokenizer", help="finetune: what counts them. [default: a WordPiece trained on the task]")
@click.option("--repeats", default=3, show_default=True, help="Rounds; each contestant takes its turn in each.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--device", default=None, help="cpu or cuda. [default: cuda where there is one]")
@click.option(
    "--attention",
    type=click.Choice(["sdpa", "varlen", "eager"]),
    default="sdpa",
    show_default=True,
    help="Of the presets.",
)
@click.option("--compile", "compiled", is_flag=True, help="Compile every contestant with inductor.")
@click.option("--memory", is_flag=True, help="Also the peak memory of a step, each in a fresh process.")
@click.option("--profile", default="", help="Contestants whose operations are listed by time.")
@click.option("--hidden-size", default=512, show_default=True)
@click.option("--layers", default=6, show_default=True)
@click.option("--heads", default=8, show_default=True)
@click.option("--concepts", default=128, show_default=True, help="C, where it is fixed.")
@click.option("--vocab-size", default=50_368, show_default=True)
@click.option("--threads", default=0, help="CPU threads; 0 leaves the choice to torch.")
@click.option("--output", type=click.Path(), help="Write the record as JSON.")
def command(**given) -> None:
    import torch

    from concept_encoder.bench.report import ratio_grid, table
    from concept_encoder.bench.run import run_bench
    from concept_encoder.cli.show import show_table
    from concept_encoder.errors import UserError
    from concept_encoder.records import write_atomically

    options = _options(given)
    output = Path(given["output"]) if given["output"] else None
    if output is not None and (output.is_dir() or not os.access(output.parent, os.W_OK)):
        raise UserError(f"--output: {output} cannot be written; name a file in a folder of yours")
    if given["threads"]:
        torch.set_num_threads(given["threads"])
    record = run_bench(options, lambda line: click.echo(line, err=True))
    if not record["rows"]:
        raise UserError(f"--models: nobody could run ({record['failed'][0]['reason']})")
    show_table(f"{options.mode}, {options.precision}, {record['environment']['device']}", *table(record))
    if len(options.lengths) > 1 and options.mode != "finetune":
        show_table("speed against the first", *ratio_grid(record))
    for name, kernels in record["kernels"].items():
        show_table(f"time by operation: {name}", ["operation", "share"], [[key, f"{x:.1%}"] for key, x in kernels])
    if output is not None:
        write_atomically(output, json.dumps(record, indent=1) + "\n")


def contestants_of(given: dict) -> tuple[list[str], list[int]]:
    """The names of the contestants and the lengths, everything checked that needs neither texts nor a device."""
    from concept_encoder.bench.contestants import check_names
    from concept_encoder.errors import UserError

    if files := [name for name in _words(given["models"]) if name.endswith(".py")]:  # what runs code says so
        raise UserError(f"--models: {files[0]!r} is a file; give it as --peer")
    models = list(dict.fromkeys([*_words(given["models"]), *given["peers"]]))
    if not models:
        raise UserError("--models: nobody is named; give one at least")
    if given["peers"] and (wrong := [peer for peer in given["peers"] if not peer.endswith(".py")]):
        raise UserError(f"--peer: {wrong[0]!r} is no Python file; give FILE.py with build(sizes)")
    check_names(models)
    if absent := set(_words(given["profile"])) - set(models):
        raise UserError(f"--profile: {min(absent)!r} is not in --models")
    try:
        lengths = [int(length) for length in _words(given["lengths"])]
    except ValueError:
        raise UserError(f"--lengths: {given['lengths']!r} is no list of numbers; write e.g. 128,512") from None
    _check_numbers(given, lengths)
    return models, lengths


def _options(given: dict) -> "BenchOptions":  # noqa: F821
    from concept_encoder.bench.run import BenchOptions

    models, lengths = contestants_of(given)
    sizes = Sizes(
        hidden_size=given["hidden_size"],
        num_layers=given["layers"],
        num_heads=given["heads"],
        num_concepts=given["concepts"],
        vocab_size=given["vocab_size"],
    )
    return BenchOptions(
        mode=given["mode"],
        models=models,
        lengths=lengths,
        tokens=given["tokens"],
        text_lengths=_text_lengths(given) if given["mode"] == "finetune" else [],
        repeats=given["repeats"],
        precision=given["precision"],
        device=_device(given),
        attention=given["attention"],
        compile=given["compiled"],
        memory=given["memory"],
        profile=_words(given["profile"]),
        sizes=sizes,
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _check_numbers(given: dict, lengths: list[int]) -> None:
    from concept_encoder.errors import UserError

    least = {"tokens": 1, "repeats": 1, "layers": 1, "heads": 1, "hidden_size": 8, "concepts": 1, "vocab_size": 16}
    for name, number in least.items():
        if not number <= given[name] < 2**31:
            raise UserError(f"--{name.replace('_', '-')}: {given[name]} is too small or too large; {number} or more")
    if given["hidden_size"] % given["heads"]:
        raise UserError(f"--hidden-size: {given['hidden_size']} is no multiple of --heads {given['heads']}")
    if not 0 <= given["threads"] <= (os.cpu_count() or 1):
        raise UserError(f"--threads: {given['threads']} is not from 0 to this machine's {os.cpu_count()} cores")
    if not lengths or not 8 <= min(lengths) <= max(lengths) < 2**24:
        raise UserError(f"--lengths: {given['lengths']!r} holds none, one that is too short, or too long; 8 or more")
    if given["memory"] and given["mode"] == "finetune":
        raise UserError("--memory: measured for rows of one length; use body, pretrain or inference")


def _device(given: dict) -> str:
    import torch

    from concept_encoder.errors import UserError

    device = given["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    if device != "cpu" and not device.startswith("cuda"):
        raise UserError(f"--device: {device!r} is not one of cpu, cuda")
    if device != "cpu" and not torch.cuda.is_available():
        raise UserError("--device: no CUDA device is visible; use cpu")
    if given["attention"] == "varlen" and (device == "cpu" or given["precision"] != "bf16"):
        raise UserError("--attention: varlen needs CUDA and --precision bf16; use sdpa")
    return device


def _text_lengths(given: dict) -> list[int]:
    from concept_encoder.bench.text_lengths import task_lengths
    from concept_encoder.errors import UserError

    try:
        return task_lengths(given["task"], count=256, tokenizer=given["tokenizer"])
    except ValueError as error:
        raise UserError(f"--task: {error}") from None
