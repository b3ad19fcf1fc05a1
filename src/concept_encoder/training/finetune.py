"""Fine-tuning on a task: from a recipe to a run's folder, with the controls that say whether concepts matter."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from concept_encoder.data.tasks.config import TaskConfig
from concept_encoder.data.tasks.load import TaskData, load_task
from concept_encoder.errors import TrainingDiverged, UserError
from concept_encoder.model.loading import list_checkpoints, resolve_checkpoint
from concept_encoder.records import write_atomically
from concept_encoder.training.batches import TaskCollator, text_lengths, tokenize_task
from concept_encoder.training.classifiers import (
    FinetuneModel,
    find_checkpoint,
    head_for,
    load_classifier,
    longest_input,
    tokenizer_for,
)
from concept_encoder.training.model_card import model_card
from concept_encoder.training.recipe import resolved, section
from concept_encoder.training.run_folder import RunFolder
from concept_encoder.training.schedule import StepSizes
from concept_encoder.training.scoring import Answers, Asking, asked, concept_controls, evaluation_order, predict
from concept_encoder.training.selection import Selection, drop_later_checkpoints, log_of
from concept_encoder.training.settings import TrainingConfig
from concept_encoder.training.stream import ExampleStream, LengthGrouped
from concept_encoder.training.trainer import ConceptTrainer, prepare_kernels, run_trainer

Score = Callable[[Sequence[str], Answers, Answers], dict[str, float | None]]


@dataclass(frozen=True)
class FinetuneRecipe:
    """A checked recipe."""

    model: FinetuneModel
    data: TaskConfig
    training: TrainingConfig

    @classmethod
    def from_sections(cls, sections: Mapping[str, Any]) -> "FinetuneRecipe":
        for name in ("objective", "evaluation"):
            if name in sections:
                raise UserError(f"{name}: fine-tuning has no such section; the task decides it")
        training = section(sections, "training", TrainingConfig)
        if training.length_warmup:
            raise UserError("training.length_warmup: cuts packed rows; fine-tuning reads texts whole, leave it out")
        if training.max_eval_rows:
            raise UserError("training.max_eval_rows: belongs to pretraining; the task's validation side is read whole")
        data = section(sections, "data", TaskConfig)
        if training.patience is not None and data.selection_fraction is None:
            raise UserError("training.patience: counts evaluations on a selection part; set data.selection_fraction")
        if training.save_every and data.selection_fraction is not None:
            raise UserError("training.save_every: with data.selection_fraction every evaluation saves; leave it out")
        return cls(section(sections, "model", FinetuneModel), data, training)


def finetune(
    recipe: FinetuneRecipe,
    score: Score,
    task: TaskData | None = None,
    baselines: Mapping[str, dict] | None = None,
    title: str = "finetune",
    also_baselines: Mapping[str, Mapping[str, dict]] | None = None,
) -> dict[str, Any]:
    """Train on a task and write the run's folder. Returns `result.json`.

    Beside it stands `predictions.json`, the held-out labels and answers one by one: what paired tests are made of.

    Args:
        score: the metrics of these names of `(predictions, labels)`; given by the caller, as evaluation is another
            room. `evaluation.metrics.scorer(task)` makes the one that fits a task.
        task: the task's data, when several runs share them; otherwise loaded from `recipe.data`.
        baselines: scores to keep beside the result.
        also_baselines: the same of each task of `data.also`, by its name.
    """
    checkpoint = find_checkpoint(recipe.model.checkpoint)
    task = task or load_task(recipe.data)
    head = head_for(checkpoint, recipe.model.classifier_head, task.kind)
    recipe = replace(recipe, model=replace(recipe.model, classifier_head=head))
    tokenizer = tokenizer_for(checkpoint)
    training = recipe.training
    model = _load(recipe, checkpoint, task)
    longest = longest_input(model.config, tokenizer)
    _check_length(recipe.data.max_length, longest)
    plain = resolved(model=recipe.model, data=recipe.data, training=training)
    run = RunFolder(training.output_dir, plain, training.seed)
    if run.result is not None:
        return run.result
    rows = _rows(task, tokenizer, recipe)
    run.begin()
    if training.threads:
        torch.set_num_threads(training.threads)
    asking = Asking(TaskCollator(tokenizer, longest), training.eval_batch_size, training.precision == "bf16")
    selection = _selection(task, rows["selection"], asking, score, training.patience) if task.selection else None
    trainer = _train(model, run, training, rows, asking.collator, selection, title)
    chosen = {}
    if selection is not None:
        model, chosen = _best(recipe, task, trainer, selection)
    judged, answers = _judged(model, task, rows["validation"], asking, score)
    beside = {other.name: _judged(model, other, rows[other.name], asking, score) for other in task.also}
    result = {
        "verb": "finetune",
        "task": task.name,
        "kind": task.kind,
        "classifier_head": head,
        "examples": {side: len(rows[side]) for side in rows},
        **_words(task, answers["labels"]),
        "baselines": dict(baselines or {}),
        **judged,
        **chosen,
        "steps": training.steps(len(rows["train"])),
        "checkpoint": str(resolve_checkpoint(training.output_dir).relative_to(training.output_dir)),
    }
    if beside:
        known = also_baselines or {}
        result["also"] = {name: {"baselines": known.get(name, {}), **found} for name, (found, _) in beside.items()}
    if trainer.is_world_process_zero():
        _write(run, result, {task.name: answers} | {name: others for name, (_, others) in beside.items()})
    return result


def _train(
    model: PreTrainedModel,
    run: RunFolder,
    training: TrainingConfig,
    rows: dict[str, Dataset],
    collator: TaskCollator,
    selection: Selection | None,
    title: str,
) -> ConceptTrainer:
    """Train to the end, or to where the selection says that it is over."""
    sizes = training.sizes(len(rows["train"]))
    trainer, _ = run_trainer(
        model,
        run,
        _evaluated(training, max(len(rows["train"]) // training.batch_size, 1), sizes.steps, selection),
        sizes,
        title,
        train_dataset=_in_training(rows["train"], sizes, training.seed),
        eval_dataset=_in_evaluation(rows["selection" if selection else "validation"]),
        data_collator=collator,
        eval_collator=collator,
        processing_class=collator.tokenizer,
        model_card=lambda state: model_card(model.config, run.recipe, state.log_history),
        selection=selection,
    )
    return trainer


def _selection(task: TaskData, rows: Dataset, asking: Asking, score: Score, patience: int | None) -> Selection:
    """The judge of checkpoints: scores on the rows cut from the training side, none from a model that diverged."""

    def scores(model: torch.nn.Module) -> dict[str, float | None]:
        try:
            return score(task.metrics, predict(model, rows, asking), asked(rows))
        except TrainingDiverged:
            return {}

    return Selection(task.metrics[0], scores, patience)


def _best(
    recipe: FinetuneRecipe, task: TaskData, trainer: ConceptTrainer, selection: Selection
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of the chosen checkpoint and why it was chosen; the checkpoints after it are deleted."""
    folder = recipe.training.output_dir
    log = log_of(list_checkpoints(folder))
    best = selection.best_checkpoint(folder, log)
    model = _load(recipe, best, task).to(trainer.args.device)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        drop_later_checkpoints(best)
    return model, {"selection": selection.summary(log)}


