import dataclasses
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concept_encoder.data import cache, packing, shards
from concept_encoder.data.corpus import DataConfig
from concept_encoder.data.encoding import PIECE_CHARACTERS, encode_documents, plain_tokenizer
from concept_encoder.data.packing import prepare
from concept_encoder.data.split import is_held_out
from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import UserError

CLS, SEP = 2, 3


@pytest.fixture
def config(tmp_path):
    """Packs in a folder of its own: a small vocabulary, short rows."""
    return DataConfig(
        corpus="unused",
        vocab_size=200,
        sequence_length=16,
        packing="full",
        validation_fraction=0.2,
        cache_dir=tmp_path / "cache",
    )


def streams(corpus):
    """All tokens of both sides, rows joined without their [CLS]."""
    return [side[:]["input_ids"][:, 1:].reshape(-1).tolist() for side in (corpus.train, corpus.validation)]


def expected_stream(tokenizer, documents):
    ids = encode_documents(plain_tokenizer(tokenizer), documents)
    return [token for document in ids if len(document) for token in [*document.tolist(), SEP]]


def test_rows_hold_the_documents_in_order(config, sentences):
    corpus = prepare(config, sentences, progress=False)
    sides = [], []
    for text in sentences:
        sides[is_held_out(text, config.validation_fraction)].append(text)
    for stream, documents in zip(streams(corpus), sides):
        expected = expected_stream(corpus.tokenizer, documents)
        assert stream == expected[: len(stream)]
        assert 0 <= len(expected) - len(stream) < config.sequence_length - 1
    assert corpus.validation_texts == sides[1]
    assert corpus.statistics.documents == len(sides[0])
    assert corpus.statistics.unk_share == 0.0


def test_rows_are_numpy_and_start_with_cls(config, sentences):
    corpus = prepare(config, sentences, progress=False)
    for side in (corpus.train, corpus.validation):
        batch = side[[0, len(side) - 1]]["input_ids"]
        assert isinstance(batch, np.ndarray)
        assert batch.shape == (2, config.sequence_length)
        assert (batch[:, 0] == CLS).all()
        assert (side[:]["input_ids"][:, 1:] != CLS).all()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(st.text(alphabet="ab c\n[]MASKé", max_size=60), min_size=1, max_size=30))
def test_no_token_is_lost_but_the_tail(config, sentences, tmp_path_factory, documents):
    documents = sentences[:40] + documents  # enough for a row on both sides
    fresh = dataclasses.replace(config, cache_dir=tmp_path_factory.mktemp("cache"), sequence_length=8)
    corpus = prepare(fresh, documents, progress=False)
    kept = [text for text in documents if text and not text.isspace()]
    for held_out, stream in enumerate(streams(corpus)):
        side = [text for text in kept if is_held_out(text, 0.2) == bool(held_out)]
        expected = expected_stream(corpus.tokenizer, side)
        assert stream == expected[: len(stream)]
        assert len(expected) - len(stream) < 7


def test_unigram_counts_are_those_of_the_training_tokens(config, sentences):
    corpus = prepare(config, sentences, progress=False)
    assert corpus.unigram_counts.shape == (len(corpus.tokenizer),)
    assert corpus.unigram_counts.sum() == corpus.statistics.tokens
    assert corpus.unigram_counts[[0, CLS, SEP, 4]].sum() == 0
    the = corpus.tokenizer.convert_tokens_to_ids("the")
    train = [text for text in sentences if not is_held_out(text, 0.2)]
    assert corpus.unigram_counts[the] == sum(text.rstrip(".").split().count("the") for text in train)


def test_special_tokens_written_in_a_text_are_plain_text(config, sentences):
    corpus = prepare(config, [*sentences, "a [MASK] and [SEP] and [PAD] " * 20], progress=False)
    assert corpus.unigram_counts[[0, CLS, SEP, 4]].sum() == 0


def test_the_second_call_loads_the_first(config, sentences, monkeypatch):
    first = prepare(config, sentences, progress=False)
    monkeypatch.setattr(packing, "pack", lambda *_: pytest.fail("packed again"))
    monkeypatch.setattr(packing, "train_tokenizer", lambda *_: pytest.fail("trained again"))
    second = prepare(config, iter(sentences), progress=False)
    assert second.folder == first.folder
    assert streams(second) == streams(first)
    assert second.statistics == first.statistics
    assert (second.unigram_counts == first.unigram_counts).all()


