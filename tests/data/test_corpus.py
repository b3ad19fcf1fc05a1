import dataclasses
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concept_encoder.data.corpus import DataConfig, expected_documents, labelled_documents
from concept_encoder.data.corpus_table import CORPORA
from concept_encoder.data.mixture import interleave
from concept_encoder.data.packing import prepare
from concept_encoder.data.split import is_held_out
from concept_encoder.errors import UserError
from concept_encoder.settings import from_mapping

# the hub's own layouts: where load_dataset finds the shards of each repository
LAYOUTS = {
    "minipile": [
        "JeanKaddour/minipile/data/train-00000-of-00002-6fb",
        "JeanKaddour/minipile/data/train-00001-of-00002",
    ],
    "openwebtext": ["Skylion007/openwebtext/plain_text/train-00000-of-00080"],
    "wikipedia": ["wikimedia/wikipedia/20231101.en/train-00000-of-00041"],
    "fineweb-edu": ["HuggingFaceFW/fineweb-edu/sample/10BT/000_00000"],
}


def write(path: Path, documents: list[str]) -> str:
    path.write_text("\n".join(documents))
    return str(path)


@pytest.fixture
def three(tmp_path):
    """Three files whose documents say where they come from: 400 short, 100 long, 30 middling ones."""
    sizes = {"short": (400, 5), "long": (100, 60), "middle": (30, 20)}
    return {
        name: write(tmp_path / f"{name}.txt", [f"{name} document {i} of" + " words" * words for i in range(count)])
        for name, (count, words) in sizes.items()
    }


def config(tmp_path, corpus, **options):
    plain = {"vocab_size": 200, "sequence_length": 16, "packing": "full", "validation_fraction": 0.1}
    return DataConfig(corpus=corpus, cache_dir=tmp_path / "cache", **{**plain, **options})


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_corpus_of_the_table_in_the_layout_of_the_hub(tiny_mirror, name):
    shards = [[f"{name} text {i}.{j}" for j in range(3)] for i in range(len(LAYOUTS[name]))]
    for path, texts in zip(LAYOUTS[name], shards):
        tiny_mirror(path, {"text": texts, "id": texts})
    assert [text for _, text in labelled_documents(DataConfig(corpus=name))] == [
        text for texts in shards for text in texts
    ]
    assert expected_documents(DataConfig(corpus=name)) == sum(map(len, shards))
    assert CORPORA[name].licence


def test_a_configuration_of_ones_own(tiny_mirror):
    tiny_mirror("wikimedia/wikipedia/20231101.de/train-00000-of-00001", {"text": ["ein Text"]})
    given = DataConfig(corpus="wikipedia", corpus_config="20231101.de")
    assert [text for _, text in labelled_documents(given)] == ["ein Text"]
    with pytest.raises(UserError, match=r"has no '20231101\.en/train' of it"):
        list(labelled_documents(DataConfig(corpus="wikipedia")))


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.lists(st.integers(1, 9), min_size=4, max_size=4),
    st.randoms(use_true_random=False),
)
def test_a_mixture_holds_its_shares_and_repeats_nothing(counts, weights, rng):
    weights = [weight / sum(weights[: len(counts)]) for weight in weights[: len(counts)]]
    streams = [[(i, j, rng.randint(1, 20)) for j in range(count)] for i, count in enumerate(counts)]
    drawn = [0.0] * len(counts)
    items = []
    for stream, item in interleave([iter(stream) for stream in streams], weights, lambda item: item[2], drawn):
        items.append(item)
        assert item[0] == stream
        for i, weight in enumerate(weights):  # never off by more than what a few items count
            assert abs(drawn[i] - weight * sum(drawn)) <= 20 * len(counts)
    assert len(set(items)) == len(items)
    for i, stream in enumerate(streams):
        assert [item for item in items if item[0] == i] == stream[: len([item for item in items if item[0] == i])]
    assert any(len([item for item in items if item[0] == i]) == count for i, count in enumerate(counts))


@pytest.mark.parametrize("by", ["tokens", "documents"])
def test_the_weights_are_those_of_what_is_packed(tmp_path, three, by):
    weights = {three["short"]: 0.5, three["long"]: 0.5}
    statistics = prepare(config(tmp_path, weights, mixture_by=by), progress=False).statistics
    members = statistics.members
    short, long = (members[three[name]][by] for name in ("short", "long"))
    assert short == pytest.approx(long, rel=0.05)
    all_of = {three["short"]: 400, three["long"]: 100}
    assert members[statistics.ended_by]["documents"] == all_of[statistics.ended_by]


def test_a_mixture_is_the_same_every_time_and_holds_out_by_the_text(tmp_path, three):
    weights = {three["short"]: 0.3, three["middle"]: 0.7}
    first, second = (
        prepare(config(tmp_path / run, weights), progress=False) for run in ("a", "b") if not (tmp_path / run).mkdir()
    )
    assert first.train[:]["input_ids"].tolist() == second.train[:]["input_ids"].tolist()
    assert first.validation_texts == second.validation_texts
    assert all(is_held_out(text, 0.1) for text in first.validation_texts)


