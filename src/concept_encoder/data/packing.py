"""From documents to rows of tokens, packed once and memory-mapped from a cache ever after.

`rows.py` says what a row is. A corpus of any size is packed with bounded memory, in shards of about 64 million
characters; a finished shard is never packed again, whatever is killed when.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import PreTrainedTokenizerFast

from concept_encoder.data.cache import build_in_steps, build_once, cache_key, default_cache_dir
from concept_encoder.data.corpus import (
    DataConfig,
    clean_documents,
    corpus_identity,
    expected_documents,
    labelled_documents,
)
from concept_encoder.data.encoding import Pairs, encoder, plain_tokenizer
from concept_encoder.data.shards import CorpusStatistics, pack
from concept_encoder.data.tokenizer import load_tokenizer, train_tokenizer
from concept_encoder.errors import UserError

FORMAT = 2  # raise it when packing changes: older cache entries are then left alone
TOKENIZER_CHARACTERS = 100_000_000  # a tokenizer is trained on the first so many

Track = Callable[[str], Callable[[int], None]]  # a description -> a function that is told of documents done


@dataclass(frozen=True)
class PreparedCorpus:
    """What pretraining reads.

    `train` and `validation` have one column, `input_ids` [sequence_length] (at most that, with
    `packing: documents`), memory-mapped, read as numpy. `unigram_counts` [len(tokenizer)] counts the training
    tokens, for the unigram baseline. `validation_texts` are the first 512 held-out documents (at most 32,000
    characters of each).
    """

    tokenizer: PreTrainedTokenizerFast
    train: datasets.Dataset
    validation: datasets.Dataset
    validation_texts: list[str]
    statistics: CorpusStatistics
    unigram_counts: np.ndarray
    folder: Path

    @property
    def row_lengths(self) -> np.ndarray:
        """Tokens of every training row `[R]`, specials included; read from offsets, the rows stay on disk."""
        return pc.list_value_length(self.train.data.column("input_ids")).to_numpy()


def prepare(
    config: DataConfig, documents: Iterable[str] | None = None, *, progress: bool = True, processes: int = 1
) -> PreparedCorpus:
    """Tokenise and pack `config.corpus`, or `documents` in its place; a second call loads the cached result.

    `progress` shows what is going on, on a terminal. `processes` that tokenise change the time, nothing else; with
    more than one, a script that calls this needs `if __name__ == "__main__":`. Raises `UserError` for a corpus
    that cannot be read, or is too short for one row on either side.
    """
    root = (config.cache_dir or default_cache_dir()).expanduser()
    documents = None if documents is None else clean_documents(documents)
    identity = corpus_identity(config, documents)
    with _progress(progress, expected_documents(config, documents)) as track:
        tokenizer = _tokenizer(config, documents, identity, root, track)
        plain = plain_tokenizer(tokenizer)
        layout = [config.sequence_length, config.packing]
        key = cache_key(FORMAT, identity, plain.to_str(), tokenizer.all_special_ids, layout)

        def build(folder: Path) -> None:
            with encoder(plain, processes) as encode:
                pack(config, documents, encode, tokenizer, folder, track("packing"))

        folder = build_in_steps(root / "corpora" / key, build)
    return _load(folder, tokenizer)


def _tokenizer(
    config: DataConfig, documents: list[str] | None, identity: list[str], root: Path, track: Track
) -> PreTrainedTokenizerFast:
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer)

    def build(folder: Path) -> None:
        done = track("training the tokenizer")
        texts = tokenizer_texts(labelled_documents(config, documents), done)
        train_tokenizer(texts, config.tokenizer_type, config.vocab_size).save_pretrained(folder)

    key = cache_key(FORMAT, identity, config.tokenizer_type, config.vocab_size)
    return load_tokenizer(build_once(root / "tokenizers" / key, build))


def tokenizer_texts(pairs: Pairs, done: Callable[[int], None] = lambda count: None) -> Iterator[str]:
    """The training documents that a tokenizer is trained on: the first 100 million characters."""
    limit = TOKENIZER_CHARACTERS
    for held_out, text in pairs:
        done(1)
        if not held_out:
            yield text[:limit]
            limit -= len(text)
        if limit <= 0:
            return


def _load(folder: Path, tokenizer: PreTrainedTokenizerFast) -> PreparedCorpus:
    try:
        return PreparedCorpus(
            tokenizer=tokenizer,
            train=_rows(folder, "train"),
            validation=_rows(folder, "validation"),
            validation_texts=json.loads((folder / "validation_texts.json").read_text()),
            statistics=CorpusStatistics(**json.loads((folder / "statistics.json").read_text())),
            unigram_counts=np.load(folder / "unigram_counts.npy"),
            folder=folder,
        )
    except (OSError, ValueError, EOFError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{folder}: this cache entry is damaged ({reason}); delete the folder") from None


def _rows(folder: Path, side: str) -> datasets.Dataset:
    shards = [datasets.Dataset.from_file(str(path)) for path in sorted(folder.glob(f"{side}-*.arrow"))]
    return datasets.concatenate_datasets([shard for shard in shards if len(shard)]).with_format("numpy")


@contextmanager
def _progress(shown: bool, total: int | None) -> Iterator[Track]:
    """Bars on the terminal, if there is one, that count documents."""
    console = Console(stderr=True)
    text = TextColumn("{task.description}: {task.completed:,} documents")
    columns = (SpinnerColumn(), text, BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    shown = shown and console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:

        def track(description: str) -> Callable[[int], None]:
            task = bar.add_task(description, total=total)
            return lambda count: bar.advance(task, count)

        yield track
