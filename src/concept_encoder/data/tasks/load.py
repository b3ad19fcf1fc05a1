"""The data of a fine-tuning run: rows of a named task, or of files of your own, as texts and labels."""

import hashlib
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerFast

from concept_encoder.data import quickstart
from concept_encoder.data.sources import Row, local_files, read_table
from concept_encoder.data.split import is_held_out, share
from concept_encoder.data.tasks import tagging
from concept_encoder.data.tasks.config import TaskConfig
from concept_encoder.data.tasks.labels import ClassNumbers, class_value
from concept_encoder.data.tasks.table import TASKS, Kind, Task
from concept_encoder.data.tasks.tagging import TaggedExamples, TaggedRecord
from concept_encoder.errors import UserError, shown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """Texts and their labels, column by column. Labels are class numbers, or floats for regression."""

    texts: list[str]
    pairs: list[str] | None
    labels: list[int] | list[float]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class TaskData:
    """A task, read: `label_names` by class number (None for regression); `metrics`, the main one first.

    `unlabeled` counts the rows left out because their label was empty or -1, as the hub marks unlabeled rows.
    `selection` is the part of the training side that a checkpoint is chosen on, if there is one. `also` are tasks with
    the same training side and another scored one; `merged` is their class for each class of the model, if it has more.
    """

    name: str
    kind: Kind
    metrics: tuple[str, ...]
    train: Examples | TaggedExamples
    validation: Examples | TaggedExamples
    label_names: list[str] | None
    unlabeled: int
    selection: Examples | TaggedExamples | None = None
    also: "tuple[TaskData, ...]" = ()
    merged: tuple[int, ...] | None = None


@dataclass(frozen=True)
class _Record:
    where: str
    text: str
    pair: str | None
    label: Any


_Side = tuple[list[Any], list[Any]]  # records, and what is to be predicted of each


def load_task(config: TaskConfig) -> TaskData:
    """Read the task of `config`.

    Raises `UserError`, with file and line, for rows that do not fit the task: a missing column or text, a label that is
    no number in regression or that training lacks in classification, words without tags, one class, an empty side.
    """
    task = _own(config) if config.task is None else TASKS[config.task]
    sides = _sides(task, config)
    labeled = [[record for record in records if not _is_unlabeled(record.label, task.kind)] for records in sides]
    unlabeled = sum(map(len, sides)) - sum(map(len, labeled))
    if unlabeled:
        logger.warning("%s: left out %d rows whose label is empty or -1 (unlabeled)", task.name, unlabeled)
    for side, records in zip(("training", "validation"), labeled):
        if not records:
            raise UserError(f"{task.name}: no labeled {side} rows; give more data, or data.validation")
    names, (train_labels, validation_labels) = _targets(task, *labeled)  # classes are those of all training rows
    choose = tagging.choose_tagged if task.kind == "token_classification" else _examples
    learned, selection = _cut_selection(task, config, labeled[0], train_labels)
    train = choose(*learned, config.max_examples)
    if names is not None and len(_distinct(train.labels)) < 2:
        if len(_distinct(train_labels)) > 1 and config.max_examples is not None:
            raise UserError(f"data.max_examples: {config.max_examples} leaves one class to train on; raise it")
        only = names[_distinct(train.labels).pop()]
        raise UserError(f"{task.name}: every training row has the label {only}; give two classes or more")
    data = TaskData(
        name=task.name,
        kind=task.kind,
        metrics=("entity_f1", *task.metrics) if _marks_entities(task, names) else task.metrics,
        train=train,
        validation=choose(labeled[1], validation_labels, config.max_examples),
        label_names=names,
        unlabeled=unlabeled,
        selection=choose(*selection, config.max_examples) if selection else None,
    )
    return replace(data, also=tuple(_beside(data, TASKS[name], config.max_examples) for name in config.also or ()))


