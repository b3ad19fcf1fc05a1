"""Tasks with a label for every word: rows of words and tags, and which token answers for which word.

Words are joined by spaces and tokenised as text, as in pretraining, so that every word has tokens of its own whatever
the tokenizer; a word's first token carries its tag (as in BERT, arXiv:1810.04805, section 5.3).
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import datasets
from transformers import PreTrainedTokenizerFast

from concept_encoder.data.conllu import Span, spans_of_words
from concept_encoder.data.sources import Row, clean_text
from concept_encoder.data.split import share
from concept_encoder.data.tasks.labels import ClassNumbers, class_value
from concept_encoder.errors import UserError

NO_LABEL = -100  # what losses ignore


@dataclass(frozen=True)
class TaggedExamples:
    """Texts as lists of words, and for each word the number of its tag."""

    words: list[list[str]]
    labels: list[list[int]]

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class TaggedRecord:
    """A row of a file: `text` is its words joined by spaces, `label` has one tag a word."""

    where: str
    text: str
    words: list[str]
    label: list[Any]


def tagged_record(row: Row, words_column: str, tags_column: str) -> TaggedRecord:
    """Words and tags of a row. Raises `UserError` when they are no lists, empty, or differ in number."""
    where, values = row
    words, tags = values[words_column], values[tags_column]
    for column, items in ((words_column, words), (tags_column, tags)):
        if not isinstance(items, list):
            problem = f"column {column!r} holds {short(items)}, expected a list with an item for every word"
            raise UserError(f"{where}: {problem}; name another column, of JSONL, parquet or CoNLL-U (tokens, upos, …)")
    if not words:
        raise UserError(f"{where}: column {words_column!r} holds no words; leave the row out")
    for number, word in enumerate(words, 1):
        if not isinstance(word, str) or not word.strip():
            raise UserError(f"{where}: word {number} of column {words_column!r} is {short(word)}, expected text")
    if len(words) != len(tags):
        sizes = f"{len(words)} words in {words_column!r} but {len(tags)} tags in {tags_column!r}"
        raise UserError(f"{where}: {sizes}; give exactly one tag a word")
    words = [clean_text(word) for word in words]
    return TaggedRecord(where, " ".join(words), words, tags)


def tag_numbers(
    column: str, label_names: Sequence[str] | None, train: list[TaggedRecord], validation: list[TaggedRecord]
) -> tuple[list[str], list[list[list[int]]]]:
    """Names of the tags, and the tag numbers of both sides' words."""
    values = [[_values(record, column) for record in records] for records in (train, validation)]
    numbers = ClassNumbers(chain.from_iterable(values[0]), label_names)
    labels = []
    for records, side in zip((train, validation), values):
        labels.append([])
        for record, tags in zip(records, side):
            where = [f"{record.where}: the tag of word {i} {word!r}," for i, word in enumerate(record.words, 1)]
            labels[-1].append(list(map(numbers, tags, where)))
    return numbers.names, labels


def choose_tagged(records: list[TaggedRecord], labels: list[list[int]], limit: int | None) -> TaggedExamples:
    """All examples, or the `limit` of them with the smallest hash."""
    chosen = range(len(records))
    if limit is not None and limit < len(records):
        chosen = sorted(chosen, key=lambda i: share(records[i].text))[:limit]
    return TaggedExamples([records[i].words for i in chosen], [labels[i] for i in chosen])


def is_iob2(tags: Sequence[str]) -> bool:
    """Whether the tags mark entities: O, and B-X or I-X for the first and the further words of an X."""
    return any(tag.startswith("B-") for tag in tags) and all(tag == "O" or tag[:2] in ("B-", "I-") for tag in tags)


def tokenize_tagged(examples: TaggedExamples, tokenizer: PreTrainedTokenizerFast, max_length: int) -> datasets.Dataset:
    """Columns input_ids, attention_mask, token_type_ids (if the tokenizer has them) and labels, of a text's length.

    A word's first token has its label, all others, special ones included, `NO_LABEL`. Words beyond `max_length` tokens
    are cut off.
    """
    columns = tokenizer(
        [" ".join(words) for words in examples.words],
        truncation=True,
        max_length=max_length,
        split_special_tokens=True,
        return_attention_mask=True,
        return_token_type_ids="token_type_ids" in tokenizer.model_input_names,
        return_offsets_mapping=True,
    )
    offsets = columns.pop("offset_mapping")
    labels = [
        [NO_LABEL if word is None else tags[word] for word in first_tokens(spans, spans_of_words(words))]
        for spans, words, tags in zip(offsets, examples.words, examples.labels)
    ]
    return datasets.Dataset.from_dict({**columns, "labels": labels})


def first_tokens(offsets: Sequence[Span], words: Sequence[Span]) -> list[int | None]:
    """For each token the word whose first token it is, or None. Both are spans of the text, in order."""
    ends = [end for _, end in words]
    owners: list[int | None] = []
    seen = -1
    for start, end in offsets:
        word = bisect_right(ends, start)
        mine = end > start and word > seen and word < len(words) and words[word][0] < end
        owners.append(word if mine else None)
        seen = word if mine else seen
    return owners


def _values(record: TaggedRecord, column: str) -> list[int | str]:
    where = f"{record.where}: column {column!r}"
    values = [class_value(tag, where, "a tag is text or a whole number") for tag in record.label]
    for word, value in zip(record.words, values):
        if value == "" or (isinstance(value, int) and value < 0):
            raise UserError(f"{where} holds {value!r} for {word!r}, which marks a word without tag; tag every word")
    return values


def short(value: Any) -> str:
    """A value as it is quoted in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
