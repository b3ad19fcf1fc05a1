"""Frozen states: what they are, what a linear probe finds in them, and that the controls take it away."""

import numpy as np
import pytest
import torch
from cases import SMALL
from transformers import BertConfig, BertModel

from concept_encoder.data.tasks.load import Examples, TaskData
from concept_encoder.data.tasks.tagging import TaggedExamples
from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.evaluation.probes.frozen import embed
from concept_encoder.evaluation.probes.linear import Frozen, linear_probe, similarity, word_overlap
from concept_encoder.model import ConceptEncoderModel, preset_config
from concept_encoder.model.loading import load_encoder

ANIMALS, TOOLS = ("cat", "dog", "cow", "hen", "fox"), ("saw", "axe", "file", "drill", "nail")
TEXTS = [f"the {a} and a {b}" for words in (ANIMALS, TOOLS) for a in words for b in words]
LABELS = [0] * 25 + [1] * 25


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([*TEXTS, "some more words"] * 3, "wordpiece", 200)


def ours(preset, **fields):
    torch.manual_seed(0)
    return ConceptEncoderModel(preset_config(preset, 4, **{**SMALL, "initializer_range": 0.2, **fields})).eval()


def foreign():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    return BertModel(BertConfig(vocab_size=320, max_position_embeddings=48, **sizes)).eval()


def task(texts, labels, kind="classification", metrics=("accuracy",), pairs=None, held_out=None):
    train = Examples(texts, pairs, labels)
    return TaskData("toy", kind, metrics, train, held_out or train, ["animal", "tool"], 0)


def test_states_are_the_means_of_what_the_model_says(tokenizer):
    model, texts = ours("woven"), ["the cat", "the dog and a fox", "the cat", "a saw"]
    found = embed(model, tokenizer, texts)
    assert set(found) == {"concepts", "decoded", "tokens"}
    np.testing.assert_array_equal(found["concepts"][0], found["concepts"][2])
    for i, text in enumerate(texts):
        with torch.no_grad():
            output = model(**tokenizer(text, return_tensors="pt"))
        np.testing.assert_allclose(found["concepts"][i], output.concepts[0].mean(0), atol=1e-5)
        np.testing.assert_allclose(found["tokens"][i], output.tokens[0].mean(0), atol=1e-4)
    assert set(embed(ours("bert"), tokenizer, texts)) == {"decoded"}
    stranger = foreign()
    (states,) = embed(stranger, tokenizer, texts).values()
    with torch.no_grad():
        alone = stranger(**tokenizer(texts[1], return_tensors="pt")).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(states[1], alone, atol=1e-5)


def test_a_linear_probe_finds_words_and_loses_them_with_the_concepts(tokenizer):
    """Strict: what is decoded comes from the concepts alone, so that taking them away leaves the commonest class."""
    order = np.random.default_rng(0).permutation(50)
    texts, labels = [TEXTS[i] for i in order], [LABELS[i] for i in order]
    found = linear_probe(task(texts, labels), Frozen(ours("anchored", concept_ratio=2), tokenizer))
    for kind in ("concepts", "decoded"):
        assert found[kind]["accuracy"] > 0.95
        assert found[kind]["zeroed"]["accuracy"] == 0.5
        assert 0.25 < found[kind]["shuffled"]["accuracy"] < 0.75
    assert found["tokens"]["zeroed"] == {"accuracy": found["tokens"]["accuracy"]}, "tokens hear no concepts here"
    (stranger,) = linear_probe(task(texts, labels), Frozen(foreign(), tokenizer)).values()
    assert stranger == {"accuracy": 1.0}, "no concepts, no controls"


def test_pairs_and_numbers(tokenizer):
    same = [0, 1] * 25
    pairs = [text if alike else TEXTS[-i] for i, (text, alike) in enumerate(zip(TEXTS, same), start=1)]
    encoder = Frozen(foreign(), tokenizer)
    assert linear_probe(task(TEXTS, same, pairs=pairs), encoder)["tokens"]["accuracy"] > 0.95
    tools = [float(sum(word in TOOLS for word in text.split())) for text in TEXTS]
    found = linear_probe(task(TEXTS, tools, "regression", ("pearson",)), encoder)
    assert found["tokens"]["pearson"] > 0.95


def test_cosine_of_texts_beside_shared_words(tokenizer):
    texts = ["the cat and a dog", "the saw and a file", "a cow", "the hen and a fox"]
    pairs = ["the cat and a dog", "the axe and a file", "the drill and the nail", "the hen and a dog"]
    labels = [5.0, 4.0, 0.0, 3.0]
    data = task(texts, labels, "regression", ("pearson", "spearman"), pairs)
    model = foreign()
    found = similarity(data, Frozen(model, tokenizer))["tokens"]
    cosines = []
    for pair in zip(texts, pairs):
        with torch.no_grad():
            u, v = (model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in pair)
        cosines.append(float(torch.cosine_similarity(u, v, dim=0)))
    assert found["pearson"] == pytest.approx(np.corrcoef(cosines, labels)[0, 1], abs=1e-4)
    assert word_overlap(data)["pearson"] > 0.8
    controls = similarity(data, Frozen(ours("woven"), tokenizer))["decoded"]
    assert {"shuffled", "zeroed"} < set(controls)
    assert similarity(data, Frozen(ours("anchored"), tokenizer))["concepts"]["zeroed"] == dict.fromkeys(
        ("pearson", "spearman")
    ), "all the same: no correlation, and no crash"


def test_mistakes(tokenizer, tmp_path):
    encoder = Frozen(foreign(), tokenizer)
    with pytest.raises(UserError, match="toy: not a task on how alike two texts are"):
        similarity(task(TEXTS, LABELS), encoder)
    tagged = TaggedExamples([["a", "cat"]], [[0, 1]])
    with pytest.raises(UserError, match="toy: has a tag for every word"):
        linear_probe(TaskData("toy", "token_classification", ("accuracy",), tagged, tagged, ["x", "y"], 0), encoder)
    with pytest.raises(UserError, match="max_length: 49 is more than the model's 48"):
        embed(foreign(), tokenizer, TEXTS, max_length=49)
    with pytest.raises(UserError, match="BertModel has none to be zeroed"):
        embed(foreign(), tokenizer, TEXTS, control="zeroed")
    broken = foreign()
    torch.nn.init.constant_(broken.embeddings.LayerNorm.bias, float("nan"))
    with pytest.raises(UserError, match="not finite; has training diverged"):
        embed(broken, tokenizer, TEXTS)
    foreign().save_pretrained(tmp_path / "bert")
    assert isinstance(load_encoder(tmp_path / "bert"), BertModel)
    ours("woven").save_pretrained(tmp_path / "woven")
    assert isinstance(load_encoder(tmp_path / "woven"), ConceptEncoderModel)
