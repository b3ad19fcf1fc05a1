"""Pseudo-log-likelihoods against the naive sum, what they may not depend on, and pairs whose answer is known."""

import numpy as np
import pytest
import torch
from cases import SMALL, small
from transformers import BertConfig, BertForMaskedLM, BertModel

from concept_encoder.data.tasks.minimal_pairs import Pair, read_minimal_pairs
from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.evaluation.probes.minimal_pairs import score_minimal_pairs
from concept_encoder.evaluation.probes.perplexity import pseudo_perplexity
from concept_encoder.evaluation.probes.pseudo_likelihood import pseudo_log_likelihoods
from concept_encoder.model import ConceptEncoderForMaskedLM, preset_config
from concept_encoder.model.loading import load_masked_lm

TEXTS = ["the dog sees a cat", "cats see dogs", "a dog sleeps", "cats", "[SEP] cat [MASK] and sleeps", "a dog sleeps"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 5, "wordpiece", 200)


def build(config):
    """Weights ten times the usual: at 0.02 every token is nearly as likely as any other."""
    torch.manual_seed(0)
    return ConceptEncoderForMaskedLM(type(config)(**{**config.to_diff_dict(), "initializer_range": 0.2})).eval()


def foreign():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertForMaskedLM(
        BertConfig(vocab_size=320, max_position_embeddings=48, initializer_range=0.2, **sizes)
    ).eval()


def naive(model, tokenizer, text):
    """The definition, one pass a token, nothing batched."""
    ids = tokenizer(text, return_tensors="pt", split_special_tokens=True)["input_ids"]
    total = 0.0
    for place in range(1, ids.shape[1] - 1):  # [CLS] and [SEP] stay
        hidden = ids.clone()
        hidden[0, place] = tokenizer.mask_token_id
        with torch.no_grad():
            total += float(model(input_ids=hidden).logits[0, place].double().log_softmax(-1)[ids[0, place]])
    return total


MODELS = {
    "bert": preset_config("bert", 2, **SMALL),
    "woven": preset_config("woven", 2, **SMALL),
    "perceiver_mlm": preset_config("perceiver_mlm", 2, **SMALL, num_concepts=6),
    "funnel": preset_config("funnel", 6, **SMALL),
    "anchored, mask-free": small(
        layer_types="mix_local read think", concept_source="anchored", decoder="upsample", mask_free=True
    ),
}


@pytest.mark.parametrize(
    ("name", "tokens_at_once"), [*((name, 4096) for name in [*MODELS, "foreign"]), ("woven", 8), ("foreign", 8)]
)
def test_it_is_the_sum_over_tokens_whatever_stands_beside(tokenizer, name, tokens_at_once):
    model = foreign() if name == "foreign" else build(MODELS[name])
    found = pseudo_log_likelihoods(model, tokenizer, TEXTS, tokens_at_once=tokens_at_once)
    logs = [each.log for each in found]
    np.testing.assert_allclose(logs, [naive(model, tokenizer, text) for text in TEXTS], atol=2e-4, rtol=1e-5)
    assert len(set(np.round(logs, 3))) == len(TEXTS) - 1
    assert logs[2] == logs[-1], "equal texts, equal numbers"


