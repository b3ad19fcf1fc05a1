"""Words with a tag each: what files may hold, what is wrong with them, and which token answers for which word."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concept_encoder.data.conllu import spans_of_words
from concept_encoder.data.tasks.config import TaskConfig
from concept_encoder.data.tasks.load import load_task
from concept_encoder.data.tasks.tagging import NO_LABEL, TaggedExamples, first_tokens, is_iob2, tokenize_tagged
from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import UserError

ROWS = [
    {"words": ["Ada", "met", "Alan", "Turing", "."], "tags": ["B-PER", "O", "B-PER", "I-PER", "O"]},
    {"words": ["Paris", "sleeps"], "tags": ["B-LOC", "O"]},
]
NAMES = ["B-LOC", "B-PER", "I-PER", "O"]


@pytest.fixture
def jsonl(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def options(train, **more):
    return {
        "kind": "token_classification",
        "train": train,
        "validation": train,
        "text": "words",
        "label": "tags",
        **more,
    }


def test_words_and_tags_of_jsonl_and_parquet(jsonl, tmp_path):
    parquet = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), parquet)
    for path in (jsonl("train.jsonl", ROWS), str(parquet)):
        data = load_task(TaskConfig(**options(path)))
        assert data.train.words == [row["words"] for row in ROWS]
        assert data.label_names == NAMES
        assert data.train.labels == [[1, 3, 1, 2, 3], [0, 3]]
        assert data.metrics == ("entity_f1", "accuracy", "macro_f1")
        assert data.kind == "token_classification"


def test_words_and_tags_of_conllu(tmp_path):
    path = tmp_path / "train.conllu"
    lines = [
        f"{i}\t{word}\t_\t{tag}\t_\t_\t0\t_\t_\t_" for i, (word, tag) in enumerate([("a", "DET"), ("dog", "X")], 1)
    ]
    path.write_text("\n".join(lines) + "\n\n")
    data = load_task(TaskConfig(**options(str(path), text="tokens", label="upos")))
    assert data.train.words == [["a", "dog"]]
    assert data.train.labels == [[0, 1]]
    assert data.label_names == ["DET", "X"]
    assert data.metrics == ("accuracy", "macro_f1")


def test_tags_stored_as_numbers_have_the_names_of_the_list(jsonl):
    numbered = [{"words": ["Ada", "met"], "tags": [1, 0]}]
    data = load_task(TaskConfig(**options(jsonl("a.jsonl", numbered), label_names=["O", "B-PER"])))
    assert data.train.labels == [[1, 0]]
    assert data.label_names == ["O", "B-PER"]
    assert data.metrics[0] == "entity_f1"


def test_a_part_of_the_texts_is_the_same_whatever_their_order(jsonl):
    many = [{"words": ["text", str(i)], "tags": ["A", "B"]} for i in range(200)]
    sides = [
        load_task(TaskConfig(**options(jsonl(name, rows), validation=None, max_examples=10)))
        for name, rows in (("a.jsonl", many), ("b.jsonl", many[::-1]))
    ]
    first, second = (sorted(map(tuple, side.train.words)) for side in sides)
    assert first == second
    assert len(first) == len(sides[0].validation) == 10
    assert not set(first) & set(map(tuple, sides[0].validation.words))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"words": ["a", "b"], "tags": ["X"]}, "2 words in 'words' but 1 tags in 'tags'; give exactly one tag a word"),
        ({"words": [], "tags": []}, "column 'words' holds no words; leave the row out"),
        ({"words": "a b", "tags": ["X", "Y"]}, "column 'words' holds 'a b', expected a list with an item for every"),
        ({"words": ["a"], "tags": "X"}, "column 'tags' holds 'X', expected a list"),
        ({"words": ["a"], "tags": None}, "column 'tags' holds None, expected a list"),
        ({"words": ["a", 7], "tags": ["X", "Y"]}, "word 2 of column 'words' is 7, expected text"),
        ({"words": ["a", " "], "tags": ["X", "Y"]}, "word 2 of column 'words' is ' ', expected text"),
        ({"words": ["a", "b"], "tags": ["X", None]}, "column 'tags' holds None, which is no class"),
        ({"words": ["a", "b"], "tags": ["X", ""]}, "column 'tags' holds '' for 'b', which marks a word without tag"),
        ({"words": ["a", "b"], "tags": [0, -100]}, "column 'tags' holds -100 for 'b', which marks a word without tag"),
        ({"words": ["a", "b"], "tags": ["X", 0.5]}, "column 'tags' holds 0.5, which is no class; a tag is text or"),
    ],
)
def test_rows_that_do_not_fit_are_named(jsonl, row, message):
    path = jsonl("train.jsonl", [{"words": ["x", "y"], "tags": ["X", "Y"]}, row])
    with pytest.raises(UserError) as caught:
        load_task(TaskConfig(**options(path)))
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert "\n" not in str(caught.value)


def test_a_tag_unseen_in_training_is_named_with_its_word(jsonl):
    train, held_out = jsonl("train.jsonl", ROWS), jsonl("held-out.jsonl", [{"words": ["Bonn"], "tags": ["B-TOWN"]}])
    with pytest.raises(UserError) as caught:
        load_task(TaskConfig(**options(train, validation=held_out)))
    named = load_task(TaskConfig(**options(train, validation=held_out, label_names=[*NAMES, "B-TOWN"])))
    assert named.validation.labels == [[4]]
    expected = "held-out.jsonl:1: the tag of word 1 'Bonn', 'B-TOWN' is not among those of training: B-LOC, B-PER"
    assert expected in str(caught.value)


def test_other_files_that_cannot_be_tagged(jsonl, tmp_path):
    (tmp_path / "train.csv").write_text("words,tags\na b,X Y\n")
    (tmp_path / "empty.conllu").write_text("# nothing\n\n")
    for path, column, message in (
        (str(tmp_path / "train.csv"), "tags", "name another column, of JSONL, parquet or CoNLL-U"),
        (str(tmp_path / "empty.conllu"), "tags", "no column 'words'|holds no rows"),
        (jsonl("train.jsonl", ROWS), "ner", "no column 'ner'; columns: words, tags"),
        (jsonl("one.jsonl", [{"words": ["a", "b"], "tags": ["X", "X"]}]), "tags", "every training row has the label X"),
    ):
        with pytest.raises(UserError, match=message):
            load_task(TaskConfig(**options(path, label=column)))
    with pytest.raises(ValueError, match="text_pair: tags belong to the words of one text"):
        TaskConfig(**options("x.jsonl", text_pair="other"))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [(NAMES, True), (["O"], False), (["B-X", "O", "NOUN"], False), (["I-X", "O"], False), (["B-X", "I-X"], True)],
)
def test_which_tags_mark_entities(tags, expected):
    assert is_iob2(tags) is expected


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram"])
def tokenizer(request):
    text = "the quick brown fox jumps over the lazy dog, isn't it? Café au lait 1234"
    return train_tokenizer([text] * 20, request.param, 320)


WORDS = st.lists(st.text("aeiouxyz'é[]MASK1,", min_size=1, max_size=9), min_size=1, max_size=8)


@given(WORDS)
def test_the_first_token_of_every_word_has_its_tag(tokenizer, words):
    tags = list(range(len(words)))
    row = tokenize_tagged(TaggedExamples([words], [tags]), tokenizer, 512)[0]
    assert len(row["labels"]) == len(row["input_ids"]) == len(row["attention_mask"])
    labelled = [(i, tag) for i, tag in enumerate(row["labels"]) if tag != NO_LABEL]
    assert [tag for _, tag in labelled] == tags  # one token each, in order
    offsets = tokenizer(" ".join(words), split_special_tokens=True, return_offsets_mapping=True)["offset_mapping"]
    spans = spans_of_words(words)
    for i, tag in labelled:  # the naive way: no earlier token touches the word, this one does
        touching = [j for j, (a, b) in enumerate(offsets) if a < spans[tag][1] and b > spans[tag][0]]
        assert i == touching[0]


def test_words_beyond_the_length_and_special_tokens(tokenizer):
    examples = TaggedExamples([["[MASK]", *["fox"] * 60]], [[1, *[2] * 60]])
    row = tokenize_tagged(examples, tokenizer, 16)[0]
    assert len(row["input_ids"]) == 16
    if "unigram" not in str(type(tokenizer.backend_tokenizer.model)).lower():  # whose pieces hold the special tokens
        assert tokenizer.mask_token_id not in row["input_ids"]  # written in a text it is text
    assert row["labels"][0] == row["labels"][-1] == NO_LABEL  # [CLS] and [SEP]
    assert row["labels"].count(1) == 1
    assert 0 < row["labels"].count(2) < 15


def test_a_word_without_a_token_of_its_own_has_no_tag():
    assert first_tokens([(0, 0), (0, 2), (2, 6), (6, 8), (0, 0)], [(0, 2), (3, 6), (7, 8)]) == [None, 0, 1, 2, None]
    assert first_tokens([(0, 5)], [(0, 2), (3, 5)]) == [0]