def test_held_out_by_name_beside_a_mixture(tmp_path, three, sentences):
    held_out = write(tmp_path / "held.txt", [*sentences[:30], "short document 7 of words words words words words"])
    given = config(tmp_path, {three["short"]: 0.5, three["long"]: 0.5}, validation_corpus=held_out)
    corpus = prepare(given, progress=False)
    assert corpus.statistics.validation_documents == 31
    assert corpus.statistics.members[three["short"]]["documents"] < 400
    drawn = list(labelled_documents(given))
    assert [held for held, _ in drawn[:31]] == [True] * 31
    assert "short document 7 of words words words words words" not in [text for held, text in drawn if not held]


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ({}, "data.corpus: empty"),
        ({"a.txt": 0.5, "b.txt": 0.4}, r"data.corpus: the weights sum to 0\.9, not to 1; .*a\.txt: 0\.5556, b"),
        ({"a.txt": 1.5, "b.txt": -0.5}, r"data.corpus: the weight -0\.5 of 'b\.txt' is not positive"),
        ({"a.txt": "half"}, "data.corpus: "),
        (3, "data.corpus: expected text or a mapping, found 3"),
    ],
)
def test_mixtures_that_are_none(corpus, message):
    with pytest.raises(UserError, match=message):
        from_mapping(DataConfig, {"corpus": corpus}, "data")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("openwebtxt", r"data\.corpus: 'openwebtxt' is no corpus known by name.*did you mean 'openwebtext'"),
        ("gone.txt", r"gone\.txt: no such file or folder"),
        ("EMPTY", r"empty\.txt: holds no rows"),
    ],
)
def test_a_missing_or_empty_member_is_named(tmp_path, three, member, message):
    member = write(tmp_path / "empty.txt", []) if member == "EMPTY" else member
    with pytest.raises(UserError, match=message):
        prepare(config(tmp_path, {three["short"]: 0.5, member: 0.5}), progress=False)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_dir() and "partial" in path.name]


def test_nothing_left_to_train_on(tmp_path, three):
    with pytest.raises(UserError, match="no training text for a wordpiece tokenizer; hold out less"):
        prepare(config(tmp_path, three["short"], validation_corpus=three["short"]), progress=False)


def test_a_mixture_that_is_too_short_says_who_ended_it(tmp_path, three):
    tiny = write(tmp_path / "tiny.txt", ["tiny"])
    with pytest.raises(UserError, match=r"because \S+tiny\.txt had no more for the mixture"):
        prepare(config(tmp_path, {tiny: 0.9, three["short"]: 0.1}), progress=False)


def test_other_weights_are_another_entry(tmp_path, three):
    half = config(tmp_path, {three["short"]: 0.5, three["long"]: 0.5})
    changes = [
        {"corpus": {three["short"]: 0.4, three["long"]: 0.6}},
        {"mixture_by": "documents"},
        {"packing": "documents"},
    ]
    folders = {prepare(dataclasses.replace(half, **change), progress=False).folder for change in [{}, *changes]}
    assert len(folders) == 4


def test_odd_texts_pass_through_packing_unharmed(tmp_path):
    rng = random.Random(0)
    odd = ["nul \0 byte", "עברית עם emoji 👩‍👩‍👧 and text", "lone \ud800 surrogate", "x" * 300_000, "é" * 50_000]
    documents = [*odd, *(" ".join(rng.choices(["one", "two", "three"], k=20)) for _ in range(80))]
    given = config(tmp_path, "unused", tokenizer_type="bpe", vocab_size=300, validation_fraction=0.2)
    corpus = prepare(given, documents, progress=False)
    train = [text.replace("\ud800", "\ufffd") for text in documents]
    train = [text for text in train if not is_held_out(text, 0.2)]
    ids = corpus.train[:]["input_ids"][:, 1:].reshape(-1).tolist()
    read = corpus.tokenizer.decode(ids).split("[SEP]")
    assert read[: len(train) - 1] == train[: len(read)][: len(train) - 1]


def test_a_document_of_ten_megabytes_in_one_line(tmp_path):
    text = "uncharacteristically " * 480_000
    lines = [text, *(f"short document {i} of a few words" for i in range(60))]
    file = tmp_path / "long.jsonl"
    file.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    assert file.stat().st_size > 10_000_000
    given = config(tmp_path, str(file), packing="documents", sequence_length=512, vocab_size=300)
    corpus = prepare(given, progress=False)
    assert corpus.statistics.members[str(file)]["documents"] == 61
    assert 480_000 < corpus.statistics.tokens + corpus.statistics.validation_tokens < 481_000
    assert corpus.row_lengths.max() == 512
    assert corpus.row_lengths.sum() == corpus.statistics.tokens + 2 * len(corpus.train)
