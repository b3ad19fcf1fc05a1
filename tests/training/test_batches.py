"""Texts of a task as padded batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concept_encoder.data.tasks.load import Examples
from concept_encoder.data.tasks.tagging import TaggedExamples
from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.training.batches import TaskCollator, text_lengths, tokenize_task

TOKENIZER = train_tokenizer(["the cat and the dog ran over a mat"] * 5, "wordpiece", 80)
PAD, IGNORE = TOKENIZER.pad_token_id, -100


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_token_labels_are_padded_with_the_texts(lengths):
    rows = [
        {"input_ids": list(range(5, 5 + n)), "token_type_ids": [0] * n, "labels": [i % 3 for i in range(n)]}
        for n in lengths
    ]
    batch = TaskCollator(TOKENIZER)(rows)
    size = -(-max(lengths) // 8) * 8
    for name, filler in (("input_ids", PAD), ("labels", IGNORE), ("token_type_ids", 0)):
        assert batch[name].tolist() == [row[name] + [filler] * (size - n) for row, n in zip(rows, lengths)]
    assert batch["attention_mask"].tolist() == [[1] * n + [0] * (size - n) for n in lengths]


def test_padding_is_on_the_right_whatever_the_tokenizer_says():
    left = train_tokenizer(["a b c"] * 5, "wordpiece", 30)
    left.padding_side = "left"
    batch = TaskCollator(left)([{"input_ids": [2, 3], "token_type_ids": [0, 0], "labels": [IGNORE, 1]}])
    assert batch["input_ids"].tolist() == [[2, 3, *[PAD] * 6]]
    assert batch["labels"].tolist() == [[IGNORE, 1, *[IGNORE] * 6]]


@pytest.mark.parametrize(("labels", "kind"), [([0, 1], "torch.int64"), ([0.5, 1.0], "torch.float32")])
def test_one_label_a_text(labels, kind):
    rows = tokenize_task(Examples(["the cat", "a dog ran"], None, labels), TOKENIZER, 16, separate=False)
    batch = TaskCollator(TOKENIZER)([rows[0], rows[1]])
    assert batch["labels"].tolist() == labels
    assert str(batch["labels"].dtype) == kind
    assert batch["input_ids"].shape == (2, 8)


def test_pairs_kept_apart():
    examples = Examples(["the cat ran", "a dog"], ["over a mat and the dog and the cat", "the cat"], [0, 1])
    rows = tokenize_task(examples, TOKENIZER, 32, separate=True)
    batch = TaskCollator(TOKENIZER)([rows[0], rows[1]])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 2, 16)
    for i in range(2):
        for side in range(2):
            ids = rows[i]["input_ids"][side]
            assert batch["input_ids"][i, side].tolist() == ids + [PAD] * (16 - len(ids))
    together = tokenize_task(examples, TOKENIZER, 32, separate=False)
    assert text_lengths(rows).tolist() == [max(map(len, rows[i]["input_ids"])) for i in range(2)]
    assert text_lengths(together).tolist() == [len(ids) for ids in together["input_ids"]]
    with pytest.raises(UserError, match="'pair' compares two texts, but the task has one"):
        tokenize_task(Examples(["a"], None, [0]), TOKENIZER, 8, separate=True)


def test_words_with_tags_become_rows():
    rows = tokenize_task(TaggedExamples([["the", "cat"], ["a"]], [[0, 1], [2]]), TOKENIZER, 16, separate=False)
    assert [[label for label in labels if label != IGNORE] for labels in rows["labels"]] == [[0, 1], [2]]
    assert np.array_equal(text_lengths(rows), [len(ids) for ids in rows["input_ids"]])
