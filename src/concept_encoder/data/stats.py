"""What a corpus is made of: duplicates, languages, and texts of evaluation sets that it holds.

Each measure is told of every document with `add` and keeps little of it, so that one reading serves all and memory
stays small. Near duplicates and languages are estimated on a sample that a hash of the text chooses.
"""

import heapq
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from concept_encoder.data.corpus import DataConfig, LabelledTexts, open_documents
from concept_encoder.data.shards import CorpusStatistics
from concept_encoder.data.split import share
from concept_encoder.data.tasks.config import TaskConfig
from concept_encoder.data.tasks.load import load_task
from concept_encoder.errors import UserError
from concept_encoder.settings import from_mapping

_EXTRA = 'pip install "concept-encoder[stats]"'
_WORD = re.compile(r"\w+")
SAMPLE_CHARACTERS = 20_000


def packed_documents(config: DataConfig, statistics: CorpusStatistics) -> LabelledTexts:
    """Yield (held out?, document) for the documents that packing drew, corpus after corpus."""
    opened = open_documents(config)
    yield from opened.held_out or ()
    for name, member in zip(opened.names, opened.members):
        yield from islice(member, statistics.members[name]["documents"])


def words(text: str) -> list[str]:
    """Lower-cased words without punctuation."""
    return _WORD.findall(text.lower())


class ExactDuplicates:
    """Documents whose text came before, character by character: 8 bytes of memory a document."""

    def __init__(self) -> None:
        self._hashes = array("d")

    def add(self, text: str) -> None:
        self._hashes.append(share(text))

    @property
    def documents(self) -> int:
        return len(self._hashes)

    @property
    def duplicates(self) -> int:
        return len(self._hashes) - len(np.unique(np.frombuffer(self._hashes, dtype=np.float64)))


class Sample:
    """The `size` documents with the smallest hash: uniform, and the same whatever the order. Equal texts all count.

    Of each the first 20,000 characters are kept: whole books would fill the memory.
    """

    def __init__(self, size: int):
        self.size = size
        self._heap: list[tuple[float, int, str]] = []  # the largest hash first
        self._added = 0

    def add(self, text: str) -> None:
        self._added += 1
        entry = (-share(text), -self._added, text[:SAMPLE_CHARACTERS])
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def __iter__(self) -> Iterator[str]:
        return (text for _, _, text in sorted(self._heap, reverse=True))

    def __len__(self) -> int:
        return len(self._heap)


def near_duplicates(texts: Iterable[str], threshold: float = 0.8, num_perm: int = 128, shingle: int = 5) -> int:
    """How many of `texts` are nearly, not exactly, an earlier one.

    Two texts are when the estimated Jaccard similarity of their sets of `shingle` words in a row is at least
    `threshold`: MinHash with locality-sensitive hashing (Broder, 1997), by `datasketch`. Texts with fewer than
    `shingle` words are not compared. Raises `UserError` without `datasketch`.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        raise UserError(f"near duplicates: need the package datasketch; {_EXTRA}") from None
    index, seen, found = MinHashLSH(threshold=threshold, num_perm=num_perm), {}, 0
    exact: set[str] = set()
    for number, text in enumerate(texts):
        if text in exact or len(split := words(text)) < shingle:
            continue
        exact.add(text)
        signature = MinHash(num_perm=num_perm, seed=1)
        signature.update_batch([shingled.encode() for shingled in _ngrams(split, shingle)])
        if any(signature.jaccard(seen[other]) >= threshold for other in index.query(signature)):
            found += 1
            continue
        index.insert(number, signature)
        seen[number] = signature
    return found


def languages(texts: Iterable[str]) -> dict[str, float]:
    """ISO 639-1 codes with their shares, the largest first, as `py3langid` guesses on the first 2,000 characters."""
    try:
        import py3langid
    except ImportError:
        raise UserError(f"languages: need the package py3langid; {_EXTRA}") from None
    counts = Counter(py3langid.classify(text[:2000])[0] for text in texts)
    return {language: count / counts.total() for language, count in counts.most_common()}


@dataclass(frozen=True)
class Overlap:
    """How much of an evaluation set is in the corpus: `found` of the `checked` texts share an n-gram with it.

    Texts of fewer than `n` words are not checked.
    """

    n: int
    texts: int
    checked: int
    found: int


class Contamination:
    """N-grams of words that an evaluation set shares with the corpus, as in GPT-3 (arXiv:2005.14165, appendix C).

    n is the 5th percentile of the lengths of a set's texts in words, at least 8 and at most 13.

    Args:
        sets: for each evaluation set its texts.
    """

    def __init__(self, sets: Mapping[str, list[str]]):
        self._texts = {name: [words(text) for text in texts] for name, texts in sets.items()}
        self._n = {
            name: int(np.clip(np.percentile([len(text) for text in texts], 5), 8, 13))
            for name, texts in self._texts.items()
        }
        self._wanted: dict[int, set[str]] = {}
        for name, texts in self._texts.items():
            wanted = self._wanted.setdefault(self._n[name], set())
            for text in texts:
                wanted.update(_ngrams(text, self._n[name]))
        self._found: dict[int, set[str]] = {n: set() for n in self._wanted}

    def add(self, text: str) -> None:
        split = words(text) if self._wanted else []
        for n, wanted in self._wanted.items():
            self._found[n].update(wanted.intersection(_ngrams(split, n)))

    @property
    def overlaps(self) -> dict[str, Overlap]:
        overlaps = {}
        for name, texts in self._texts.items():
            n = self._n[name]
            checked = [text for text in texts if len(text) >= n]
            found = sum(not self._found[n].isdisjoint(_ngrams(text, n)) for text in checked)
            overlaps[name] = Overlap(n, len(texts), len(checked), found)
        return overlaps


def evaluation_texts(task: str) -> list[str]:
    """The validation texts of a named task, both of a pair. Raises `UserError` for an unknown task."""
    validation = load_task(from_mapping(TaskConfig, {"task": task}, "data")).validation
    return [*validation.texts, *(validation.pairs or [])]


def _ngrams(split: list[str], n: int) -> Iterator[str]:
    return (" ".join(split[i : i + n]) for i in range(len(split) - n + 1))