def _judged(
    model: PreTrainedModel, task: TaskData, rows: Dataset, asking: Asking, score: Score
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores and controls on the scored side of a task, and the answers one by one."""
    predictions, labels = predict(model, rows, asking), asked(rows)

    def said(found: Answers) -> Answers:
        return [task.merged[answer] for answer in found] if task.merged else found

    def scores(found: Answers) -> dict[str, float | None]:
        return score(task.metrics, said(found), labels)

    judged = {"scores": scores(predictions), "controls": concept_controls(model, rows, asking, scores)}
    answers = {"labels": _plain(labels), "predictions": _plain(said(predictions)), "label_names": task.label_names}
    return judged, answers


def _write(run: RunFolder, result: dict[str, Any], answers: Mapping[str, dict[str, Any]]) -> None:
    """The record, with the answers of each task that was scored; `result.json` last, as it says that all is there."""
    for name, found in result.get("also", {}).items():
        _write_beside(run, {**result, **found, "task": name}, answers[name])
    write_atomically(run.path / "predictions.json", json.dumps(answers[result["task"]]) + "\n")
    run.write_json("result.json", result)


def _write_beside(run: RunFolder, result: dict[str, Any], answers: dict[str, Any]) -> None:
    """A task of `data.also`, as a run of its own in `also/<task>`: whoever compares runs reads it as one."""
    result = {field: value for field, value in result.items() if field != "also"}
    result["examples"] = {**result["examples"], "validation": len(answers["labels"])}
    folder = f"also/{result['task']}"
    write_atomically(run.path / folder / "recipe.yaml", (run.path / "recipe.yaml").read_bytes())
    write_atomically(run.path / folder / "predictions.json", json.dumps(answers) + "\n")
    run.write_json(f"{folder}/result.json", result)


def _rows(task: TaskData, tokenizer: PreTrainedTokenizerBase, recipe: FinetuneRecipe) -> dict[str, Dataset]:
    """The tokenised rows of each side."""
    sides = {"train": task.train, "selection": task.selection, "validation": task.validation}
    sides |= {other.name: other.validation for other in task.also}
    rows = {
        side: tokenize_task(examples, tokenizer, recipe.data.max_length, recipe.model.separate_texts)
        for side, examples in sides.items()
        if examples is not None
    }
    for side in rows:
        if task.kind == "token_classification" and not any(map(len, asked(rows[side]))):
            raise UserError(f"data.{side}: no word has a token within data.max_length, so that nothing can be scored")
    return rows


def _evaluated(training: TrainingConfig, per_epoch: int, steps: int, selection: Selection | None) -> TrainingConfig:
    """Evaluated after every epoch unless the recipe says when; a checkpoint that may be chosen is saved with it."""
    every = training.eval_every or min(per_epoch, steps)
    return replace(training, eval_every=every, save_every=every if selection else training.save_every)


def _in_training(rows: Dataset, sizes: StepSizes, seed: int) -> ExampleStream:
    return ExampleStream(rows, int(sizes.first_row[-1]), seed, LengthGrouped(text_lengths(rows), sizes.first_row))


def _in_evaluation(rows: Dataset) -> ExampleStream:
    return ExampleStream(rows.select(evaluation_order(rows)), len(rows), None)


def _load(recipe: FinetuneRecipe, checkpoint: Path, task: TaskData) -> PreTrainedModel:
    model = load_classifier(recipe.model, checkpoint, task, recipe.training.seed)
    prepare_kernels(model, recipe.training)
    return model


def _check_length(asked: int, longest: int) -> None:
    if asked > longest:
        raise UserError(
            f"data.max_length: {asked} tokens exceed the checkpoint's {longest}; set data.max_length={longest}"
        )


def _plain(answers: Answers) -> list[Any]:
    return [answer.tolist() if isinstance(answer, np.ndarray) else answer for answer in answers]


def _words(task: TaskData, labels: Answers) -> dict[str, Any]:
    """How many held-out words are scored, where words are; the others lie beyond `data.max_length`."""
    if task.kind != "token_classification":
        return {}
    scored = sum(map(len, labels))
    return {"words": {"scored": scored, "cut_off": sum(map(len, task.validation.labels)) - scored}}
