"""The part of `plan check` that needs torch: every recipe built without weights, every corpus and task opened."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

from concept_encoder.errors import UserError
from concept_encoder.lab.progress import duration
from concept_encoder.lab.runs import Run
from concept_encoder.lab.store import State
from concept_encoder.lab.verbs import VERBS, command_line, read_result

Rates = Mapping[bool, float]  # on GPUs (True), on a CPU slot (False): FLOP/s of one device in training


@dataclass(frozen=True)
class Size:
    """An experiment's largest run.

    Attributes:
        memory: bytes on one device in training.
        flops_per_token: of training, forward and backward.
        tokens: of all steps; None where epochs decide.
    """

    parameters: int
    memory: float
    flops_per_token: float
    tokens: int | None
    gpus: int


def check_recipes(runs: Sequence[Run], data: bool = True) -> dict[str, Size]:
    """Refuse what a run would refuse after its start: sections, options, columns, missing data.

    Returns sizes by experiment.

    Args:
        data: open corpora and tasks too.
    Raises:
        UserError: with the run's name before the message.
    """
    sizes: dict[str, Size] = {}
    opened: set[str] | None = set() if data else None
    seen: set[str] = set()
    by_id = {run.id: run for run in runs if run.verb.name == "pretrain"}
    for run in runs:
        if run.id in seen:
            continue
        seen.add(run.id)
        check = {"pretrain": _pretraining, "finetune": _finetuning}.get(run.verb.name, _options)
        try:
            size = check(run, opened)
            if run.verb.name == "finetune" and run.inputs.get("model.checkpoint") in by_id:
                _head_on(by_id[run.inputs["model.checkpoint"]], run)
        except (UserError, ValueError) as error:
            raise UserError(f"{run.name}: {error}") from None
        if size and size.memory >= sizes.get(run.experiment.id, size).memory:
            sizes[run.experiment.id] = size
    return sizes


def _sections(run: Run) -> dict[str, Any]:
    nowhere = {id: f"the run {id}" for id in run.inputs.values()}
    return run.resolved(nowhere, {"training.output_dir": "unused"})


def _pretraining(run: Run, opened: set[str] | None) -> Size:
    from concept_encoder.data.corpus import open_documents
    from concept_encoder.model.accounting import cost
    from concept_encoder.training.pretrain import PretrainRecipe
    from concept_encoder.training.recipe import model_config

    recipe = PretrainRecipe.from_sections(_sections(run))
    if opened is not None and repr(recipe.data) not in opened:
        for name, documents in zip(recipe.data.weights, open_documents(recipe.data).members):
            if next(documents, None) is None:
                raise UserError(f"data.corpus: {name} holds no text")
        opened.add(repr(recipe.data))
    config = model_config(recipe.model, **recipe.model_defaults())
    key = (repr(sorted(recipe.model.items())), recipe.data.sequence_length, recipe.objective.asked_share)
    if key not in _COSTS:
        _COSTS[key] = (_parameters(config), cost(config, recipe.data.sequence_length, recipe.objective.asked_share))
    parameters, counted = _COSTS[key]
    training = recipe.training
    texts = training.micro_batch_size or training.batch_size / max(run.experiment.resources.gpus, 1)
    bytes_each = 2 if training.precision == "bf16" else 4
    memory = 16 * parameters + texts * counted.activation_bytes * bytes_each / 4
    tokens = training.max_steps * training.batch_size * recipe.data.sequence_length
    return Size(parameters, memory, 3 * counted.flops_per_token, tokens or None, run.experiment.resources.gpus)


_COSTS: dict[Any, Any] = {}  # many runs share a model


def _parameters(config: Any) -> int:
    from concept_encoder.model.accounting import build_without_weights, parameters_by_part

    return sum(parameters_by_part(build_without_weights(config)).values())


def _finetuning(run: Run, opened: set[str] | None) -> None:
    from concept_encoder.data.tasks.load import load_task
    from concept_encoder.training.classifiers import find_checkpoint
    from concept_encoder.training.finetune import FinetuneRecipe

    recipe = FinetuneRecipe.from_sections(_sections(run))
    if "model.checkpoint" not in run.inputs:
        find_checkpoint(recipe.model.checkpoint)
    if opened is not None and repr(recipe.data) not in opened:
        load_task(recipe.data)
        opened.add(repr(recipe.data))


def _head_on(body: Run, run: Run) -> None:
    """Does the model that will have been pretrained take the head that it is fine-tuned with?"""
    from concept_encoder.training.finetune import FinetuneRecipe
    from concept_encoder.training.pretrain import PretrainRecipe
    from concept_encoder.training.recipe import model_config

    pretrained = PretrainRecipe.from_sections(_sections(body))
    head = FinetuneRecipe.from_sections(_sections(run)).model.classifier_head or "via_decoder"
    key = (repr(sorted(pretrained.model.items())), head)
    if key not in _COSTS:
        _COSTS[key] = model_config({**pretrained.model, "classifier_head": head}, **pretrained.model_defaults())


def _options(run: Run, opened: set[str] | None) -> None:
    """A command without a recipe: its options are parsed as the command itself does, and what they name is opened."""
    from concept_encoder.model.loading import resolve_checkpoint

    command = importlib.import_module(f"concept_encoder.cli.{run.verb.name}").command
    words = command_line(run.verb, _sections(run), Path(), Path("unused"), 0)
    try:
        given = command.make_context(run.verb.name, words[words.index(run.verb.name) + 1 :]).params
    except click.UsageError as error:
        raise UserError(f"options: {' '.join(error.format_message().split())}") from None
    if opened is not None:
        _check_paths(run, given)
    if run.verb.name == "bench":
        from concept_encoder.cli.bench import contestants_of

        contestants_of(given)
    if run.verb.name == "evaluate":
        from concept_encoder.cli.evaluate import protocol_of
        from concept_encoder.training.classifiers import find_checkpoint

        protocol_of(given, given["heads"] or ("via_decoder",))
        if "options.checkpoint" not in run.inputs:
            find_checkpoint(given["checkpoint"])
    if run.verb.name != "analyze":
        return
    if "options.checkpoint" not in run.inputs:
        resolve_checkpoint(given["checkpoint"])
    source = (given["texts"], given["text_column"], given["split"])
    if opened is not None and given["texts"] not in (None, "quickstart") and repr(source) not in opened:
        from concept_encoder.data.sources import read_texts

        next(read_texts(source[0], source[1], split=source[2]), None)
        opened.add(repr(source))


def _check_paths(run: Run, given: Mapping[str, Any]) -> None:
    """Options that are paths here; a name without a folder may be one of the hub."""
    for name in ("checkpoint", "compare", "pairs", "texts"):
        value = given.get(name) or ""
        is_path = value.startswith(("/", "./", "../")) and f"options.{name}" not in run.inputs
        if is_path and not Path(value).exists():
            raise UserError(f"options.{name}: no file or folder {value}")


def measured_rates(states: Iterable[State]) -> Rates:
    """What the finished pretrainings of a store have reached, the median."""
    found: dict[bool, list[float]] = {}
    for state in states:
        result = read_result(VERBS["pretrain"], Path(state.folder)) if state.state == "done" else None
        if result and result.get("flops_per_token") and result.get("tokens_per_second"):
            rate = 3 * result["flops_per_token"] * result["tokens_per_second"] / max(state.gpus, 1)
            found.setdefault(state.gpus > 0, []).append(rate)
    return {on_gpu: median(rates) for on_gpu, rates in found.items()}


def size_table(sizes: Mapping[str, Size], rates: Rates) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: experiment, parameters, memory, FLOPs, and the time that they take at a measured rate."""
    header = ["largest run of", "parameters", "memory in training", "FLOPs"]
    return header + ["time at the measured rate"] * bool(rates), [
        [
            name,
            size.parameters,
            _memory(size),
            _flops(size),
            *([_time(size, rates)] if rates else []),
        ]
        for name, size in sizes.items()
    ]


def _memory(size: Size) -> str:
    return f"{size.memory / 2**30:,.1f} GiB" if size.memory >= 2**30 else f"{size.memory / 2**20:,.0f} MiB"


def _flops(size: Size) -> str:
    return f"{size.flops_per_token:.2g} a token" if size.tokens is None else f"{size.flops_per_token * size.tokens:.2g}"


def _time(size: Size, rates: Rates) -> str:
    rate = rates.get(size.gpus > 0)
    if rate is None:
        return "–"
    seconds = size.flops_per_token * (size.tokens or 1e9) / (rate * max(size.gpus, 1))
    return duration(seconds) + (" for 1e9 tokens" if size.tokens is None else "")
