"""The collator: labels, replacement, deletion, schedule, determinism, and the unigram bar."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils.data import DataLoader

from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.model import ConceptEncoderConfig, ConceptEncoderForMaskedLM
from concept_encoder.model.losses import IGNORE
from concept_encoder.objectives.masked_lm import MaskedLMCollator, ObjectiveConfig, unigram_loss
from concept_encoder.objectives.masking import MASKINGS, PLACE
from concept_encoder.objectives.masking_ngrams import NgramFile
from concept_encoder.objectives.masking_words import fingerprint
from concept_encoder.settings import from_mapping
from concept_encoder.training.schedule import MicroBatches, StepSizes

TOKENIZER = train_tokenizer(["the cat sat on the mat and the dog sat on the log"] * 20, "wordpiece", 64)
WORDS = list(range(5, len(TOKENIZER)))


@pytest.fixture(scope="module")
def objective(tmp_path_factory):
    """A function: an objective with this masking; `pmi` with a file of two n-grams."""
    path = tmp_path_factory.mktemp("ngrams") / "ngrams.npz"
    ids = [TOKENIZER(text, add_special_tokens=False)["input_ids"] for text in ("the cat", "on the mat")]
    sizes = np.array([*map(len, ids)])
    NgramFile(fingerprint(TOKENIZER), np.concatenate(ids), sizes, sizes, sizes).save(path)
    return lambda masking, **fields: ObjectiveConfig(masking, ngrams=path if masking == "pmi" else None, **fields)


def rows_of(lengths: list[int], seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {"input_ids": [2, *rng.choice(WORDS, length).tolist(), 3], PLACE: place} for place, length in enumerate(lengths)
    ]


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    rate=st.sampled_from([0.15, 0.3, 0.5]),
    masking=st.sampled_from(["token", "span", "span_geometric"]),
)
def test_the_budget_is_exact_and_the_rest_stays(masking, lengths, rate):
    rows = rows_of(lengths)
    batch = MaskedLMCollator(TOKENIZER, ObjectiveConfig(masking, rate), seed=1)(rows)
    assert batch["labels"].shape == batch["label_index"].shape == (len(rows), max(round(rate * (max(lengths) + 2)), 1))
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
        assert (batch["input_ids"][i, length + 2 :] == TOKENIZER.pad_token_id).all()
    padded = min(lengths) < max(lengths)
    assert ("attention_mask" in batch) == padded
    if padded:
        assert batch["attention_mask"].sum(1).tolist() == [length + 2 for length in lengths]


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    rate=st.sampled_from([0.15, 0.3, 0.5]),
    masking=st.sampled_from(["whole_word", "pmi"]),
)
def test_whole_units_are_never_over_the_budget_and_seldom_below(objective, masking, lengths, rate):
    """Below it only by less than the smallest unit that is not hidden: else that unit would fit."""
    config = objective(masking, mask_rate=rate)
    collator = MaskedLMCollator(TOKENIZER, config, seed=1)
    rows = rows_of(lengths)
    batch = collator(rows)
    for i, (row, length) in enumerate(zip(rows, lengths)):
        index = batch["label_index"][i][batch["labels"][i] != IGNORE].numpy()
        assert not set(np.asarray(row["input_ids"])[index].tolist()) & set(TOKENIZER.all_special_ids)
        budget = max(round(rate * length), 1)
        assert 1 <= len(index) <= budget
        words = np.split(
            np.arange(1, length + 1), np.flatnonzero(collator.masking.starts_V[row["input_ids"][2:-1]]) + 1
        )
        left = [len(word) for word in words if not set(word) & set(index)]
        if masking == "whole_word" and left:
            assert len(index) == budget or len(index) + min(left) > budget


@pytest.mark.parametrize("replacement", ["80-10-10", "mask", "delete"])
@pytest.mark.parametrize("masking", MASKINGS)
def test_a_mask_depends_on_seed_and_place_alone(objective, masking, replacement):
    rows = rows_of([20, 31, 5, 20, 20, 9, 20, 40])
    config = objective(masking, replacement=replacement)
    together = MaskedLMCollator(TOKENIZER, config, seed=3)(rows)
    alone = [MaskedLMCollator(TOKENIZER, config, seed=3)([row]) for row in reversed(rows)]
    for i, batch in enumerate(reversed(alone)):
        length = batch["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][0], together["input_ids"][i, :length])
        asked = [labels[labels != IGNORE] for labels in (batch["labels"][0], together["labels"][i])]
        assert torch.equal(*asked)
    other = MaskedLMCollator(TOKENIZER, config, seed=4)(rows)
    assert not torch.equal(other["input_ids"], together["input_ids"])


@pytest.mark.parametrize(("masking", "workers"), [("span", 1), ("span", 2), ("pmi", 2)])
def test_workers_change_nothing(objective, masking, workers):
    rows = rows_of([20] * 12)
    collator = MaskedLMCollator(TOKENIZER, objective(masking), seed=3)
    here = [collator(rows[i : i + 4]) for i in (0, 4, 8)]
    for one, two in zip(here, DataLoader(rows, 4, collate_fn=collator, num_workers=workers)):
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("masking", MASKINGS)
def test_processes_change_nothing(objective, masking):
    """Each process collates its own part of every step, in batches of another size."""
    rows, sizes = rows_of([20] * 16), StepSizes(steps=2, batch_size=8)
    collator = MaskedLMCollator(TOKENIZER, objective(masking, mask_rate_end=0.4), seed=3, num_examples=16)

    def inputs(world_size: int, accumulation: int) -> dict[int, list[int]]:
        found = {}
        for rank in range(world_size):
            for places in MicroBatches(sizes, accumulation, world_size, rank):
                batch = collator([rows[place] for place in places])
                found.update(zip(places, batch["input_ids"].tolist()))
        return found

    assert len(inputs(1, 1)) == 16
    assert inputs(1, 1) == inputs(2, 1) == inputs(4, 2) == inputs(1, 4)


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
    changed = seen[(seen != TOKENIZER.mask_token_id) & (seen != labels)].numpy()
    assert not set(changed.tolist()) & set(TOKENIZER.all_special_ids)
    assert chisquare(np.bincount(changed, minlength=len(TOKENIZER))[WORDS]).pvalue > 1e-3
    always = MaskedLMCollator(TOKENIZER, ObjectiveConfig(replacement="mask"), seed=0)(rows)
    asked = always["labels"] != IGNORE
    assert (always["input_ids"].gather(1, always["label_index"])[asked] == TOKENIZER.mask_token_id).all()


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4), rate=st.sampled_from([0.15, 0.6]))
def test_delete_removes_exactly_the_budget_and_asks_for_everything(lengths, rate):
    rows = rows_of(lengths)
    batch = MaskedLMCollator(TOKENIZER, ObjectiveConfig(mask_rate=rate, replacement="delete"), seed=0)(rows)
    for i, (row, length) in enumerate(zip(rows, lengths)):
        left = batch["input_ids"][i][batch["attention_mask"][i] == 1].tolist()
        assert len(left) == length + 2 - max(round(rate * length), 1)
        assert left[0] == TOKENIZER.cls_token_id
        assert left[-1] == TOKENIZER.sep_token_id
        assert TOKENIZER.mask_token_id not in left
        rest = iter(row["input_ids"])
        assert all(token in rest for token in left), "what is left keeps its order"
        assert (batch["input_ids"][i, len(left) :] == TOKENIZER.pad_token_id).all()
        asked = batch["labels"][i] != IGNORE
        assert batch["label_index"][i][asked].tolist() == list(range(1, length + 1))
        assert batch["labels"][i][asked].tolist() == row["input_ids"][1:-1]


SMALL = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 42,
    "num_concepts": 4,
}


@pytest.mark.parametrize("decoder", ["query_position", "weighted"])
def test_a_model_learns_from_deleted_tokens(decoder):
    """The decoder answers for places that the encoder's shorter text does not have, and padding changes nothing."""
    torch.manual_seed(0)
    config = ConceptEncoderConfig(layer_types="read think", decoder=decoder, **SMALL)
    objective = ObjectiveConfig(mask_rate=0.6, replacement="delete")
    objective.check_model(config)
    model = ConceptEncoderForMaskedLM(config)
    rows = rows_of([40, 12])
    batch = MaskedLMCollator(TOKENIZER, objective, seed=0)(rows)
    model(**batch).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    one = MaskedLMCollator(TOKENIZER, objective, seed=0)(rows[1:])
    count = int((one["labels"] != IGNORE).sum())
    padded = {name: values[1:] for name, values in batch.items()}
    assert model(**padded).loss.item() == pytest.approx(model(**one).loss.item(), abs=1e-5)
    assert count == 12


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"decoder": "query_input"}, "decoder 'query_input' would start from"),
        ({"decoder": "token_stream", "layer_types": "read think write"}, "'token_stream' would start from"),
        ({"decoder": "query_position", "decoder_layer_types": "write mix"}, "'mix' in model.decoder_layer_types"),
    ],
)
def test_delete_refuses_decoders_that_read_the_tokens(fields, reason):
    config = ConceptEncoderConfig(**{"layer_types": "read think", **SMALL, **fields})
    ObjectiveConfig(replacement="mask").check_model(config)
    with pytest.raises(UserError, match=f"^objective.replacement: .*{reason}"):
        ObjectiveConfig(replacement="delete").check_model(config)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_follows_from_the_place_in_the_stream(schedule):
    config = ObjectiveConfig(mask_rate=0.3, mask_rate_end=0.15, mask_rate_schedule=schedule)
    rows = [{**row, PLACE: place} for row, place in zip(rows_of([100] * 5), (0, 25, 50, 75, 100))]
    collator = MaskedLMCollator(TOKENIZER, config, seed=0, num_examples=100)
    batch = collator(rows)
    counts = (batch["labels"] != IGNORE).sum(1)
    quarter = {"linear": 0.25, "cosine": (1 - np.cos(np.pi / 4)) / 2}[schedule]
    expected = [30, round(100 * (0.3 - 0.15 * quarter)), round(22.5), round(100 * (0.15 + 0.15 * quarter)), 15]
    assert counts.tolist() == expected
    assert batch["labels"].shape[1] == round(0.3 * 102)  # K is that of the largest rate throughout
    assert (collator([rows[3]])["labels"] != IGNORE).sum() == counts[3]


