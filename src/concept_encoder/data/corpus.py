"""The documents of a pretraining run: which corpus or mixture of corpora, and which part of it is held out."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from concept_encoder.data import quickstart
from concept_encoder.data.corpus_table import CORPORA, Corpus
from concept_encoder.data.mixture import interleave
from concept_encoder.data.sources import clean_text, count_rows, read_texts, source_identity
from concept_encoder.data.split import is_held_out, share
from concept_encoder.data.tokenizer import TokenizerKind
from concept_encoder.errors import UserError, nearest

LabelledTexts = Iterator[tuple[bool, str]]  # (held out?, document)


@dataclass(frozen=True)
class DataConfig:
    """The `data` section of a pretraining recipe.

    Attributes:
        corpus: a name of the table in `corpus_table.py`, a file, a folder, a hub data set (`org/name`), or a mixture
            of them, `{openwebtext: 0.4, wikipedia: 0.6}`: the weights sum to 1, each document comes at most
            once, and the mixture ends when the corpus whose turn it is has no more.
        mixture_by: what the weights of a mixture count.
        corpus_config: the configuration of a hub data set, such as `wikitext-103-raw-v1`; for a corpus of the
            table, in place of its own (in a mixture, corpora of the table keep their own).
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
        sequence_length: most tokens in a row, [CLS] and [SEP] included.
        packing: `documents`, rows of one document each, so that no attention crosses documents; or `full`, rows of
            one length that hold as many documents as fit (see `rows.py`).
        cache_dir: where tokenizers and packed rows are kept; None is `~/.cache/concept-encoder` (XDG).
    """

    corpus: str | dict[str, float]
    mixture_by: Literal["tokens", "documents"] = "tokens"
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
    packing: Literal["documents", "full"] = "documents"
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if not self.corpus:
            raise ValueError("corpus: empty; name a corpus, a file, a folder, a hub data set or a mixture of them")
        if isinstance(self.corpus, Mapping):
            _check_weights(self.corpus)
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

    @property
    def weights(self) -> dict[str, float]:
        """The corpora with their weights; one corpus alone has weight 1."""
        return dict(self.corpus) if isinstance(self.corpus, Mapping) else {self.corpus: 1.0}


def _check_weights(weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not 0 < weight < math.inf:
            raise ValueError(
                f"corpus: the weight {weight} of {name!r} is not positive; leave {name!r} out, or raise it"
            )
    total = math.fsum(weights.values())
    if not math.isclose(total, 1, abs_tol=1e-6):
        scaled = ", ".join(f"{name}: {weight / total:.4g}" for name, weight in weights.items())
        raise ValueError(f"corpus: the weights sum to {total:.6g}, not to 1; in these proportions: {{{scaled}}}")


@dataclass(frozen=True)
class Documents:
    """The labelled documents of a run, unread.

    Attributes:
        names: of the corpora.
        weights: of the corpora.
        members: a stream for each corpus.
        held_out: the documents of `validation_corpus`; they have to be read before the members, which leave their
            equals out. None when members say themselves what is held out.
    """

    names: list[str]
    weights: list[float]
    members: list[LabelledTexts]
    held_out: LabelledTexts | None


def open_documents(config: DataConfig, documents: Sequence[str] | None = None) -> Documents:
    """The streams of `config.corpus`, or of `documents` in its place."""
    weights = {"documents": 1.0} if documents is not None else config.weights
    if config.validation_corpus is None:
        members = [_labelled(config, name, documents) for name in weights]
        return Documents(list(weights), list(weights.values()), members, None)
    seen: set[float] = set()

    def held_out() -> LabelledTexts:
        for text in _read(config, config.validation_corpus, _validation_split(config)):
            seen.add(share(text))
            yield True, text

    def member(name: str) -> LabelledTexts:
        for text in _training(config, name, documents):
            if share(text) not in seen:
                yield False, text

    return Documents(list(weights), list(weights.values()), [member(name) for name in weights], held_out())


def labelled_documents(config: DataConfig, documents: Sequence[str] | None = None) -> LabelledTexts:
    """Yield (held out?, document) for every document of the run.

    A mixture by tokens is drawn by characters here, where no text is tokenised.
    """
    opened = open_documents(config, documents)
    amount = (lambda pair: len(pair[1])) if config.mixture_by == "tokens" else (lambda pair: 1)
    drawn = interleave(opened.members, opened.weights, amount, [0.0] * len(opened.names))
    return chain(opened.held_out or (), (pair for _, pair in drawn))


def corpus_identity(config: DataConfig, documents: Sequence[str] | None = None) -> list[str]:
    """What the documents and their split depend on, found without reading the files."""
    settings = [config.text_column, str(config.validation_fraction), str(config.max_documents)]
    if documents is not None:
        identity = [*settings, _hash(documents)]
    else:
        identity = [*settings]
        for name, weight in config.weights.items():
            identity += [str(weight)] if len(config.weights) > 1 else []
            identity += _identity(config, name, config.split)
        identity += [config.mixture_by] if len(config.weights) > 1 else []
    if config.validation_corpus is not None:
        identity += ["held out", *_identity(config, config.validation_corpus, _validation_split(config))]
    return identity


def expected_documents(config: DataConfig, documents: Sequence[str] | None = None) -> int | None:
    """How many documents one corpus has, for a progress bar; None for a mixture and where nobody knows."""
    if documents is not None:
        known = len(documents)
    elif len(config.weights) > 1 or config.validation_corpus is not None:
        return None
    else:
        corpus = find_corpus(config, *config.weights)
        counted = None if corpus.source == quickstart.NAME else count_rows(corpus.source, corpus.config, corpus.split)
        known = counted or corpus.documents
    return known if config.max_documents is None else min(known or config.max_documents, config.max_documents)


def find_corpus(config: DataConfig, name: str, split: str | None = None) -> Corpus:
    """The row of the table called `name`, or one for a file, folder or hub id. Raises `UserError` for neither."""
    if (known := CORPORA.get(name)) is not None:
        own = known.config if len(config.weights) > 1 else config.corpus_config or known.config
        return dataclasses.replace(known, config=own, split=split or config.split)
    if "/" not in name and not Path(name).suffix and not Path(name).exists():
        raise UserError(f"data.corpus: {name!r} is no corpus known by name, file or folder; {nearest(name, CORPORA)}")
    return Corpus(name, name, config.corpus_config, "", split or config.split, config.text_column)


def clean_documents(documents: Iterable[str]) -> list[str]:
    """The documents that hold text, in order, as `read_texts` would give them."""
    return [clean_text(text) for text in documents if text and not text.isspace()]


def _labelled(config: DataConfig, name: str, documents: Sequence[str] | None) -> LabelledTexts:
    if documents is None and name == quickstart.NAME:
        return _labelled_quickstart(config.max_documents)
    texts = _training(config, name, documents)
    return ((is_held_out(text, config.validation_fraction), text) for text in texts)


def _labelled_quickstart(limit: int | None) -> LabelledTexts:
    taken = [0, 0]
    for article in quickstart.articles():
        held_out = is_held_out(article.text, quickstart.HELD_OUT)
        taken[held_out] += 1
        if limit is None or taken[held_out] <= limit:
            yield held_out, article.text


def _training(config: DataConfig, name: str, documents: Sequence[str] | None) -> Iterator[str]:
    if documents is not None:
        return islice(documents, config.max_documents)
    return _read(config, name, config.split)


def _validation_split(config: DataConfig) -> str:
    return config.validation_split or config.split


def _read(config: DataConfig, name: str, split: str) -> Iterator[str]:
    if name == quickstart.NAME:
        return islice(quickstart.documents()[0], config.max_documents)
    corpus = find_corpus(config, name, split)
    texts = read_texts(corpus.source, corpus.text_column, config=corpus.config, split=corpus.split)
    return islice(texts, config.max_documents)


def _identity(config: DataConfig, name: str, split: str) -> list[str]:
    if name == quickstart.NAME:
        return [quickstart.NAME, _hash([text for side in quickstart.documents() for text in side])]
    corpus = find_corpus(config, name, split)
    return source_identity(corpus.source, corpus.config, corpus.split)


def _hash(documents: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in documents:
        data = text.encode()
        digest.update(len(data).to_bytes(8) + data)
    return digest.hexdigest()
