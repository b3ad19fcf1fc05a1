"""The file of word n-grams that `pmi` masking hides together: written by `concept-encoder data pmi`, looked up here."""

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from concept_encoder.objectives.masking_units import hash_runs, hash_words
from concept_encoder.objectives.masking_words import fingerprint, word_starts
from concept_encoder.records import write_atomically

LONGEST = 5  # words


@dataclass(frozen=True)
class NgramFile:
    """N-grams as their tokens.

    Attributes:
        tokenizer: the fingerprint of the tokenizer.
        ids_T: the tokens of all n-grams, one after the other.
        sizes_G: tokens of each n-gram.
        counts_G: how often each was seen.
        scores_G: its PMI in nats.
    """

    tokenizer: str
    ids_T: np.ndarray
    sizes_G: np.ndarray
    counts_G: np.ndarray
    scores_G: np.ndarray

    def save(self, path: Path) -> None:
        """Write whole or not at all."""
        content = io.BytesIO()
        np.savez(content, **vars(self))
        write_atomically(path, content.getvalue())

    @classmethod
    def load(cls, path: Path, tokenizer: PreTrainedTokenizerFast) -> "NgramFile":
        """Read the n-grams of this tokenizer. Raises `ValueError` for another's, or what is no such file."""
        remedy = "make one with concept-encoder data pmi RECIPE"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        except FileNotFoundError:
            raise ValueError(f"ngrams: there is no file {path}; {remedy}") from None
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            raise ValueError(f"ngrams: {path} is not a file of n-grams; {remedy}") from None
        own, theirs = fingerprint(tokenizer), str(found.tokenizer)
        if own != theirs:
            raise ValueError(f"ngrams: {path} was made with another tokenizer ({theirs}, this one is {own}); {remedy}")
        return found


class NgramTable:
    """Finds the n-grams of a file among words, by 64-bit hashes. Two n-grams share one with a chance below 1e-6."""

    def __init__(self, file: NgramFile, starts_V: np.ndarray):
        begins_T = starts_V[file.ids_T].copy()
        first_G = np.cumsum(file.sizes_G) - file.sizes_G
        begins_T[first_G] = True
        words_W = hash_words(file.ids_T, begins_T)
        first_word_G = (np.cumsum(begins_T) - 1)[first_G]
        length_G = np.diff(first_word_G, append=len(words_W))
        runs = hash_runs(words_W, LONGEST)
        self.hashes = {n: np.sort(run[first_word_G[length_G == n]]) for n, run in runs.items()}
        # Most words begin no n-gram: a table of 32 places an n-gram, indexed by the hash's low bits, spares the search.
        size = 1 << max(int(32 * len(file.sizes_G)).bit_length(), 10)
        self.low, self.maybe = np.uint64(size - 1), np.zeros(size, dtype=bool)
        for hashes in self.hashes.values():
            self.maybe[hashes & self.low] = True

    def find(self, words_W: np.ndarray, begins_W: np.ndarray) -> dict[int, np.ndarray]:
        """For every n, True where an n-gram begins `[W]`. None goes on over the beginning of a text (`begins_W`)."""
        text_W = np.cumsum(begins_W)
        found = {}
        for n, run in hash_runs(words_W, LONGEST).items():
            found[n] = np.zeros(len(words_W), dtype=bool)
            hashes = self.hashes[n]
            if len(run) == 0 or len(hashes) == 0:
                continue
            likely = np.flatnonzero(self.maybe[run & self.low] & (text_W[: len(run)] == text_W[n - 1 :]))
            at = np.minimum(np.searchsorted(hashes, run[likely]), len(hashes) - 1)
            found[n][likely[hashes[at] == run[likely]]] = True
        return found


def load_table(path: Path, tokenizer: PreTrainedTokenizerFast) -> NgramTable:
    """The n-grams of a file, ready to be found. Raises `ValueError` as `NgramFile.load`."""
    return NgramTable(NgramFile.load(path, tokenizer), word_starts(tokenizer))


class WordNumbers:
    """Numbers the words of a corpus as they come, from 1 on; 0 stands between texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer, self.starts_V = tokenizer, word_starts(tokenizer)
        self.known: dict[int, int] = {}  # hash -> number
        self.tokens: list[np.ndarray] = [np.zeros(0, dtype=np.int32)]  # of each number

    def add(self, ids: np.ndarray) -> np.ndarray:
        """The words of packed rows, one after the other. A [CLS] is before every row and leaves no trace, as a row
        may cut a text; other specials stand between texts."""
        ids = ids[ids != self.tokenizer.cls_token_id]
        special = np.isin(ids, self.tokenizer.all_special_ids)
        begins = self.starts_V[ids] | special
        begins[1:] |= special[:-1]
        begins[:1] = True
        first = np.flatnonzero(begins)
        hashes, at, word = np.unique(hash_words(ids, begins), return_index=True, return_inverse=True)
        end = np.append(first[1:], len(ids))
        for i in np.flatnonzero([value not in self.known for value in hashes.tolist()]):
            self.known[int(hashes[i])] = len(self.tokens)
            self.tokens.append(ids[first[at[i]] : end[at[i]]])
        numbers = np.array([self.known[value] for value in hashes.tolist()], dtype=np.uint32)
        return np.where(special[first], 0, numbers[word])

    def file(self, ngrams: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> NgramFile:
        """N-grams as a file: of each length the words `[G, n]`, counts and scores `[G]`."""
        size = np.array([len(tokens) for tokens in self.tokens])
        ids, sizes, counts, scores = [], [], [], []
        for words_GN, counts_G, scores_G in ngrams:
            ids += [self.tokens[number] for number in words_GN.flatten().tolist()]
            sizes.append(size[words_GN].sum(1))
            counts.append(counts_G)
            scores.append(scores_G)
        ids_T = np.concatenate([self.tokens[0], *ids])
        return NgramFile(fingerprint(self.tokenizer), ids_T, *map(np.concatenate, (sizes, counts, scores)))
