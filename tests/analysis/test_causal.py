from types import SimpleNamespace

import pytest
import torch

from concept_encoder.analysis import causal
from concept_encoder.analysis.subject import Subject, load_subject, tokenize
from concept_encoder.model import (
    ConceptEncoderForSequenceClassification,
    ConceptEncoderForTokenClassification,
    preset_config,
)
from concept_encoder.model.streams import Streams


class Counting(torch.nn.Module):
    """Text t has concepts z[t, c] = t + 1 in all dimensions; the loss is the squared error of concept 0's
    first one.
    """

    def __init__(self, mask_BC=None):
        super().__init__()
        self.config = SimpleNamespace(concept_source="learned", layer_types=["read"])
        self.mask_BC, self.encoded = mask_BC, 0

    @property
    def base_model(self):
        return self

    def encode(self, input_ids, intervention=None):
        self.encoded += 1
        z_BCD = input_ids[:, :1, None].float().expand(-1, 3, 4)
        return Streams(z_BCD, None, None, z_BCD=z_BCD, z_mask_BC=self.mask_BC, intervention=intervention)

    def forward(self, input_ids, labels, concept_intervention=None):
        truth_B, z_BCD = input_ids[:, 0].float(), self.encode(input_ids, intervention=concept_intervention).heard_BCD
        return SimpleNamespace(loss=(z_BCD[:, 0, 0] - truth_B).square().mean())


def small_config(preset, **fields):
    sizes = {"vocab_size": 320, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    return preset_config(preset, 2, num_concepts=6, max_position_embeddings=32, **sizes, **fields)


def batch_of(*numbers: int) -> dict:
    ids = torch.tensor(numbers)[:, None]
    return {"input_ids": ids, "labels": ids}


def test_added_loss_is_what_the_formula_says():
    subject = Subject("counting", Counting(), tokenizer=None)
    report = causal.dependence(subject, [batch_of(1, 2, 3, 4)])
    assert report["base_loss"] == 0
    assert report["all"]["zero"]["added"] == pytest.approx((1 + 4 + 9 + 16) / 4)
    assert report["all"]["shuffle"]["added"] == pytest.approx((9 + 1 + 1 + 1) / 4)
    assert report["all"]["mean"]["added"] == pytest.approx(1.25)
    assert report["each"]["zero"] == pytest.approx([7.5, 0, 0])
    assert report["most_missed"][0] == 0
    assert subject.model.encoded == 1
    subject.model.encode(torch.ones(1, 1))
    assert subject.model.encoded == 2


def test_batches_count_by_their_labels():
    subject = Subject("counting", Counting(), tokenizer=None)
    report = causal.dependence(subject, [batch_of(1, 1, 1), batch_of(4)], each_labels=0)
    assert report["all"]["zero"]["added"] == pytest.approx((1 + 1 + 1 + 16) / 4)
    assert report["all"]["zero"]["standard_error"] > 0
    assert "each" not in report


def test_no_text_is_left_alone_in_a_batch(checkpoints, texts):
    """It would have nobody to exchange its concepts with, and the loss added by shuffling would come out too small."""
    subject = load_subject(checkpoints["learned"])
    made = causal.masked_batches(subject, tokenize(subject, texts(17)), batch_size=16)
    assert [len(batch["input_ids"]) for batch in made] == [9, 8]


def test_only_concepts_that_exist_are_shuffled_and_averaged():
    mask_BC = torch.tensor([[True, True, False], [True, False, False]])
    z_BCD = torch.arange(6.0).reshape(2, 3, 1)
    swapped = causal.shuffled(torch.ones(3, dtype=torch.bool))(z_BCD, mask_BC)
    assert swapped.flatten().tolist() == [3, 0, 2, 0, 4, 5]  # concept 1 exists once: nothing to swap with, so zeroed
    pairs = causal.shuffled(torch.ones(3, dtype=torch.bool), apart=2)(z_BCD, mask_BC)
    assert pairs.flatten().tolist() == [0, 0, 2, 0, 4, 5]  # one pair: a text gets not even its partner's
    some_BC = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1]], dtype=torch.bool)
    pairs = causal.shuffled(torch.ones(3, dtype=torch.bool), apart=2)(torch.arange(12.0).reshape(4, 3, 1), some_BC)
    assert pairs.squeeze(2).tolist() == [[6, 0, 0], [9, 0, 5], [0, 7, 0], [3, 0, 0]]  # three: one would be a partner's
    report = causal.dependence(Subject("counting", Counting(mask_BC), tokenizer=None), [batch_of(1, 3)])
    assert report["each"]["mean"][2] is None


