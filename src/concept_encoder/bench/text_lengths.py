"""Lengths of real texts, in tokens: what the fine-tuning step is measured on."""

from concept_encoder.data.tasks.config import TaskConfig
from concept_encoder.data.tasks.load import load_task, tokenize_examples
from concept_encoder.data.tokenizer import load_tokenizer, train_tokenizer


def task_lengths(task: str, count: int, tokenizer: str | None = None, max_length: int = 512) -> list[int]:
    """Lengths of `count` training examples of a task (pairs joined), in an order that no length decides.

    Args:
        tokenizer: a folder or hub id; None trains a WordPiece of 8,192 on the task's own texts.
    """
    examples = load_task(TaskConfig(task=task, max_examples=count)).train
    if tokenizer is not None:
        tokens = load_tokenizer(tokenizer)
    else:
        everything = load_task(TaskConfig(task=task, max_examples=20_000)).train
        tokens = train_tokenizer([*everything.texts, *(everything.pairs or [])], "wordpiece", 8192)
    return [len(ids) for ids in tokenize_examples(examples, tokens, max_length)["input_ids"]]
