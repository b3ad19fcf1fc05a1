"""`concept-encoder bench MODE`."""

import json
from pathlib import Path

import click

_MODELS = "hf:bert,bert,perceiver_mlm,perceiver_mlm:ratio,perceiver_io,bixt,funnel,anchored,woven"


@click.command("bench")
@click.argument("mode", type=click.Choice(["body", "pretrain", "finetune", "inference"]))
@click.option("--models", default=_MODELS, show_default=True, help="Contestants, the first is 1.")
@click.option("--peer", "peers", multiple=True, type=click.Path(), help="A model of yours: a file with build(sizes).")
@click.option("--lengths", default="128,512,2048", show_default=True, help="Tokens of a text.")
@click.option("--tokens", default=4096, show_default=True, help="Tokens of a batch (at least one text).")
@click.option("--task", default="quickstart-topics", show_default=True, help="finetune: whose texts give the lengths.")
@click.option("--tokenizer", help="finetune: what counts them. [default: a WordPiece trained on the task]")
@click.option("--repeats", default=3, show_default=True, help="Rounds; each contestant takes its turn in each.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--device", default=None, help="cpu or cuda. [default: cuda where there is one]")
@click.option("--attention", type=click.Choice(["sdpa", "varlen", "eager"]), default="sdpa", show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Compile every contestant with inductor.")
@click.option("--memory", is_flag=True, help="Also the peak memory of a step, each in a fresh process.")
@click.option("--profile", default="", help="Contestants whose operations are listed by time.")
@click.option("--hidden-size", default=512, show_default=True)
@click.option("--layers", default=6, show_default=True)
@click.option("--heads", default=8, show_default=True)
@click.option("--concepts", default=128, show_default=True)
@click.option("--vocab-size", default=50_368, show_default=True)
@click.option("--threads", default=0, help="CPU threads; 0 leaves the choice to torch.")
@click.option("--output", type=click.Path(), help="Write the record as JSON.")
def command(**given) -> None:
    """Measure speed and memory of the presets beside their peers, at equal sizes.

    MODE is what is timed: body (the encoder alone, forward and backward), pretrain (a step with its sparse masked-LM
    loss and AdamW), finetune (a classification step on texts of real lengths), inference (a forward pass).

    Contestants are the presets (`:ratio` lets C follow N where it is fixed otherwise) and, from transformers, hf:bert,
    hf:modernbert, hf:perceiver, hf:funnel and hf:longformer. They take turns in one process after a warm-up; medians
    and spread are printed. Run nothing else meanwhile.
    """
    import torch

    from concept_encoder.bench.report import ratio_grid, table
    from concept_encoder.bench.run import run_bench
    from concept_encoder.cli.show import show_table
    from concept_encoder.errors import UserError

    options = _options(given)
    output = Path(given["output"]) if given["output"] else None
    if output is not None and not output.parent.is_dir():
        raise click.BadParameter(f"{output.parent} is no folder", param_hint="--output")
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
        output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _options(given: dict) -> "BenchOptions":  # noqa: F821
    import torch

    from concept_encoder.bench.run import BenchOptions
    from concept_encoder.bench.sizes import Sizes
    from concept_encoder.errors import UserError

    models = [name.strip() for name in given["models"].split(",") if name.strip()] + list(given["peers"])
    try:
        lengths = [int(length) for length in given["lengths"].split(",")]
    except ValueError:
        raise UserError(f"--lengths: {given['lengths']!r} is no list of numbers; write e.g. 128,512") from None
    for name, least in (("tokens", 1), ("repeats", 1), ("layers", 1), ("hidden_size", 8)):
        if given[name] < least:
            raise UserError(f"--{name.replace('_', '-')}: {given[name]} is too small; {least} or more")
    if given["heads"] < 1 or given["hidden_size"] % given["heads"]:
        raise UserError(f"--hidden-size: {given['hidden_size']} is no multiple of --heads {given['heads']}")
    if given["memory"] and given["mode"] == "finetune":
        raise UserError("--memory: measured for rows of one length; use body, pretrain or inference")
    if min(lengths) < 8:
        raise UserError(f"--lengths: {min(lengths)} is too short; 8 or more")
    device = given["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device: no CUDA device is visible; use cpu")
    lengths_of_texts: list[int] = []
    if given["mode"] == "finetune":
        from concept_encoder.bench.text_lengths import task_lengths

        lengths_of_texts = task_lengths(given["task"], count=256, tokenizer=given["tokenizer"])
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
        text_lengths=lengths_of_texts,
        repeats=given["repeats"],
        precision=given["precision"],
        device=device,
        attention=given["attention"],
        compile=given["compiled"],
        memory=given["memory"],
        profile=[name for name in given["profile"].split(",") if name],
        sizes=sizes,
    )