def test_masked_batches_are_deterministic_and_ask_for_the_hidden_tokens(checkpoints, texts):
    subject = load_subject(checkpoints["learned"])
    first, second = (
        causal.masked_batches(subject, tokenize(subject, texts(10)), rate=0.3, batch_size=4) for _ in range(2)
    )
    for one, two in zip(first, second):
        assert all(torch.equal(one[name], two[name]) for name in one)
        asked = one["labels"] != -100
        assert (one["input_ids"][asked] == subject.tokenizer.mask_token_id).all()
        assert asked.any(1).all()
        assert not (one["input_ids"] == subject.tokenizer.mask_token_id)[~asked].any()


@pytest.mark.parametrize("name", ["learned", "anchored"])
def test_the_real_models_take_interventions(checkpoints, texts, name):
    subject = load_subject(checkpoints[name])
    made = causal.masked_batches(subject, tokenize(subject, texts(12)), batch_size=6)
    report = causal.dependence(subject, made)
    assert report["base_loss"] > 0
    assert report["all"]["zero"]["added"] != 0
    assert len(report["each"]["shuffle"]) >= 6
    with torch.inference_mode():  # encoding once gives what encoding each time gives
        change = causal.zeroed(torch.ones(64, dtype=torch.bool))
        again = [float(subject.model(**batch, concept_intervention=change).loss) for batch in made]
    asked = [int((batch["labels"] != -100).sum()) for batch in made]
    expected = sum(loss * count for loss, count in zip(again, asked)) / sum(asked)
    assert report["base_loss"] + report["all"]["zero"]["added"] == pytest.approx(expected, abs=1e-4)


def save(folder, model_class, tokenizer, **fields):
    torch.manual_seed(0)
    model_class(small_config("perceiver_mlm", num_labels=2, **fields)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_subject(folder)


def test_labels_stay_with_their_texts(checkpoints, texts):
    subject, some = load_subject(checkpoints["classifier"]), texts(10)
    labels = [len(text) % 2 for text in some]
    tokenized = tokenize(subject, some)
    for batch in causal.labelled_batches(subject, tokenized, labels, batch_size=4):
        for ids, mask, label in zip(batch["input_ids"], batch["attention_mask"], batch["labels"]):
            row = tokenized.ids.index(ids[mask.bool()].tolist())
            assert labels[row] == label
    made = causal.labelled_batches(subject, tokenized, labels, batch_size=5)
    assert causal.dependence(subject, made, each_labels=0)["labels"] == 10


def test_the_texts_of_a_pair_are_encoded_apart_and_shuffled_with_other_pairs(tokenizer, texts, tmp_path):
    subject = save(tmp_path, ConceptEncoderForSequenceClassification, tokenizer, classifier_head="pair")
    some = texts(16)
    made = causal.labelled_batches(subject, tokenize(subject, some), [0, 1] * 4, batch_size=4)
    assert [batch["input_ids"].shape[:2] for batch in made] == [(4, 2), (4, 2)]
    report = causal.dependence(subject, made, each_labels=0)
    with torch.inference_mode():
        swap = causal.shuffled(torch.ones(64, dtype=torch.bool), apart=2)
        losses = [
            [float(subject.model(**batch, concept_intervention=change).loss) for batch in made]
            for change in (None, swap)
        ]
    assert report["base_loss"] == pytest.approx(sum(losses[0]) / 2, abs=1e-5)
    assert report["all"]["shuffle"]["added"] == pytest.approx((sum(losses[1]) - sum(losses[0])) / 2, abs=1e-5)


def test_the_first_token_of_a_word_asks_for_its_tag(tokenizer, tmp_path):
    subject = save(tmp_path, ConceptEncoderForTokenClassification, tokenizer)
    words, tags = [["the", "catdog", "sat"], ["bird"]], [[0, 1, 0], [1]]
    tokenized = tokenize(subject, [" ".join(sentence) for sentence in words])
    (batch,) = causal.tagged_batches(subject, tokenized, words, tags)
    asked = batch["labels"] != -100
    assert asked.sum(1).tolist() == [3, 1]
    letters = [tokenized.pieces(0)[place] for place in torch.nonzero(asked[0]).flatten()]
    assert all(word.startswith(piece) for word, piece in zip(words[0], letters))
    assert batch["labels"][asked].tolist() == [0, 1, 0, 1]
    assert causal.dependence(subject, [batch], each_labels=0)["labels"] == 4
