"""Fine-tuning on a task: from a recipe to a run's folder, with the controls that say whether concepts matter."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from concept_encoder.data.tasks import Examples, TaskConfig, TaskData, load_task, tokenize_examples
from concept_encoder.data.tokenizer import load_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.model import ConceptEncoderForSequenceClassification
from concept_encoder.model.interventions import shuffled, zeroed
from concept_encoder.model.loading import load_checkpoint, resolve_checkpoint
from concept_encoder.model.pooling import CLASSIFIER_HEADS
from concept_encoder.training.model_card import model_card
from concept_encoder.training.recipe import resolved, section
from concept_encoder.training.run_folder import RunFolder
from concept_encoder.training.settings import TrainingConfig
from concept_encoder.training.stream import ExampleStream
from concept_encoder.training.trainer import run_trainer, use_kernel

Score = Callable[[Sequence[str], np.ndarray, np.ndarray], dict[str, float | None]]


@dataclass(frozen=True)
class FinetuneModel:
    """The recipe's section `model` for fine-tuning.

    Attributes:
        checkpoint: a checkpoint, or a run whose last checkpoint is taken.
        classifier_head: how texts are pooled.
        classifier_dropout: before the classifier.
        hidden_dropout_prob: inside the encoder; None keeps the checkpoint's.
    """

    checkpoint: str
    classifier_head: str = "via_decoder"
    classifier_dropout: float = 0.1
    hidden_dropout_prob: float | None = None

    def __post_init__(self) -> None:
        CLASSIFIER_HEADS.member("classifier_head", self.classifier_head)
        for name in ("classifier_dropout", "hidden_dropout_prob"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not a share from 0 up to 1")

    def fields(self) -> dict[str, Any]:
        """What replaces fields of the checkpoint's configuration."""
        named = ("classifier_head", "classifier_dropout", "hidden_dropout_prob")
        return {name: getattr(self, name) for name in named if getattr(self, name) is not None}


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
        return cls(
            section(sections, "model", FinetuneModel),
            section(sections, "data", TaskConfig),
            section(sections, "training", TrainingConfig),
        )