def _beside(data: TaskData, other: Task, limit: int | None) -> TaskData:
    """The scored side of another task beside the training side of this one."""
    columns = [column for column in (other.text, other.text_pair, other.label) if column is not None]
    rows = read_table(other.source, columns, config=other.config, split=other.validation)
    every = _records(other, rows)
    records = [record for record in every if not _is_unlabeled(record.label, other.kind)]
    if not records:
        raise UserError(f"{other.name}: no labeled rows to score on; leave it out of data.also")
    _, (_, labels) = _targets(other, [], records)
    held_out = _examples(records, labels, limit)
    left_out = len(every) - len(records)
    beside = replace(data, name=other.name, metrics=other.metrics, validation=held_out, unlabeled=left_out)
    if other.kind == "regression" or list(other.label_names) == data.label_names:
        return beside
    merged = tuple(other.label_names.index(other.merges[name]) for name in data.label_names)
    learned = replace(data.train, labels=[merged[label] for label in data.train.labels])  # for its baselines
    return replace(beside, train=learned, selection=None, label_names=list(other.label_names), merged=merged)


def content_of_rows(config: TaskConfig) -> dict[str, str]:
    """What the rows of a task are, unread: of each split a hash of its files, wherever they lie, or "hub".

    Files that are missing are "hub" too: whoever reads the rows will say what is wrong.
    """
    found = {}
    for source, name, split in _sources(_own(config) if config.task is None else TASKS[config.task], config):
        try:
            files = local_files(source, name, split) or []
        except UserError:
            files = []
        digests = [_digest(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        found[" ".join(filter(None, (source, name, split)))] = " ".join(digests) or "hub"
    return found


@lru_cache
def _digest(file: Path, size: int, modified: int) -> str:
    """Of a file's content; size and time say when it has to be read again."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def tokenize_examples(examples: Examples, tokenizer: PreTrainedTokenizerFast, max_length: int) -> datasets.Dataset:
    """Columns input_ids, attention_mask, token_type_ids where the tokenizer has them (of its text's length), labels.

    Cut at `max_length`, a pair at the longer text. Padding is left to the collator. "[SEP]" written in a text
    is plain text.
    """
    columns = tokenizer(
        examples.texts,
        examples.pairs,
        truncation="longest_first",
        max_length=max_length,
        split_special_tokens=True,
        return_attention_mask=True,
        return_token_type_ids="token_type_ids" in tokenizer.model_input_names,
    )
    return datasets.Dataset.from_dict({**columns, "labels": examples.labels})


def _own(config: TaskConfig) -> Task:
    metrics = ("pearson", "spearman") if config.kind == "regression" else ("accuracy", "macro_f1")
    return Task(
        Path(config.train).name,
        config.train,
        None,
        config.text,
        config.text_pair,
        config.label,
        config.kind,
        metrics,
        label_names=tuple(config.label_names or ()) or None,
    )


def _sources(task: Task, config: TaskConfig) -> list[tuple[str, str | None, str]]:
    """Source, config and split of the rows to train on, and of those to score on unless they are cut from these."""
    config_name, _, train_split = task.train.rpartition("/")
    found = [(task.source, config_name or task.config, train_split)]
    split = config.validation or task.validation
    if config.train is not None and config.validation is not None:
        found.append((config.validation, None, "train"))
    elif config.train is None and split is not None:
        found.append((task.source, task.config, split))
    return found


def _sides(task: Task, config: TaskConfig) -> tuple[list[Any], list[Any]]:
    """The records to train on and those to score on."""
    if task.source == quickstart.NAME:
        rows = ([Row(f"{task.name}:{row.title}", row._asdict()) for row in side] for side in quickstart.topics())
        train, validation = (_records(task, side) for side in rows)
        return train, validation
    columns = [column for column in (task.text, task.text_pair, task.label) if column is not None]
    train, *scored = (
        _records(task, read_table(source, columns, config=name, split=split))
        for source, name, split in _sources(task, config)
    )
    if scored:
        return train, scored[0]
    held_out = [record for record in train if is_held_out(record.text, config.validation_fraction)]
    return [record for record in train if not is_held_out(record.text, config.validation_fraction)], held_out


def _cut_selection(task: Task, config: TaskConfig, records: list, labels: list) -> tuple[_Side, _Side | None]:
    """The training rows to learn from, and those to choose on: all rows of one text fall on the same side."""
    fraction = config.selection_fraction
    if fraction is None:
        return (records, labels), None
    sides: tuple[_Side, _Side] = ([], []), ([], [])
    for record, label in zip(records, labels):
        side = sides[is_held_out(record.text, fraction, cut="selection")]
        side[0].append(record)
        side[1].append(label)
    for (found, _), remedy in zip(sides, ("lower it", "raise it")):
        if not found:
            what = "all" if remedy == "lower it" else "none"
            raise UserError(f"data.selection_fraction: {fraction} of {len(records)} training rows is {what}; {remedy}")
    return sides


def _records(task: Task, rows: Iterable[Row]) -> list[_Record] | list[TaggedRecord]:
    if task.kind == "token_classification":
        return [tagging.tagged_record(row, task.text, task.label) for row in rows]
    records = []
    for where, values in rows:
        texts = [values[column] for column in (task.text, task.text_pair) if column is not None]
        for column, text in zip((task.text, task.text_pair), texts):
            if not isinstance(text, str):
                remedy = "; words with tags need data.kind=token_classification" if isinstance(text, list) else ""
                raise UserError(f"{where}: column {column!r} holds {tagging.short(text)}, expected text{remedy}")
        records.append(_Record(where, texts[0], texts[1] if task.text_pair else None, values[task.label]))
    return records


def _is_unlabeled(label: Any, kind: Kind) -> bool:
    if label is None or (isinstance(label, str) and not label.strip()):
        return True
    return kind == "classification" and label in (-1, "-1")


def _number(record: _Record, task: Task) -> float:
    try:
        number = float(record.label)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        problem = f"column {task.label!r} holds {shown(record.label)}, expected a number"
        raise UserError(f"{record.where}: {problem}; classes need data.kind=classification")
    return number


def _targets(task: Task, train: list[Any], validation: list[Any]) -> tuple[list[str] | None, list[list]]:
    """Names of the classes, and what is to be predicted on both sides: class numbers, or numbers without names."""
    if task.kind == "regression":
        return None, [[_number(record, task) for record in records] for records in (train, validation)]
    if task.kind == "token_classification":
        return tagging.tag_numbers(task.label, task.label_names, train, validation)
    remedy = "numbers to predict need data.kind=regression"
    values = [
        [class_value(record.label, f"{record.where}: column {task.label!r}", remedy) for record in records]
        for records in (train, validation)
    ]
    numbers = ClassNumbers(values[0], task.label_names)
    return numbers.names, [
        [numbers(value, f"{record.where}: label") for record, value in zip(records, side)]
        for records, side in zip((train, validation), values)
    ]


def _distinct(labels: list[int] | list[list[int]]) -> set[int]:
    return set(chain.from_iterable(labels)) if isinstance(labels[0], list) else set(labels)


def _marks_entities(task: Task, names: list[str] | None) -> bool:
    return task.kind == "token_classification" and tagging.is_iob2(names)


def _examples(records: list[_Record], labels: list[int] | list[float], limit: int | None) -> Examples:
    """All examples, or the `limit` of them with the smallest hash: a file may be sorted by its labels."""
    chosen = range(len(records))
    if limit is not None and limit < len(records):
        chosen = sorted(chosen, key=lambda i: share(records[i].text + (records[i].pair or "")))[:limit]
    texts, pairs = [records[i].text for i in chosen], [records[i].pair for i in chosen]
    return Examples(texts, None if pairs[0] is None else pairs, [labels[i] for i in chosen])
