"""A YAML file is read as it is meant, or refused in one short line with its file and line."""

import pytest

from concept_encoder.errors import UserError, printable, shown
from concept_encoder.settings import coerce, load_yaml, parse_overrides

BOMB = "x0: &x0 [a, a, a, a, a, a, a, a, a]\n" + "".join(
    f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", ":1: not valid YAML (expected the node content, but found '<stream end>')"),
        ("- a", ": a recipe file holds `name: value`, found ['a']"),
        ("", ": empty; a recipe file holds `name: value`"),
        ("model: {}\nmodel: {}", ":1: not valid YAML (the key 'model' is given twice; keep one of them)"),
        ("rows:\n  1: a\n  '1': b", ":2: not valid YAML (the key '1' is given twice; keep one of them)"),
        ("a: {null: 1}", ":1: not valid YAML (the key 'null' is no text; quote it)"),
        ("a: {on: 1}", ":1: not valid YAML (the key 'on' is no text; quote it)"),
        ("2026-01-01: a", ":1: not valid YAML (the key '2026-01-01' is no text; quote it)"),
        ("[a]: b", ":1: not valid YAML (the key ['a'] is no text; quote it)"),
        ("a: 1\nb: !!bool xyz", ":2: not valid YAML ('xyz' is no bool)"),
        ("a: !!int ''", ":1: not valid YAML ('' is no int)"),
        ("a: !!float ''", ":1: not valid YAML ('' is no float)"),
        ("a: !!timestamp x", ":1: not valid YAML ('x' is no timestamp)"),
        ("a: 2026-99-99", ":1: not valid YAML ('2026-99-99' is no timestamp)"),
        ("a: !!map [x]", ":1: not valid YAML (expected a mapping node, but found sequence)"),
        ("a: 1" + "0" * 30, f":1: not valid YAML ('1{'0' * 30}' is beyond 64 bits)"),
        ("a: 0x" + "f" * 5000, "...fffff"),
        ('a: "\\ud800"', r":1: not valid YAML ('\ud800' holds what is no character)"),
        ('a: "x\\0"', r":1: not valid YAML ('x\x00' holds what is no character)"),
        ("a: &x [*x]", ":1: not valid YAML (an alias of what it is part of)"),
        ("a: &x {b: *x}", ":1: not valid YAML (an alias of what it is part of)"),
        (BOMB, ": not valid YAML (its aliases stand for more than 1,000,000 values)"),
        ("a: " + "[" * 2000, ": not valid YAML (brackets without end)"),
    ],
)
def test_unreadable_files(tmp_path, text, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        load_yaml(file)
    assert str(refused.value).startswith(f"{file}:")
    assert message in str(refused.value)
    assert len(str(refused.value)) < len(str(file)) + 150


def test_missing_files_and_latin_1(tmp_path):
    with pytest.raises(UserError, match="no such recipe file"):
        load_yaml(tmp_path / "nothing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"about: \xe9t\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        load_yaml(tmp_path / "latin.yaml")


def test_keys_are_text(tmp_path):
    (tmp_path / "recipe.yaml").write_text("rows: {512: a, 0.5: b, c: d}\n")
    assert load_yaml(tmp_path / "recipe.yaml") == {"rows": {"512": "a", "0.5": "b", "c": "d"}}


def test_an_override_says_what_is_wrong_with_its_value():
    with pytest.raises(
        UserError, match=r"override 'a.b=!!bool x': the value is not valid YAML \('x' is no bool\); quote"
    ):
        parse_overrides(["a.b=!!bool x"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", 10**400])
def test_numbers_are_finite(value):
    with pytest.raises(UserError, match=r"^a\.b: "):
        coerce(value, float, "a.b")


def test_a_value_in_a_message_is_short():
    assert len(shown({"a" * 999: [[["b" * 999] * 99] * 99] * 99, **{str(i): i for i in range(99)}})) < 250


def test_somebody_elses_words_cannot_steer_a_terminal():
    assert printable("a\x1b[31m\x9bb\n\u202e\ud800é漢") == r"a\x1b[31m\x9bb\n\u202e\ud800é漢"