def test_held_out_rows_have_their_own_masking():
    trained = ObjectiveConfig("span", 0.4, mask_rate_end=0.2, eval_masking="token", eval_mask_rate=0.15)
    assert trained.for_evaluation() == ObjectiveConfig("token", 0.15)
    assert ObjectiveConfig("span", 0.4, mask_rate_end=0.2).for_evaluation() == ObjectiveConfig("span", 0.2)
    assert ObjectiveConfig(replacement="delete").asked_share == 1
    assert ObjectiveConfig(mask_rate=0.15, mask_rate_end=0.4).asked_share == 0.4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask_rate": 1.0}, "objective.mask_rate: 1.0 is not between 0 and 1"),
        ({"mask_rate_end": 0.0}, "objective.mask_rate_end: 0.0 is not between 0 and 1"),
        ({"eval_mask_rate": -0.1}, "objective.eval_mask_rate: -0.1 is not between 0 and 1"),
        ({"masking": "spam"}, "objective.masking: no masking is called 'spam'; did you mean 'span'"),
        ({"eval_masking": "spam"}, "objective.eval_masking: no masking is called 'spam'"),
        ({"replacement": "remove"}, "objective.replacement: no replacement is called 'remove'"),
        ({"masking": "pmi"}, "objective.ngrams: 'pmi' needs a file of n-grams; concept-encoder data pmi RECIPE makes"),
        ({"eval_masking": "pmi"}, "objective.ngrams: 'pmi' needs a file"),
        ({"masking": "pmi", "ngrams": "nowhere.npz"}, "objective.ngrams: there is no file nowhere.npz"),
        ({"ngrams": "nowhere.npz"}, "objective.ngrams: 'token' masking reads no n-grams"),
        ({"mask_rate_schedule": "step"}, "objective.mask_rate_schedule: 'step' is not one of linear, cosine"),
    ],
)
def test_bad_fields_are_answered_in_one_line(fields, message):
    with pytest.raises(UserError) as error:
        from_mapping(ObjectiveConfig, fields, "objective")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


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
