"""CoNLL-U: sentences with annotations on every word.

Format: https://universaldependencies.org/format.html, ten columns separated by tabs. A multiword token (`3-4 don't`)
is written once: its words share its letters when they spell it (do + n't), and otherwise its first word has them all.
Empty nodes (`4.1`) are left out.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from concept_encoder.errors import UserError

Span = tuple[int, int]
Line = tuple[int, list[str]]  # its number and its columns

# Named as the hub's universal_dependencies names them.
COLUMNS = ("index", "tokens", "lemmas", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_ANNOTATIONS = {"lemmas", "upos", "xpos", "head", "deprel"}  # `_` means that nobody has annotated the word


@dataclass
class TaggedSentence:
    """A sentence as it is written, the span of each word in it, and a tag for each word.

    Raises:
        UserError: another number of tags than words; `where` (a file and line) is named.
    """

    text: str
    spans: list[Span]
    tags: list[str]
    where: str = field(default="sentence", repr=False)

    def __post_init__(self) -> None:
        if len(self.spans) != len(self.tags):
            sizes = f"{len(self.spans)} words but {len(self.tags)} tags"
            raise UserError(f"{self.where}: {sizes}; give exactly one tag a word")


def tagged(words: Sequence[str], tags: Sequence[str], where: str = "sentence") -> TaggedSentence:
    """A tagged sentence from words and tags, the words joined by spaces."""
    return TaggedSentence(" ".join(words), spans_of_words(words), list(tags), where)


def spans_of_words(words: Sequence[str]) -> list[Span]:
    """Where each word stands when the words are joined by spaces."""
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return spans


def read_conllu(path: str | Path) -> list[TaggedSentence]:
    """All sentences of a CoNLL-U file with their UPOS tags.

    Raises:
        UserError: unreadable, not CoNLL-U, or a word without a tag; the message names the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a CoNLL-U file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; give a CoNLL-U file") from None
    sentences = []
    for rows in _sentences(text.split("\n"), path):
        written, spans = _layout(rows)
        tags = _column(rows, "upos", path)
        sentences.append(TaggedSentence(written, spans, tags, f"{path}, line {rows[0][0]}"))
    if not sentences:
        raise UserError(f"{path}: holds no sentence; give a CoNLL-U file with words and UPOS tags")
    return sentences


def sentence_rows(lines: Iterable[str], path: str | Path, columns: Sequence[str]) -> Iterator[tuple[int, dict]]:
    """Sentences as rows of a table: the line where each starts, and its values in the wanted columns.

    A column of `COLUMNS` is a list with one item a word; `text` is the sentence as it is written.

    Raises:
        UserError: not CoNLL-U, an unknown column, or a word without the annotation; the message names the line.
    """
    known = ("text", *COLUMNS[1:])
    for name in columns:
        if name not in known:
            raise UserError(f"{path}: no column {name!r}; columns of CoNLL-U: {', '.join(known)}")
    for rows in _sentences(lines, path):
        values: dict[str, Any] = {name: _column(rows, name, path) for name in columns if name != "text"}
        if "text" in columns:
            values["text"] = _layout(rows)[0]
        yield rows[0][0], values


def _sentences(lines: Iterable[str], path: str | Path) -> Iterator[list[Line]]:
    """The lines of each sentence, comments and empty nodes left out."""
    rows: list[Line] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            columns = line.rstrip("\r\n").split("\t")
            if len(columns) != len(COLUMNS):
                raise UserError(f"{path}, line {number}: {len(columns)} columns; CoNLL-U has 10, separated by tabs")
            if not re.fullmatch(r"\d+([-.]\d+)?", columns[0]):
                raise UserError(f"{path}, line {number}: {columns[0]!r} is no word number (1, 2, 3-4, …)")
            if "." not in columns[0]:
                rows.append((number, columns))
        elif not line.strip() and rows:
            yield rows
            rows = []
    if rows:
        yield rows


def _column(rows: Sequence[Line], name: str, path: str | Path) -> list[str]:
    """One item a word; multiword tokens are no words."""
    at = COLUMNS.index(name)
    items = []
    for number, columns in rows:
        if "-" in columns[0]:
            continue
        if columns[at] == "_" and name in _ANNOTATIONS and columns[1] != "_":
            problem = f"the word {columns[1]!r} has no tag ({name.upper()} is _)"
            raise UserError(f"{path}, line {number}: {problem}; tag every word")
        items.append(columns[at])
    return items


def _layout(rows: Sequence[Line]) -> tuple[str, list[Span]]:
    """The sentence as it is written, and the span of each word in it."""
    text, spans = "", []
    last, shared, inside = 0, (0, 0), 0  # the multiword token that the words up to `last` are part of
    for _, (index, form, *_, misc) in rows:
        if "-" in index:
            last, shared = int(index.partition("-")[2]), (len(text), len(text) + len(form))
            inside = shared[0]
            text += form + _space(misc)
        elif int(index) <= last:
            spelt = text[inside : inside + len(form)] == form and inside + len(form) <= shared[1]
            spans.append((inside, inside + len(form)) if spelt else (inside, shared[1]))
            inside = spans[-1][1]
        else:
            spans.append((len(text), len(text) + len(form)))
            text += form + _space(misc)
    return text.rstrip(), spans


def _space(misc: str) -> str:
    return "" if "SpaceAfter=No" in misc.split("|") else " "
