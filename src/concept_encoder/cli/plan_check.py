"""The part of `plan check` that needs torch: every recipe built without weights, every corpus and task opened."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from concept_encoder.errors import UserError
from concept_encoder.lab.runs import Run


@dataclass(frozen=True)
class Size:
    """Of an experiment's largest run: parameters, bytes on one device in training, FLOPs of all steps (or None)."""

    parameters: int
    memory: float
    flops: float | None


def check_recipes(runs: Sequence[Run], data: bool = True) -> dict[str, Size]:
    """Refuse what a run would refuse after its start: sections, columns, missing data. Returns sizes by experiment.

    Args:
        data: open corpora and tasks too.
    Raises:
        UserError: with the run's name before the message.
    """
    sizes: dict[str, Size] = {}
    opened: set[str] | None = set() if data else None
    seen: set[str] = set()
    for run in runs:
        if run.id in seen or not run.verb.takes_recipe:
            continue
        seen.add(run.id)
        try:
            size = _pretraining(run, opened) if run.verb.name == "pretrain" else _finetuning(run, opened)
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
    return Size(parameters, memory, 3 * counted.flops_per_token * tokens if tokens else None)


_COSTS: dict[Any, Any] = {}  # many runs share a model


def _parameters(config: Any) -> int:
    from concept_encoder.model.accounting import build_without_weights, parameters_by_part

    return sum(parameters_by_part(build_without_weights(config)).values())


def _finetuning(run: Run, opened: set[str] | None) -> None:
    from concept_encoder.data.tasks import load_task
    from concept_encoder.model.loading import resolve_checkpoint
    from concept_encoder.training.finetune import FinetuneRecipe

    recipe = FinetuneRecipe.from_sections(_sections(run))
    if "model.checkpoint" not in run.inputs:
        resolve_checkpoint(recipe.model.checkpoint)
    if opened is not None and repr(recipe.data) not in opened:
        load_task(recipe.data)
        opened.add(repr(recipe.data))


def size_rows(sizes: dict[str, Size]) -> Iterator[list[Any]]:
    """Rows of a table: experiment, parameters, memory, FLOPs."""
    for name, size in sizes.items():
        flops = "by epochs" if size.flops is None else f"{size.flops:.2g}"
        yield [name, size.parameters, f"{size.memory / 2**30:,.2f} GiB", flops]
