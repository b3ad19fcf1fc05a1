"""From documents to rows of tokens of one length, packed once and memory-mapped from a cache ever after.

Documents are joined as `document [SEP] document [SEP] …` and cut into rows of exactly `sequence_length`, each
with a [CLS] before it (RoBERTa's FULL-SENTENCES). No padding; only the last, incomplete row is dropped.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from concept_encoder.data.cache import build_once, cache_key, default_cache_dir
from concept_encoder.data.corpus import DataConfig, clean_documents, corpus_identity, labelled_documents
from concept_encoder.data.rows import RowWriter, encode_documents, plain_tokenizer
from concept_encoder.data.tokenizer import load_tokenizer, train_tokenizer
from concept_encoder.errors import UserError

Pairs = Iterable[tuple[bool, str]]  # (held out?, document)
Track = Callable[[str, Pairs], Pairs]

FORMAT = 1  # raise it when packing changes: older cache entries are then left alone
BATCH_CHARACTERS = 2_000_000  # tokenised at once: bounds memory
TOKENIZER_CHARACTERS = 100_000_000  # a tokenizer is trained on the first so many
VALIDATION_TEXTS = 512
VALIDATION_TEXT_CHARACTERS = 32_000


@dataclass(frozen=True)
class CorpusStatistics:
    """Counts of a prepared corpus. Tokens are those of documents, without [CLS] and [SEP]."""

    documents: int
    validation_documents: int
    tokens: int
    validation_tokens: int
    unk_share: float  # of the training tokens


@dataclass(frozen=True)
class PreparedCorpus:
    """What pretraining reads.

    `train` and `validation` have one column, `input_ids` [sequence_length], memory-mapped, read as numpy.
    `unigram_counts` [len(tokenizer)] counts the training tokens, for the unigram baseline. `validation_texts`
    are the first 512 held-out documents (at most 32,000 characters of each).
    """

    tokenizer: PreTrainedTokenizerFast
    train: datasets.Dataset
    validation: datasets.Dataset
    validation_texts: list[str]
    statistics: CorpusStatistics
    unigram_counts: np.ndarray
    folder: Path


def prepare(config: DataConfig, documents: Iterable[str] | None = None, *, progress: bool = True) -> PreparedCorpus:
    """Tokenise and pack `config.corpus`, or `documents` in its place; a second call loads the cached result.

    `progress` shows what is going on, on a terminal. Raises `UserError` for a corpus that cannot be read, or
    is too short for one row on either side.
    """
    root = (config.cache_dir or default_cache_dir()).expanduser()
    documents = None if documents is None else clean_documents(documents)
    identity = corpus_identity(config, documents)
    with _progress(progress) as track:
        tokenizer = _tokenizer(config, documents, identity, root, track)
        plain = plain_tokenizer(tokenizer)
        key = cache_key(FORMAT, identity, plain.to_str(), tokenizer.all_special_ids, config.sequence_length)

        def build(folder: Path) -> None:
            pairs = track("packing", labelled_documents(config, documents))
            _pack(pairs, plain, tokenizer, config, folder)

        folder = build_once(root / "corpora" / key, build)
    return _load(folder, tokenizer)


def _tokenizer(
    config: DataConfig, documents: list[str] | None, identity: list[str], root: Path, track: Track
) -> PreTrainedTokenizerFast:
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer)

    def build(folder: Path) -> None:
        pairs = track("training the tokenizer", labelled_documents(config, documents))
        texts = (text for held_out, text in pairs if not held_out)
        texts = _first_characters(texts, TOKENIZER_CHARACTERS)
        train_tokenizer(texts, config.tokenizer_type, config.vocab_size).save_pretrained(folder)

    key = cache_key(FORMAT, identity, config.tokenizer_type, config.vocab_size)
    return load_tokenizer(build_once(root / "tokenizers" / key, build))


def _first_characters(texts: Iterable[str], limit: int) -> Iterator[str]:
    for text in texts:
        yield text[:limit]
        limit -= len(text)
        if limit <= 0:
            return


def _pack(pairs: Pairs, plain: Tokenizer, tokenizer: PreTrainedTokenizerFast, config: DataConfig, folder: Path) -> None:
    """Write train.arrow, validation.arrow, unigram_counts.npy, validation_texts.json and statistics.json."""
    unigram_counts = np.zeros(len(tokenizer), dtype=np.int64)
    texts: list[str] = []
    length, ends = config.sequence_length, (tokenizer.cls_token_id, tokenizer.sep_token_id)
    with (
        RowWriter(folder / "train.arrow", length, *ends) as train,
        RowWriter(folder / "validation.arrow", length, *ends) as validation,
    ):
        for batch in _batches(pairs):
            encoded = encode_documents(plain, [text for _, text in batch])
            for (held_out, text), ids in zip(batch, encoded):
                (validation if held_out else train).add(ids)
                if held_out and len(texts) < VALIDATION_TEXTS:
                    texts.append(text[:VALIDATION_TEXT_CHARACTERS])
            training = [ids for (held_out, _), ids in zip(batch, encoded) if not held_out]
            if training:
                unigram_counts += np.bincount(np.concatenate(training), minlength=len(unigram_counts))
    _check_rows(config, train, validation)
    unknown = 0 if tokenizer.unk_token_id is None else unigram_counts[tokenizer.unk_token_id]
    counts = (train.documents, validation.documents, train.tokens, validation.tokens)
    statistics = CorpusStatistics(*counts, unk_share=float(unknown / train.tokens))
    np.save(folder / "unigram_counts.npy", unigram_counts)
    (folder / "validation_texts.json").write_text(json.dumps(texts))
    (folder / "statistics.json").write_text(json.dumps(dataclasses.asdict(statistics)))


def _check_rows(config: DataConfig, train: RowWriter, validation: RowWriter) -> None:
    length = config.sequence_length
    if train.rows == 0:
        found = f"{train.documents} training documents ({train.tokens} tokens) are less than a row"
        raise UserError(f"data.sequence_length: {found} of {length}; give more text or shorter rows")
    if validation.rows == 0:
        found = f"{validation.documents} held-out documents ({validation.tokens} tokens) are less than a row"
        remedy = "raise it, or lower data.sequence_length"
        raise UserError(f"data.validation_fraction: {found} of {length}; {remedy}")


def _load(folder: Path, tokenizer: PreTrainedTokenizerFast) -> PreparedCorpus:
    try:
        train, validation = (
            datasets.Dataset.from_file(str(folder / f"{side}.arrow")).with_format("numpy")
            for side in ("train", "validation")
        )
        return PreparedCorpus(
            tokenizer=tokenizer,
            train=train,
            validation=validation,
            validation_texts=json.loads((folder / "validation_texts.json").read_text()),
            statistics=CorpusStatistics(**json.loads((folder / "statistics.json").read_text())),
            unigram_counts=np.load(folder / "unigram_counts.npy"),
            folder=folder,
        )
    except (OSError, ValueError, EOFError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{folder}: this cache entry is damaged ({reason}); delete the folder") from None


def _batches(pairs: Pairs) -> Iterator[list[tuple[bool, str]]]:
    batch, characters = [], 0
    for pair in pairs:
        batch.append(pair)
        characters += len(pair[1])
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


@contextmanager
def _progress(shown: bool) -> Iterator[Track]:
    """A function that counts the documents of an iterable on the terminal, if there is one."""
    console = Console(stderr=True)
    text = TextColumn("{task.description}: {task.completed:,} documents")
    columns = (SpinnerColumn(), text, TimeElapsedColumn())
    shown = shown and console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:

        def track(description: str, pairs: Pairs) -> Pairs:
            return bar.track(pairs, description=description)

        yield track
