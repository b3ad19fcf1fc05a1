"""What a fine-tuned model answers on held-out texts, with its concepts and without."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from concept_encoder.errors import TrainingDiverged
from concept_encoder.model.config import ConceptEncoderConfig
from concept_encoder.model.interventions import controls_of
from concept_encoder.model.losses import IGNORE
from concept_encoder.model.pooling import CLASSIFIER_HEADS
from concept_encoder.training.batches import TaskCollator, text_lengths

Answers = list[Any]  # of each text: a class number, a number, or the class numbers of its labelled tokens `[W]`


@dataclass(frozen=True)
class Asking:
    """How texts are given to a model: batches of at most so many, in bf16 (autocast) or not."""

    collator: TaskCollator
    batch_size: int
    bf16: bool = False


def evaluation_order(rows: Dataset) -> np.ndarray:
    """Rows by length, so that little is padding; those of one length in random order, the same every time."""
    anyhow = np.random.default_rng(0).permutation(len(rows))
    return anyhow[np.argsort(text_lengths(rows)[anyhow], kind="stable")]


@torch.no_grad()
def predict(model: torch.nn.Module, rows: Dataset, asking: Asking, **inputs: Any) -> Answers:
    """The model's answers, in the order of `rows` (batches are made of texts of like length, two texts at least).

    Raises `TrainingDiverged` when an answer is not finite.
    """
    model.eval()
    order = evaluation_order(rows)
    answers: Answers = [None] * len(rows)
    parts = max(min(-(-len(rows) // asking.batch_size), len(rows) // 2), 1)
    for chosen in np.array_split(order, parts):
        batch = asking.collator([rows[i] for i in chosen.tolist()])
        labels = batch.pop("labels")
        with torch.autocast(model.device.type, torch.bfloat16, enabled=asking.bf16):
            logits = model(**{name: value.to(model.device) for name, value in batch.items()}, **inputs).logits
        if not logits.isfinite().all():
            raise TrainingDiverged("training has diverged: the model answers nan; lower training.learning_rate")
        for i, answer in zip(chosen, _answers(logits.float().cpu(), labels)):
            answers[i] = answer
    return answers


def asked(rows: Dataset) -> Answers:
    """The labels that `predict` answers for."""
    return [
        _of_labelled(np.asarray(labels), labels) if isinstance(labels, list) else labels for labels in rows["labels"]
    ]


def concept_controls(
    model: Any, rows: Dataset, asking: Asking, score: Callable[[Answers], dict[str, float | None]]
) -> dict[str, dict[str, float | None]]:
    """The same scores after the concepts are exchanged between texts of like length and after they are set to zero.

    A head that keeps its score here does not use the concepts. Empty for a model without concepts; a single text has
    nothing to exchange.
    """
    if not isinstance(model.config, ConceptEncoderConfig):
        return {}
    apart = 2 if CLASSIFIER_HEADS[model.config.classifier_head].separate_texts else 1
    return {
        f"concepts {name}": score(predict(model, rows, asking, concept_intervention=change))
        for name, change in controls_of(model, len(rows), apart).items()
    }


def _answers(logits: Tensor, labels: Tensor) -> Answers:
    if logits.ndim == 3:
        return [_of_labelled(tags.numpy(), asked.numpy()) for tags, asked in zip(logits.argmax(-1), labels)]
    return (logits.squeeze(-1) if logits.shape[-1] == 1 else logits.argmax(-1)).tolist()


def _of_labelled(values: np.ndarray, labels: Any) -> np.ndarray:
    return values[np.asarray(labels) != IGNORE]