def test_special_tokens_are_never_asked(tokenizer):
    (found,) = pseudo_log_likelihoods(foreign(), tokenizer, ["the cat [MASK]"])
    pieces = tokenizer("the cat [MASK]", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert list(found.ids) == pieces
    (nothing,) = pseudo_log_likelihoods(foreign(), tokenizer, [""])
    assert (nothing.log, nothing.tokens) == (0.0, 0)


class Knowing(torch.nn.Module):
    """A masked language model that prefers some words, wherever they stand."""

    def __init__(self, tokenizer, likely):
        super().__init__()
        self.config, self.device = BertConfig(), torch.device("cpu")
        self.logits_V = torch.zeros(len(tokenizer))
        for word, logit in likely.items():
            self.logits_V[tokenizer.convert_tokens_to_ids(word)] = logit

    def forward(self, input_ids, attention_mask):
        return type("Output", (), {"logits": self.logits_V.expand(*input_ids.shape, -1)})


def test_known_answers_and_a_tie_is_wrong(tokenizer):
    model = Knowing(tokenizer, {"cat": 2.0, "dog": 1.0})
    right, wrong = Pair("the cat sees", "the dog sees"), Pair("a dog", "a cat")
    order = [Pair("the cat sees the dog and cats", "dog the cats and sees the cat")] * 2  # a bag of words cannot tell
    found = score_minimal_pairs(model, tokenizer, {"a": [right, right, right, wrong], "b": [right], "order": order})
    assert {name: each["accuracy"] for name, each in found["paradigms"].items()} == {"a": 0.75, "b": 1.0, "order": 0.0}
    assert found["paradigms"]["order"]["ties"] == found["ties"] == 2
    assert found["accuracy"] == pytest.approx(1.75 / 3)  # of paradigms, not of pairs
    assert found["paradigms"]["a"]["standard_error"] == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert found["standard_error"] == pytest.approx((0.75 * 0.25 / 4) ** 0.5 / 3)
    assert found["chance"] == 0.5
    assert "shuffled" not in found, "there are no concepts to take away"


def test_same_sentences_are_a_tie_for_every_model(tokenizer):
    pairs = [Pair(text, text.upper()) for text in TEXTS]  # the tokenizer reads lower case
    assert score_minimal_pairs(build(MODELS["woven"]), tokenizer, {"x": pairs})["accuracy"] == 0


def test_what_cannot_be_shuffled_is_left_out(tokenizer):
    found = score_minimal_pairs(build(MODELS["woven"]), tokenizer, {"x": [Pair("a cat", "A cat"), Pair("a CAT", "")]})
    assert found["accuracy"] == 0, "a tie, and an empty sentence is most likely of all"
    assert "zeroed" in found
    assert "shuffled" not in found, "to the tokenizer there is one text"
    long = score_minimal_pairs(foreign(), tokenizer, {"x": [Pair("a cat " * 40, "a dog")]})
    assert long["cut"] == 1


def test_a_strict_model_without_concepts_knows_no_words(tokenizer):
    """Zeroed, a decoder of positions says the same of every text; shuffled, it speaks of another text."""
    model = build(preset_config("anchored", 4, **SMALL, concept_ratio=4))
    texts = ["the cat sees", "the dog sees", "dogs see cats"]
    of = {control: pseudo_log_likelihoods(model, tokenizer, texts, control=control) for control in (None, "zeroed")}
    assert len({round(each.log, 3) for each in of[None]}) == 3
    with torch.no_grad():
        hidden = torch.full((1, 5), tokenizer.mask_token_id)
        empty = model(hidden, concept_intervention=lambda z_BCD, mask_BC: z_BCD * 0).logits[0].log_softmax(-1)
    for text, each in zip(texts, of["zeroed"]):
        expected = sum(float(empty[i + 1, id]) for i, id in enumerate(each.ids))
        assert each.log == pytest.approx(expected, abs=1e-4), text
    # two texts of one length: each hears the other's concepts, never its own
    pair = ["the cat sees", "dogs see cats"]
    swapped = pseudo_log_likelihoods(model, tokenizer, pair, control="shuffled", tokens_at_once=10)
    ids = tokenizer(pair, return_tensors="pt")["input_ids"]
    for one, other in ((0, 1), (1, 0)):
        total = 0.0
        for place in (1, 2, 3):
            hidden = ids.clone()
            hidden[:, place] = tokenizer.mask_token_id
            with torch.no_grad():
                z_BCD = model.model.encode(hidden[[other]]).z_BCD
                logits = model(hidden[[one]], concept_intervention=lambda *_, z_BCD=z_BCD: z_BCD).logits
            total += float(logits[0, place].log_softmax(-1)[ids[one, place]])
        assert swapped[one].log == pytest.approx(total, abs=1e-4)


def test_perplexity_of_a_model_that_knows_frequencies(tokenizer):
    """One that answers with the frequencies of the very texts is as good as guessing by frequency, in every unit."""
    texts = ["the cat sees the dog", "the dog sees a cat", "a dog sees the cat"]
    ids = [id for text in texts for id in tokenizer(text, add_special_tokens=False)["input_ids"]]
    counts = {word: np.log(ids.count(tokenizer.convert_tokens_to_ids(word))) for word in set(" ".join(texts).split())}
    model = Knowing(tokenizer, counts)
    model.logits_V[[i for i in range(len(tokenizer)) if i not in ids]] = -1e9
    found = pseudo_perplexity(model, tokenizer, texts)
    for unit in ("per_token", "per_word", "bits_per_byte"):
        assert found[unit] == pytest.approx(found["unigram"][unit])
    assert found["per_token"] == pytest.approx(found["per_word"]), "here a word is a token"
    bytes_a_word = sum(map(len, texts)) / len(ids)
    assert found["bits_per_byte"] == pytest.approx(np.log2(found["per_word"]) / bytes_a_word)
    cut = pseudo_perplexity(model, tokenizer, texts, max_length=4)
    assert (cut["cut"], cut["tokens"]) == (3, 6)


def test_controls_stand_beside(tokenizer):
    model = build(MODELS["anchored, mask-free"])
    found = score_minimal_pairs(model, tokenizer, {"x": [Pair(*TEXTS[:2]), Pair(*TEXTS[2:4])]})
    assert 0 <= found["shuffled"]["accuracy"] <= 1
    assert 0 <= found["zeroed"]["accuracy"] <= 1
    assert set(pseudo_perplexity(model, tokenizer, TEXTS)) > {"shuffled", "zeroed", "unigram"}
    assert "shuffled" not in pseudo_perplexity(model, tokenizer, TEXTS[:1])


def test_mistakes(tokenizer):
    with pytest.raises(UserError, match="BertForMaskedLM has none to be zeroed"):
        pseudo_log_likelihoods(foreign(), tokenizer, TEXTS, control="zeroed")
    with pytest.raises(UserError, match="max_length: 49 is more than the model's 48"):
        pseudo_log_likelihoods(foreign(), tokenizer, TEXTS, max_length=49)
    broken = foreign()
    torch.nn.init.constant_(broken.cls.predictions.bias, float("nan"))
    with pytest.raises(UserError, match="is nan; has training diverged"):
        pseudo_log_likelihoods(broken, tokenizer, TEXTS)
    with pytest.raises(UserError, match="hold no token"):
        pseudo_perplexity(foreign(), tokenizer, [""])


def test_pairs_of_the_hub_and_of_files(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("island", "agreement"):
        rows = {"sentence_good": [f"{name} {i} good" for i in range(9)], "sentence_bad": [f"{i} bad" for i in range(9)]}
        folder = tmp_path / "hub" / "nyu-mll" / "blimp" / name
        folder.mkdir(parents=True)
        pq.write_table(pa.table({**rows, "UID": [name] * 9}), folder / "train-00000-of-00001.parquet")
    monkeypatch.setenv("CONCEPT_ENCODER_DATA_ROOT", str(tmp_path / "hub"))
    found = read_minimal_pairs()
    assert list(found) == ["agreement", "island"]
    assert found["island"][3] == Pair("island 3 good", "3 bad")
    few = read_minimal_pairs(limit=2)["island"]
    assert len(few) == 2
    assert set(few) < set(found["island"])
    own = tmp_path / "own.csv"
    own.write_text("sentence_good,sentence_bad\na,b\n")
    assert read_minimal_pairs(str(own)) == {"own": [Pair("a", "b")]}
    own.write_text("good,bad\na,b\n")
    with pytest.raises(UserError, match="no column 'sentence_good'; columns: good, bad"):
        read_minimal_pairs(str(own))
    own.write_text("sentence_good,sentence_bad\na,\n")
    with pytest.raises(UserError, match=r"own.csv:2: column 'sentence_bad' holds '', expected a sentence"):
        read_minimal_pairs(str(own))
    with pytest.raises(UserError, match=r"nowhere.csv: no such file or folder"):
        read_minimal_pairs("nowhere.csv")


def test_a_foreign_checkpoint_is_loaded_with_its_head_or_refused(tmp_path):
    model = foreign()
    model.save_pretrained(tmp_path / "head")
    loaded = load_masked_lm(tmp_path / "head")
    ids = torch.randint(5, 100, (2, 7))
    torch.testing.assert_close(loaded.eval()(ids).logits, model(ids).logits)
    BertModel(model.config).save_pretrained(tmp_path / "body")
    with pytest.raises(ValueError, match="has no masked-LM head"):
        load_masked_lm(tmp_path / "body")
    (tmp_path / "head" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not readable as a configuration"):
        load_masked_lm(tmp_path / "head")
