import sys
from types import SimpleNamespace

import numpy as np
import pytest

from concept_encoder.analysis.roles import selectivity, word_attention
from concept_encoder.analysis.words import tag_texts, words_of_tokens
from concept_encoder.data.conllu import tagged
from concept_encoder.errors import UserError


def test_tokens_belong_to_the_word_they_share_most_with():
    spans = [(0, 3), (4, 9), (9, 10)]
    offsets = [(0, 0), (0, 3), (3, 6), (6, 9), (9, 10), (0, 0)]
    assert words_of_tokens(offsets, spans) == [None, 0, 1, 1, 2, None]


def sentences_with_roles(weights: dict[tuple[int, str], float], sentences: int = 600, concepts: int = 6, seed: int = 0):
    """Attention in which concept c looks at class u `weight` times as much as at other words, with noise."""
    rng = np.random.default_rng(seed)
    tags = np.array(["NOUN"] * 3 + ["VERB"] * 2 + ["DET"] * 3 + ["ADJ"] * 2)
    parts, tag_X, sentence_X = [], [], []
    for sentence in range(sentences):
        rng.shuffle(tags)
        a_CW = rng.gamma(2.0, size=(concepts, len(tags)))
        for (concept, tag), weight in weights.items():
            a_CW[concept, tags == tag] *= weight
        parts.append(a_CW / a_CW.sum(1, keepdims=True))
        tag_X += tags.tolist()
        sentence_X += [sentence] * len(tags)
    return np.concatenate(parts, axis=1), np.array(tag_X), np.array(sentence_X)


def test_known_roles_are_recovered():
    a_CX, tag_X, sentence_X = sentences_with_roles({(1, "NOUN"): 4.0, (4, "DET"): 1.5}, sentences=4_000)
    # The concept whose attention is exactly proportional: its lift is known without noise.
    exact_W = np.where(tag_X == "VERB", 3.0, 1.0)
    a_CX[2] = exact_W / (3.0 * 2 + 8)
    report = selectivity(a_CX, tag_X, sentence_X)
    roles = {role["concept"]: role for role in report["roles"]}
    assert {concept: role["class"] for concept, role in roles.items()} == {1: "NOUN", 2: "VERB", 4: "DET"}
    assert roles[2]["lift"] == pytest.approx(30 / 14, rel=0.02)
    assert report["significant_pairs_shuffled"] <= 0.5
    assert report["selective_concepts"] == 3


def test_nothing_is_found_where_there_is_nothing():
    report = selectivity(*sentences_with_roles({}))
    assert report["significant_pairs"] <= 1
    assert np.nanmean(np.array(report["lift"])) == pytest.approx(1, abs=0.02)


def test_corrected_p_values_hold_under_the_null():
    found = [
        selectivity(*sentences_with_roles({}, sentences=100, seed=seed))["significant_pairs"] > 0 for seed in range(60)
    ]
    assert np.mean(found) < 0.15  # 0.05 expected; three standard errors of 60 trials above it


def test_few_sentences_are_answered_with_the_number_needed():
    report = selectivity(*sentences_with_roles({}, sentences=20))
    assert "at least 50 sentences" in report["notes"][0]
    assert "got 20 sentences" in report["notes"][0]
    assert "lift" not in report


def test_concepts_seen_in_few_sentences_are_not_judged():
    a_CX, tag_X, sentence_X = sentences_with_roles({(3, "NOUN"): 9.0})
    a_CX[3, sentence_X >= 10] = 0
    report = selectivity(a_CX, tag_X, sentence_X)
    assert 3 not in [role["concept"] for role in report["roles"]]
    assert report["lift"][3] == [None] * 4
    assert "1 concepts attend to words in fewer than 50" in " ".join(report["notes"])


def test_words_cut_into_tokens_are_not_favoured(scripted):
    import torch

    def script(input_ids, attention_mask):
        a_BN = attention_mask / attention_mask.sum(1, keepdim=True)
        return torch.ones(len(input_ids), 2, 8), a_BN[:, None, None].expand(-1, 1, 2, -1)

    sentences = [tagged(["the", "zzgghh", "cat"], ["DET", "X", "NOUN"])] * 3
    a_CX, tag_X, sentence_X = word_attention(scripted(script), sentences)
    np.testing.assert_allclose(a_CX, 1 / 3, rtol=1e-6)
    assert tag_X.tolist() == ["DET", "X", "NOUN"] * 3
    assert sorted(set(sentence_X.tolist())) == [0, 1, 2]


def rules(folder, *pipes: str) -> str:
    """A blank English pipeline of spaCy's own rule-based parts: no trained model is on the package index."""
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    for pipe in pipes:
        pipeline.add_pipe(pipe)
    if "attribute_ruler" in pipes:
        for tag, words in (("DET", ["the"]), ("NOUN", ["cats", "dog"]), ("PUNCT", ["."])):
            pipeline.get_pipe("attribute_ruler").add([[{"LOWER": {"IN": words}}]], {"POS": tag})
    pipeline.to_disk(folder)
    return str(folder)


def test_a_spacy_pipeline_tags_texts(tmp_path):
    """Real spaCy with rules in the place of a trained tagger: sentences apart and as written, spaces left out."""
    pipeline = rules(tmp_path, "sentencizer", "attribute_ruler")
    sentences = tag_texts(["Cats  sleep. The dog.", "the\n", " "], pipeline)
    assert [s.text.strip() for s in sentences] == ["Cats  sleep.", "The dog.", "the"]
    words = [[s.text[start:end] for start, end in s.spans] for s in sentences]
    assert words == [["Cats", "sleep", "."], ["The", "dog", "."], ["the"]]
    assert [s.tags for s in sentences] == [["NOUN", "X", "PUNCT"], ["DET", "NOUN", "PUNCT"], ["DET"]]


@pytest.mark.parametrize(("pipes", "lack"), [(["attribute_ruler"], "sentences"), (["sentencizer"], "word classes")])
def test_a_spacy_pipeline_that_cannot_tag_is_refused(tmp_path, pipes, lack):
    with pytest.raises(UserError, match=f"marks no {lack}"):
        tag_texts(["The dog sleeps."], rules(tmp_path, *pipes))


def test_spacy_that_is_not_there(monkeypatch, tmp_path):
    spacy = SimpleNamespace(load=lambda name: (_ for _ in ()).throw(OSError("no such pipeline")))
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    with pytest.raises(UserError, match="no spaCy pipeline 'xx'; python -m spacy download xx"):
        tag_texts(["x"], "xx")
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match=r"pip install"):
        tag_texts(["x"], "any")
