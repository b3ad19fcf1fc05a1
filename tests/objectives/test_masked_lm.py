"""Masking: exact budgets, determinism, the replacement policy, the unigram bar."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.objectives.masked_lm import IGNORE, MaskedLMCollator, ObjectiveConfig, unigram_loss
from concept_encoder.objectives.masking import MASKINGS, PLACE

TOKENIZER = train_tokenizer(["the cat sat on the mat and the dog sat on the log"] * 20, "wordpiece", 64)
WORDS = list(range(5, len(TOKENIZER)))
every_masking = pytest.mark.parametrize("masking", sorted(MASKINGS))


def rows_of(lengths: list[int], seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {"input_ids": [2, *rng.choice(WORDS, length).tolist(), 3], PLACE: place} for place, length in enumerate(lengths)
    ]


@every_masking
@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5), rate=st.sampled_from([0.15, 0.3, 0.5]))
def test_the_budget_is_exact_and_specials_stay(masking, lengths, rate):
    rows = rows_of(lengths)
    batch = MaskedLMCollator(TOKENIZER, ObjectiveConfig(masking, rate), seed=1)(rows)
    for i, (row, length) in enumerate(zip(rows, lengths)):
        asked = batch["labels"][i] != IGNORE
        index = batch["label_index"][i][asked]
        assert asked.sum() == max(round(rate * length), 1)
        assert len(set(index.tolist())) == len(index)
        original = torch.tensor(row["input_ids"])
        assert torch.equal(batch["labels"][i][asked], original[index])
        assert not set(original[index].tolist()) & set(TOKENIZER.all_special_ids)
        untouched = torch.ones(length + 2, dtype=torch.bool)
        untouched[index] = False
        assert torch.equal(batch["input_ids"][i, : length + 2][untouched], original[untouched])
    padded = min(lengths) < max(lengths)
    assert ("attention_mask" in batch) == padded
    if padded:
        assert batch["attention_mask"].sum(1).tolist() == [length + 2 for length in lengths]


@every_masking
def test_a_mask_depends_on_seed_and_place_alone(masking):
    rows = rows_of([20] * 8)
    config = ObjectiveConfig(masking)
    together = MaskedLMCollator(TOKENIZER, config, seed=3)(rows)
    alone = [MaskedLMCollator(TOKENIZER, config, seed=3)([row]) for row in reversed(rows)]
    for i, batch in enumerate(reversed(alone)):
        assert torch.equal(batch["input_ids"][0], together["input_ids"][i])
    other = MaskedLMCollator(TOKENIZER, config, seed=4)(rows)
    assert not torch.equal(other["label_index"], together["label_index"])


def test_replacements_are_80_10_10():
    rows = rows_of([100] * 300)
    batch = MaskedLMCollator(TOKENIZER, ObjectiveConfig(mask_rate=0.3), seed=0)(rows)
    asked = batch["labels"] != IGNORE
    seen = batch["input_ids"].gather(1, batch["label_index"])[asked]
    labels = batch["labels"][asked]
    masked, kept = (seen == TOKENIZER.mask_token_id).sum().item(), (seen == labels).sum().item()
    total, chance = len(labels), 0.1 / len(WORDS)  # a random word may be the word itself
    expected = np.array([0.8, 0.1 + chance, 0.1 - chance]) * total
    assert chisquare([masked, kept, total - masked - kept], expected).pvalue > 1e-3
    assert not set(seen[seen != TOKENIZER.mask_token_id].tolist()) & set(TOKENIZER.all_special_ids)
    always = MaskedLMCollator(TOKENIZER, ObjectiveConfig(replacement="mask"), seed=0)(rows)
    asked = always["labels"] != IGNORE
    assert (always["input_ids"].gather(1, always["label_index"])[asked] == TOKENIZER.mask_token_id).all()


def test_every_place_is_hidden_equally_often():
    batch = MaskedLMCollator(TOKENIZER, ObjectiveConfig(), seed=0)(rows_of([20] * 4000))
    counts = np.bincount(batch["label_index"].flatten().numpy(), minlength=22)
    assert counts[[0, 21]].sum() == 0
    assert chisquare(counts[1:21]).pvalue > 1e-3


def test_unigram_loss_is_the_cross_entropy_of_frequencies():
    rows = rows_of([10, 12, 9])
    collator = MaskedLMCollator(TOKENIZER, ObjectiveConfig(mask_rate=0.5), seed=0)
    counts = np.bincount([5, 5, 6, 7], minlength=len(TOKENIZER))
    labels = [label for row in rows for label in collator([row])["labels"].flatten().tolist() if label != IGNORE]
    share = (counts + 1) / (counts + 1).sum()
    assert unigram_loss(counts, rows, collator) == pytest.approx(-np.log(share[labels]).mean())