@pytest.mark.parametrize("change", [{"sequence_length": 32}, {"vocab_size": 80}, {"validation_fraction": 0.3}])
def test_other_settings_are_another_entry(config, sentences, change):
    first = prepare(config, sentences, progress=False)
    assert prepare(dataclasses.replace(config, **change), sentences, progress=False).folder != first.folder


def test_the_split_does_not_depend_on_order(config, sentences):
    shuffled = random.Random(1).sample(sentences, len(sentences))
    first, second = (prepare(config, texts, progress=False) for texts in (sentences, shuffled))
    assert sorted(first.validation_texts) == sorted(second.validation_texts)


def test_a_failure_leaves_no_half_entry(config, sentences, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(shards.np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(config, sentences, progress=False)
    assert [path.name for path in (config.cache_dir / "corpora").iterdir() if path.is_dir()] == []
    monkeypatch.undo()
    assert len(prepare(config, sentences, progress=False).train) > 0


def test_another_process_may_finish_first(tmp_path):
    def build(folder: Path) -> None:
        (folder / "mine").touch()
        (tmp_path / "entry").mkdir()
        (tmp_path / "entry" / "theirs").touch()

    folder = cache.build_once(tmp_path / "entry", build)
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path):
    old, new = tmp_path / "building-old", tmp_path / "building-new"
    old.mkdir()
    new.mkdir()
    os.utime(old, (0, 0))
    cache.build_once(tmp_path / "entry", lambda folder: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["building-new", "entry"]


def test_a_damaged_entry_is_named(config, sentences):
    corpus = prepare(config, sentences, progress=False)
    (corpus.folder / "train-00000.arrow").write_bytes(b"cut")
    with pytest.raises(UserError, match="damaged"):
        prepare(config, sentences, progress=False)


def test_a_corpus_in_files(config, sentences, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    (tmp_path / "train.txt").write_text("\n".join(sentences))
    (tmp_path / "held.txt").write_text("\n".join([*sentences[:40], "one more document, held out"]))
    files = dataclasses.replace(
        config,
        corpus=str(tmp_path / "train.txt"),
        validation_corpus=str(tmp_path / "held.txt"),
        cache_dir=None,
    )
    corpus = prepare(files, progress=False)
    assert corpus.folder.is_relative_to(tmp_path / "xdg" / "concept-encoder")
    assert corpus.validation_texts[:40] == sentences[:40]
    assert corpus.statistics.documents == len([text for text in sentences if text not in sentences[:40]])
    fewer = prepare(dataclasses.replace(files, max_documents=50), progress=False)
    assert fewer.statistics.validation_documents == 41
    assert fewer.statistics.documents <= 10


@pytest.mark.parametrize(
    ("documents", "change", "expected"),
    [
        (["too short a text for one row"], {"validation_fraction": 1e-9}, "data.sequence_length: 1 training"),
        (
            ["many words " * 50],
            {"validation_fraction": 1e-9},
            "data.validation_fraction: 0 held-out documents",
        ),
    ],
)
def test_too_little_text(config, documents, change, expected):
    with pytest.raises(UserError, match=expected):
        prepare(dataclasses.replace(config, **change), documents, progress=False)


@pytest.mark.parametrize(
    "change",
    [
        {"corpus": ""},
        {"validation_fraction": 0.0},
        {"max_documents": 0},
        {"vocab_size": 10},
        {"tokenizer_type": "bpe", "vocab_size": 260},
        {"sequence_length": 2},
    ],
)
def test_values_are_checked(config, change):
    with pytest.raises(ValueError, match=rf"^{list(change)[-1]}: .*; "):
        dataclasses.replace(config, **change)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_long_document_is_cut_where_no_token_changes(sentences, kind):
    plain = plain_tokenizer(train_tokenizer(sentences, kind, {"unigram": 80}.get(kind, 300)))
    text = " ".join(sentences) * 14
    assert len(text) > 2 * PIECE_CHARACTERS
    (cut,) = encode_documents(plain, [text])
    assert cut.tolist() == plain.encode(text, add_special_tokens=False).ids


def test_the_real_mirror(mirror, tmp_path):
    vocabulary = mirror / "local/tokenizers/bert-base-uncased-vocab.txt"
    config = DataConfig(
        corpus="nyu-mll/glue",
        corpus_config="cola",
        text_column="sentence",
        tokenizer=str(vocabulary),
        cache_dir=tmp_path,
    )
    corpus = prepare(config, progress=False)
    assert len(corpus.tokenizer) == 30_522
    assert corpus.statistics.documents > 7_000
    assert all(ids[0] == 101 for ids in corpus.train[:5]["input_ids"])