class TaskCollator:
    """Pads texts of a task to a multiple of 8; pairs that the rows keep apart become `[B, 2, N]`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        texts = [{name: row[name] for name in ("input_ids", "token_type_ids")} for row in rows]
        apart = isinstance(texts[0]["input_ids"][0], list)
        if apart:
            texts = [{name: text[name][side] for name in text} for text in texts for side in (0, 1)]
        batch = dict(self.tokenizer.pad(texts, pad_to_multiple_of=8, return_tensors="pt"))
        if apart:
            batch = {name: values.unflatten(0, (-1, 2)) for name, values in batch.items()}
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch


def _tokenize(examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, separate: bool) -> Dataset:
    if not separate:
        return tokenize_examples(examples, tokenizer, max_length)
    if examples.pairs is None:
        raise UserError("model.classifier_head: 'pair' compares two texts, but the task has one; use 'via_decoder'")
    sides = [
        tokenize_examples(Examples(texts, None, examples.labels), tokenizer, max_length)
        for texts in (examples.texts, examples.pairs)
    ]
    names = ("input_ids", "token_type_ids")
    columns = {name: [list(both) for both in zip(*(side[name] for side in sides))] for name in names}
    return Dataset.from_dict({**columns, "labels": examples.labels})


def finetune(
    recipe: FinetuneRecipe,
    score: Score,
    task: TaskData | None = None,
    baselines: Mapping[str, dict] | None = None,
    title: str = "finetune",
) -> dict[str, Any]:
    """Train on a task and write the run's folder. Returns `result.json`.

    Args:
        score: the metrics of that name of `(predictions, labels)`; given by the caller, as evaluation is another room.
        task: the task's data, when several runs share them; otherwise loaded from `recipe.data`.
        baselines: scores to keep beside the result.
    """
    checkpoint = resolve_checkpoint(recipe.model.checkpoint)
    tokenizer = load_tokenizer(str(checkpoint))
    task = task or load_task(recipe.data)
    model = _load_classifier(recipe, checkpoint, task)
    use_kernel(model, recipe.training.attention)
    plain = resolved(model=recipe.model, data=recipe.data, training=recipe.training)
    run = RunFolder(recipe.training.output_dir, plain, recipe.training.seed)
    if run.result is not None:
        return run.result
    separate = CLASSIFIER_HEADS[recipe.model.classifier_head].separate_texts
    sides = {"train": task.train, "validation": task.validation}
    rows = {side: _tokenize(examples, tokenizer, recipe.data.max_length, separate) for side, examples in sides.items()}
    run.begin()
    training = recipe.training
    if training.threads:
        torch.set_num_threads(training.threads)
    steps = training.steps(len(rows["train"]))
    per_epoch = max(len(rows["train"]) // training.batch_size, 1)
    collator = TaskCollator(tokenizer)
    trainer, _ = run_trainer(
        model,
        run,
        replace(training, eval_every=training.eval_every or per_epoch),
        steps,
        title,
        tokens_per_step=None,
        train_dataset=ExampleStream(rows["train"], steps * training.batch_size, training.seed),
        eval_dataset=ExampleStream(rows["validation"], len(rows["validation"]), None),
        data_collator=collator,
        eval_collator=collator,
        processing_class=tokenizer,
        model_card=lambda state: model_card(model.config, plain, state.log_history),
    )
    labels = np.asarray(rows["validation"]["labels"])
    result = {
        "verb": "finetune",
        "task": task.name,
        "classifier_head": recipe.model.classifier_head,
        "examples": {side: len(rows[side]) for side in rows},
        "baselines": dict(baselines or {}),
        "scores": score(task.metrics, predict(model, rows["validation"], collator), labels),
        "controls": concept_controls(
            model, rows["validation"], collator, lambda found: score(task.metrics, found, labels)
        ),
        "steps": steps,
        "checkpoint": str(resolve_checkpoint(training.output_dir).relative_to(training.output_dir)),
    }
    if trainer.is_world_process_zero():
        run.write_json("result.json", result)
    return result


def _load_classifier(
    recipe: FinetuneRecipe, checkpoint: Any, task: TaskData
) -> ConceptEncoderForSequenceClassification:
    regression = task.kind == "regression"
    names = ["score"] if regression else list(task.label_names)
    torch.manual_seed(recipe.training.seed)
    model = load_checkpoint(
        ConceptEncoderForSequenceClassification,
        checkpoint,
        **recipe.model.fields(),
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        problem_type="regression" if regression else "single_label_classification",
    )
    if recipe.data.max_length > model.config.max_position_embeddings:
        longest = model.config.max_position_embeddings
        raise UserError(
            f"data.max_length: {recipe.data.max_length} tokens exceed the checkpoint's {longest}; "
            f"set data.max_length={longest}"
        )
    return model


@torch.no_grad()
def predict(
    model: torch.nn.Module, rows: Any, collator: TaskCollator, batch_size: int = 64, **inputs: Any
) -> np.ndarray:
    """Predicted classes `[T]`, or numbers for regression, of tokenised texts in order."""
    model.eval()
    found = []
    for start in range(0, len(rows), batch_size):
        batch = collator([rows[i] for i in range(start, min(start + batch_size, len(rows)))])
        batch = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
        logits = model(**batch, **inputs).logits.float().cpu()
        found.append(logits.squeeze(-1) if logits.shape[-1] == 1 else logits.argmax(-1))
    return torch.cat(found).numpy()


def concept_controls(
    model: Any, rows: Any, collator: TaskCollator, score: Callable[[np.ndarray], dict]
) -> dict[str, Any]:
    """The same scores after the concepts are exchanged between examples and after they are set to zero.

    A head that keeps its score here does not use the concepts. Empty for a model without concepts.
    """
    if model.config.concept_source == "none":
        return {}
    everyone = torch.ones(model.config.concepts_at(model.config.max_position_embeddings), dtype=torch.bool)
    texts = 2 if CLASSIFIER_HEADS[model.config.classifier_head].separate_texts else 1
    changes = {"concepts shuffled": shuffled(everyone, apart=texts), "concepts zeroed": zeroed(everyone)}
    size = next(size for size in range(64, 128) if len(rows) % size != 1)  # one example alone has nothing to exchange
    return {
        name: score(predict(model, rows, collator, size, concept_intervention=change))
        for name, change in changes.items()
    }
