import pytest

from concept_encoder.data.conllu import read_conllu, sentence_rows, tagged
from concept_encoder.errors import UserError

CONLLU = """# text = I can't, José.
1\tI\ti\tPRON\t_\t_\t0\t_\t_\t_
2-3\tcan't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
2\tca\tcan\tAUX\t_\t_\t0\t_\t_\t_
3\tn't\tnot\tPART\t_\t_\t0\t_\t_\t_
4\t,\t,\tPUNCT\t_\t_\t0\t_\t_\t_
4.1\tempty\t_\tNOUN\t_\t_\t0\t_\t_\t_
5\tJosé\tJosé\tPROPN\t_\t_\t0\t_\t_\tSpaceAfter=No
6\t.\t.\tPUNCT\t_\t_\t0\t_\t_\t_

1-2\tau\t_\t_\t_\t_\t_\t_\t_\t_
1\tà\tà\tADP\t_\t_\t0\t_\t_\t_
2\tle\tle\tDET\t_\t_\t0\t_\t_\t_
"""


def written(tmp_path, text: str):
    path = tmp_path / "file.conllu"
    path.write_text(text, encoding="utf-8")
    return path


def test_conllu_gives_the_text_as_written_and_a_span_for_every_word(tmp_path):
    first, second = read_conllu(written(tmp_path, CONLLU))
    assert first.text == "I can't, José."
    assert [first.text[a:b] for a, b in first.spans] == ["I", "ca", "n't", ",", "José", "."]
    assert first.tags == ["PRON", "AUX", "PART", "PUNCT", "PROPN", "PUNCT"]
    assert second.text == "au"
    assert second.tags == ["ADP", "DET"]
    assert second.spans[0] == (0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\tdog\tdog\tNOUN\n", "line 1: 4 columns; CoNLL-U has 10"),
        ("# c\n1\tdog\tdog\t_\t_\t_\t0\t_\t_\t_\n", "line 2: the word 'dog' has no tag"),
        ("\n\n", "holds no sentence"),
    ],
)
def test_bad_conllu_is_answered_with_the_line(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        read_conllu(written(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_conllu(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_conllu(tmp_path / "nowhere.conllu")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        read_conllu(tmp_path / "binary")


def test_tags_of_another_length_than_the_words():
    with pytest.raises(UserError, match="line 7: 2 words but 1 tags; give exactly one tag a word"):
        tagged(["a", "dog"], ["DET"], where="file.conllu, line 7")


def test_columns_are_named_as_on_the_hub(tmp_path):
    lines = CONLLU.splitlines(keepends=True)
    first, second = sentence_rows(lines, "f", ["tokens", "upos", "text"])
    assert first[1]["tokens"] == ["I", "ca", "n't", ",", "José", "."]
    assert first[1]["upos"] == ["PRON", "AUX", "PART", "PUNCT", "PROPN", "PUNCT"]
    assert [first[0], first[1]["text"]] == [2, "I can't, José."]
    assert second == (11, {"tokens": ["à", "le"], "upos": ["ADP", "DET"], "text": "au"})


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("ner", "f: no column 'ner'; columns of CoNLL-U: text, tokens, lemmas, upos"),
        ("xpos", "f, line 2: the word 'I' has no tag (XPOS is _)"),
    ],
)
def test_columns_that_are_not_there(column, message):
    with pytest.raises(UserError) as caught:
        list(sentence_rows(CONLLU.splitlines(), "f", [column]))
    assert str(caught.value).startswith(message)
