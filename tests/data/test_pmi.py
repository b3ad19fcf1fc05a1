"""Collocations against the definition, and `data pmi` as a user meets it."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from concept_encoder.cli.main import main
from concept_encoder.data.packing import prepare
from concept_encoder.data.pmi import SHARES, NgramCounter, choose
from concept_encoder.objectives.masking_ngrams import NgramFile
from concept_encoder.training.pretrain import PretrainRecipe, pretrain
from concept_encoder.training.recipe import load_sections


def naive(texts: list[list[int]], min_count: int) -> dict[tuple[int, ...], tuple[int, float]]:
    """Equation 3 of the paper, by enumeration: the least over all segmentations into at least two pieces."""
    counts = Counter(tuple(text[i : i + n]) for text in texts for n in range(1, 6) for i in range(len(text) - n + 1))
    totals = Counter(len(run) for run in counts.elements())
    p = {run: count / totals[len(run)] for run, count in counts.items()}

    def segmentations(run):
        for k in range(1, len(run)):
            yield [run[:k], run[k:]]
            for rest in segmentations(run[k:]):
                yield [run[:k], *rest]

    found = {}
    for run, count in counts.items():
        if len(run) > 1 and count >= min_count:
            score = min(math.log(p[run] / math.prod(p[piece] for piece in cut)) for cut in segmentations(run))
            if score > 1e-9:
                found[run] = count, score
    return found


@settings(max_examples=60)
@given(
    texts=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=25), min_size=1, max_size=4),
    min_count=st.integers(1, 3),
    blocks=st.integers(1, 2),
)
def test_scores_are_those_of_the_definition(texts, min_count, blocks):
    counter = NgramCounter()
    for part in range(blocks):
        sequence = [word for text in texts[part::blocks] for word in [*text, 0]]
        counter.add(np.array(sequence, dtype=np.uint32))
    expected = naive(texts, min_count)
    found = {
        tuple(words): (count, score)
        for ngrams in counter.collocations(min_count).values()
        for words, count, score in zip(ngrams.words_GN.tolist(), ngrams.counts_G.tolist(), ngrams.scores_G.tolist())
        if score > 1e-9
    }
    assert found.keys() == expected.keys()
    for run, (count, score) in expected.items():
        assert found[run] == (count, pytest.approx(score))


def test_the_best_come_first_and_fill_the_shares():
    rng = np.random.default_rng(0)
    words = rng.integers(1, 200, 20_000)
    for run, times in (((201, 202), 40), ((203, 204, 205), 40), ((206, 207, 208, 209, 210), 40)):
        for at in rng.choice(3900, times, replace=False) * 5:
            words[at : at + len(run)] = run
    counter = NgramCounter()
    counter.add(words)
    found = counter.collocations(min_count=10)
    assert found[5].words_GN[0].tolist() == [206, 207, 208, 209, 210]
    assert all((np.diff(ngrams.scores_G) <= 0).all() for ngrams in found.values())
    chosen, share = choose(found, counter.blocks, size=8)
    assert {n: len(ngrams.counts_G) for n, ngrams in chosen.items()} == {n: int(8 * SHARES[n]) for n in SHARES}
    covered = np.zeros(len(words), dtype=bool)
    for n, ngrams in chosen.items():
        for run in ngrams.words_GN:
            at = np.flatnonzero((np.lib.stride_tricks.sliding_window_view(words, n) == run).all(1))
            covered[(at[:, None] + np.arange(n)).flatten()] = True
    assert share == pytest.approx(covered.mean())


def test_what_is_rarest_is_forgotten_first():
    words = np.tile([1, 2, 3, 4, 5, 6], 50)
    noise = np.arange(10, 3000)
    counter = NgramCounter(limit=100)
    for block in (words, noise, words):
        counter.add(block)
    found = counter.collocations(min_count=10)
    assert len(found[2].counts_G) > 0
    assert all(words.max() <= 6 for words in (ngrams.words_GN for ngrams in found.values()) if len(words))


@pytest.fixture
def recipe(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    nouns = ["new york", "san francisco", "los angeles", "a dog", "the house", "her car"]
    lines = [
        " ".join(f"{rng.choice(nouns)} {rng.choice(['sees', 'likes', 'is'])}" for _ in range(12)) for _ in range(300)
    ]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    sections = {
        "model": {"preset": "woven", "num_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "local_window": 8},
        "data": {
            "corpus": str(tmp_path / "texts.txt"),
            "vocab_size": 128,
            "sequence_length": 24,
            "cache_dir": str(tmp_path / "cache"),
            "validation_fraction": 0.1,
        },
        "objective": {"masking": "pmi", "ngrams": str(tmp_path / "made" / "ngrams.npz"), "mask_rate": 0.3},
        "training": {"output_dir": str(tmp_path / "run"), "max_steps": 2, "batch_size": 8},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(sections))
    return tmp_path / "recipe.yaml"


def run(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    out, err = capsys.readouterr()
    return stopped.value.code or 0, out, err


def test_from_a_corpus_to_a_run(capsys, recipe):
    """The made n-grams name real collocations, train a model, and are refused for another tokenizer."""
    file = recipe.parent / "made" / "ngrams.npz"
    code, _, err = run(capsys, "pretrain", str(recipe))
    assert code == 2
    assert f"objective.ngrams: there is no file {file}" in err
    code, out, _ = run(capsys, "data", "pmi", str(recipe), str(file))
    assert code == 0
    assert "they hold" in out
    pretraining = PretrainRecipe.from_sections(load_sections(recipe))
    tokenizer = prepare(pretraining.data).tokenizer
    made = NgramFile.load(file, tokenizer)
    texts = {tokenizer.decode(ids) for ids in np.split(made.ids_T, np.cumsum(made.sizes_G)[:-1])}
    assert {"new york", "san francisco", "los angeles"} <= texts
    assert pretrain(pretraining)["eval_loss"] > 0
    other = ("data.tokenizer_type=unigram", f"training.output_dir={recipe.parent / 'other'}")
    code, _, err = run(capsys, "pretrain", str(recipe), *other)
    assert code == 2
    assert "objective.ngrams" in err
    assert "was made with another tokenizer" in err
    assert not (recipe.parent / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-count", "100000"], "no collocation was seen 100000 times"),
        (["data.corpus=nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_line(capsys, recipe, arguments, message):
    file = recipe.parent / "ngrams.npz"
    code, _, err = run(capsys, "data", "pmi", str(recipe), str(file), *arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not file.exists()


def test_a_file_that_cannot_be_written_leaves_nothing(capsys, recipe):
    folder = recipe.parent / "folder"
    folder.mkdir()
    code, _, err = run(capsys, "data", "pmi", str(recipe), str(folder))
    assert (code, err) == (2, f"error: {folder}: cannot be written (Is a directory)\n")
    assert not [path for path in recipe.parent.iterdir() if path.name.startswith(".folder")]
