import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concept_encoder.data.corpus import DataConfig
from concept_encoder.data.packing import prepare
from concept_encoder.data.stats import (
    Contamination,
    ExactDuplicates,
    Sample,
    evaluation_texts,
    languages,
    near_duplicates,
    packed_documents,
    words,
)
from concept_encoder.errors import UserError


@given(st.lists(st.sampled_from(["a", "b", "c d", "C d", ""]), max_size=30))
def test_exact_duplicates(texts):
    measure = ExactDuplicates()
    for text in texts:
        measure.add(text)
    assert measure.duplicates == sum(count - 1 for count in Counter(texts).values())
    assert measure.documents == len(texts)


@given(st.lists(st.text(max_size=3), max_size=40), st.integers(1, 50), st.randoms(use_true_random=False))
def test_a_sample_does_not_depend_on_the_order(texts, size, rng):
    samples = []
    for _ in range(2):
        sample = Sample(size)
        for text in texts:
            sample.add(text)
        samples.append(sorted(sample))
        texts = rng.sample(texts, len(texts))
    assert samples[0] == samples[1]
    assert len(samples[0]) == min(size, len(texts))


def jaccard(first: str, second: str, n: int = 5) -> float:
    splits = first.split(), second.split()
    one, two = ({tuple(split[i : i + n]) for i in range(len(split) - n + 1)} for split in splits)
    return len(one & two) / len(one | two)


def test_near_duplicates_are_those_of_the_exact_similarity():
    pytest.importorskip("datasketch")
    rng = random.Random(0)
    vocabulary = [f"word{i}" for i in range(200)]
    originals = [rng.choices(vocabulary, k=120) for _ in range(40)]
    texts = [" ".join(text) for text in originals]
    nearly = [" ".join([*text[:-1], "changed"]) for text in originals[:15]]  # similarity 0.98
    apart = [" ".join([*text[:40], *rng.choices(vocabulary, k=80)]) for text in originals[15:]]  # about 0.2
    everything = [*texts, *nearly, *apart]
    close = [pair for pair in itertools.combinations(everything, 2) if jaccard(*pair) >= 0.8]
    assert near_duplicates(everything) == len(close) == 15
    assert near_duplicates([*texts, *texts, "too short", "too short"]) == 0  # equal texts are exact duplicates


def test_languages():
    pytest.importorskip("py3langid")
    texts = ["This is a sentence in the English language, like any other."] * 3
    texts += ["Dies ist ein Satz in deutscher Sprache, wie er überall stehen könnte."]
    assert languages(texts) == {"en": 0.75, "de": 0.25}


def naive_overlap(evaluation: list[str], corpus: list[str], n: int) -> int:
    joined = [" " + " ".join(words(text)) + " " for text in corpus]
    found = 0
    for text in evaluation:
        split = words(text)
        runs = [" " + " ".join(split[i : i + n]) + " " for i in range(len(split) - n + 1)]
        found += any(run in text for run in runs for text in joined)
    return found


@given(st.randoms(use_true_random=False))
def test_contamination_is_what_searching_finds(rng):
    evaluation = [" ".join(rng.choices("abcd", k=rng.randint(3, 30))) for _ in range(20)]
    corpus = [" ".join(rng.choices("abcd", k=rng.randint(5, 60))) for _ in range(5)]
    corpus.append("Before, " + ", ".join(evaluation[0].upper().split()) + "! After.")
    contamination = Contamination({"task": evaluation})
    for text in corpus:
        contamination.add(text)
    overlap = contamination.overlaps["task"]
    assert 8 <= overlap.n <= 13
    assert overlap.texts == 20
    assert overlap.checked == sum(len(text.split()) >= overlap.n for text in evaluation)
    assert overlap.found == naive_overlap(evaluation, corpus, overlap.n)
    if len(evaluation[0].split()) >= overlap.n:
        assert overlap.found >= 1


def test_the_length_of_an_n_gram_follows_the_texts():
    long, short = [" ".join(map(str, range(40)))] * 30, ["a b c"] * 30
    overlaps = Contamination({"long": long, "short": short}).overlaps
    assert (overlaps["long"].n, overlaps["short"].n) == (13, 8)
    assert (overlaps["short"].checked, overlaps["short"].found) == (0, 0)


def test_evaluation_texts(tiny_mirror):
    for split in ("train", "validation"):
        columns = {"sentence1": [f"{split} one", "b"], "sentence2": ["two", "d"], "label": [0, 1]}
        tiny_mirror(f"nyu-mll/glue/rte/{split}", columns)
    assert evaluation_texts("rte") == ["validation one", "b", "two", "d"]
    with pytest.raises(UserError, match=r"data\.task: no task 'rtee'"):
        evaluation_texts("rtee")


def test_packed_documents_are_those_that_were_drawn(tmp_path, sentences):
    for name, texts in {"a": sentences[:200], "b": sentences[200:]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(texts))
    weights = {str(tmp_path / "a.txt"): 0.5, str(tmp_path / "b.txt"): 0.5}
    config = DataConfig(corpus=weights, vocab_size=200, sequence_length=16, validation_fraction=0.2, cache_dir=tmp_path)
    statistics = prepare(config, progress=False).statistics
    packed = list(packed_documents(config, statistics))
    assert len(packed) == statistics.documents + statistics.validation_documents
    assert sum(held_out for held_out, _ in packed) == statistics.validation_documents
