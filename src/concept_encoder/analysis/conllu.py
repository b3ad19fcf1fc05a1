"""Sentences with a tag on every word, read from CoNLL-U; and which token belongs to which word.

Format: https://universaldependencies.org/format.html, ten columns separated by tabs; FORM, UPOS and the
`SpaceAfter=No` of MISC are used. A multiword token (`3-4 don't`) is written once: its words share its
letters when they spell it (do + n't), and otherwise its first word has them all.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from concept_encoder.errors import UserError

Span = tuple[int, int]


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
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return TaggedSentence(" ".join(words), spans, list(tags), where)


def read_conllu(path: str | Path) -> list[TaggedSentence]:
    """All sentences of a CoNLL-U file.

    Raises:
        UserError: unreadable, not CoNLL-U, or a word without a tag; the message names the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a CoNLL-U file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; give a CoNLL-U file") from None
    sentences = [_sentence(rows, path) for rows in _blocks(text.split("\n"), path)]
    if not sentences:
        raise UserError(f"{path}: holds no sentence; give a CoNLL-U file with words and UPOS tags")
    return sentences


def _blocks(lines: Iterable[str], path: str | Path) -> Iterator[list[tuple[int, list[str]]]]:
    """The rows (line number, columns) of each sentence, comments and empty nodes left out."""
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            columns = line.rstrip("\r").split("\t")
            if len(columns) != 10:
                raise UserError(f"{path}, line {number}: {len(columns)} columns; CoNLL-U has 10, separated by tabs")
            if "." not in columns[0]:
                rows.append((number, columns))
        elif not line.strip() and rows:
            yield rows
            rows = []
    if rows:
        yield rows


def _sentence(rows: list[tuple[int, list[str]]], path: str | Path) -> TaggedSentence:
    text, spans, tags = "", [], []
    owner_end, shared, inside = (
        0,
        (0, 0),
        0,
    )  # the multiword token that the words up to `owner_end` are part of
    for number, (index, form, _, upos, *_, misc) in rows:
        if not re.fullmatch(r"\d+(-\d+)?", index):
            raise UserError(f"{path}, line {number}: {index!r} is no word number (1, 2, 3-4, …)")
        if "-" in index:
            owner_end, shared = int(index.partition("-")[2]), (len(text), len(text) + len(form))
            inside = shared[0]
            text += form + _space(misc)
            continue
        if upos == "_":
            raise UserError(f"{path}, line {number}: the word {form!r} has no tag (UPOS is _); tag every word")
        if int(index) <= owner_end:
            spelt = text[inside : inside + len(form)] == form and inside + len(form) <= shared[1]
            spans.append((inside, inside + len(form)) if spelt else (inside, shared[1]))
            inside = spans[-1][1]
        else:
            spans.append((len(text), len(text) + len(form)))
            text += form + _space(misc)
        tags.append(upos)
    return TaggedSentence(text.rstrip(), spans, tags, f"{path}, line {rows[0][0]}")


def _space(misc: str) -> str:
    return "" if "SpaceAfter=No" in misc.split("|") else " "


def words_of_tokens(offsets: Sequence[Span], spans: Sequence[Span]) -> list[int | None]:
    """For each token the word that it shares most letters with; None for a token that shares none ([CLS])."""
    owners: list[int | None] = []
    for start, end in offsets:
        shared = [min(end, stop) - max(start, begin) for begin, stop in spans]
        best = max(range(len(spans)), key=shared.__getitem__, default=None)
        owners.append(best if best is not None and shared[best] > 0 else None)
    return owners


def tag_texts(texts: Iterable[str], pipeline: str) -> list[TaggedSentence]:
    """Sentences tagged by a spaCy pipeline such as `en_core_web_sm` (silver, not gold).

    Raises:
        UserError: spaCy or the pipeline is not installed.
    """
    try:
        import spacy

        tagger = spacy.load(pipeline)
    except ImportError:
        raise UserError('tags: spaCy is not installed; pip install "concept-encoder[spacy]"') from None
    except OSError:
        raise UserError(f"tags: no spaCy pipeline {pipeline!r}; python -m spacy download {pipeline}") from None
    found = []
    for document in tagger.pipe(texts):
        for sentence in document.sents:
            words = [word for word in sentence if not word.is_space]
            if words:
                found.append(tagged([word.text for word in words], [word.pos_ for word in words], sentence.text[:40]))
    return found
