"""The texts of a task as padded batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from concept_encoder.data.tasks.load import Examples, tokenize_examples
from concept_encoder.data.tasks.tagging import TaggedExamples, tokenize_tagged
from concept_encoder.errors import UserError
from concept_encoder.model.losses import IGNORE

INPUTS = ("input_ids", "token_type_ids")  # not every tokenizer tells the two texts of a pair apart


class TaskCollator:
    """Pads texts of a task to a multiple of 8; pairs that the rows keep apart become `[B, 2, N]`.

    Never to more than `longest` tokens. Labels are `[B]`, or `[B, N]` where every token has one; padding has none
    (-100).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, longest: int | None = None):
        self.tokenizer, self.longest = tokenizer, longest

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        names = [name for name in INPUTS if name in rows[0]]
        texts = [{name: row[name] for name in names} for row in rows]
        apart = isinstance(texts[0]["input_ids"][0], list)
        if apart:
            texts = [{name: text[name][side] for name in text} for text in texts for side in (0, 1)]
        batch = dict(
            self.tokenizer.pad(
                texts, pad_to_multiple_of=self._multiple(texts), padding_side="right", return_tensors="pt"
            )
        )
        labels = [torch.as_tensor(row["labels"]) for row in rows]
        if labels[0].ndim:
            labels_BN = pad_sequence(labels, batch_first=True, padding_value=IGNORE)
            rest = batch["input_ids"].shape[1] - labels_BN.shape[1]
            batch["labels"] = torch.nn.functional.pad(labels_BN, (0, rest), value=IGNORE)
        else:
            batch["labels"] = torch.stack(labels)
        if apart:
            batch = {
                name: values if name == "labels" else values.unflatten(0, (-1, 2)) for name, values in batch.items()
            }
        return batch

    def _multiple(self, texts: list[dict[str, Any]]) -> int | None:
        width = -(-max(len(text["input_ids"]) for text in texts) // 8) * 8
        return None if self.longest is not None and width > self.longest else 8


def tokenize_task(
    examples: Examples | TaggedExamples, tokenizer: PreTrainedTokenizerBase, max_length: int, separate: bool
) -> Dataset:
    """Tokenised rows with labels. `separate` keeps the two texts of a pair apart."""
    if isinstance(examples, TaggedExamples):
        return tokenize_tagged(examples, tokenizer, max_length)
    if not separate:
        return tokenize_examples(examples, tokenizer, max_length)
    if examples.pairs is None:
        raise UserError("model.classifier_head: 'pair' compares two texts, but the task has one; use 'via_decoder'")
    sides = [
        tokenize_examples(Examples(texts, None, examples.labels), tokenizer, max_length)
        for texts in (examples.texts, examples.pairs)
    ]
    names = [name for name in INPUTS if name in sides[0].column_names]
    columns = {name: [list(both) for both in zip(*(side[name] for side in sides))] for name in names}
    return Dataset.from_dict({**columns, "labels": examples.labels})


def text_lengths(rows: Dataset) -> np.ndarray:
    """Tokens of each row `[T]`; of the longer text where a pair is kept apart."""
    return np.array([_length(ids) for ids in rows["input_ids"]])


def _length(ids: Sequence[int] | Sequence[Sequence[int]]) -> int:
    return max(map(len, ids)) if isinstance(ids[0], list) else len(ids)
