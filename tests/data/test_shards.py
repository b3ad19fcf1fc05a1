"""Packing in shards: the same rows wherever shards end, however many processes tokenise, whenever it is killed."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concept_encoder.data import encoding, shards
from concept_encoder.data.cache import PROGRESS
from concept_encoder.data.corpus import DataConfig
from concept_encoder.data.packing import prepare
from concept_encoder.data.rows import DocumentRows, FullRows
from concept_encoder.errors import UserError

CLS, SEP = 101, 102


@pytest.fixture
def files(tmp_path, sentences):
    """Two corpora and held-out documents in files, so that another process can read them."""
    rng = random.Random(1)
    longer = [" ".join(rng.sample(sentences, 5)) for _ in range(60)]
    for name, documents in {"a": sentences, "b": longer, "held": rng.sample(sentences, 40)}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(documents))
    return tmp_path


def config(folder: Path, cache: str, **options) -> DataConfig:
    plain = {
        "corpus": {str(folder / "a.txt"): 0.4, str(folder / "b.txt"): 0.6},
        "vocab_size": 200,
        "sequence_length": 16,
        "validation_fraction": 0.2,
        "cache_dir": folder / cache,
    }
    return DataConfig(**{**plain, **options})


def content(corpus) -> dict:
    return {
        "train": [row.tolist() for row in corpus.train[:]["input_ids"]],
        "validation": [row.tolist() for row in corpus.validation[:]["input_ids"]],
        "texts": corpus.validation_texts,
        "statistics": corpus.statistics,
        "unigrams": corpus.unigram_counts.tolist(),
    }


@pytest.mark.parametrize("packing", ["full", "documents"])
@pytest.mark.parametrize("held_out", [False, True])
def test_where_shards_end_changes_nothing(files, monkeypatch, packing, held_out):
    options = {"packing": packing, "validation_corpus": str(files / "held.txt") if held_out else None}
    whole = prepare(config(files, "whole", **options), progress=False)
    monkeypatch.setattr(shards, "SHARD_CHARACTERS", 700)
    cut = prepare(config(files, "cut", **options), progress=False)
    assert len(list(cut.folder.glob("train-*.arrow"))) > 10
    assert content(cut) == content(whole)
    assert sorted(path.name for path in cut.folder.iterdir() if path.suffix != ".arrow") == [
        "statistics.json",
        "unigram_counts.npy",
        "validation_texts.json",
    ]


def test_processes_change_nothing(files):
    one = prepare(config(files, "one"), progress=False)
    two = prepare(config(files, "two"), progress=False, processes=2)
    assert content(two) == content(one)


@pytest.mark.parametrize("held_out", [False, True])
def test_after_a_failure_finished_shards_are_not_tokenised_again(files, monkeypatch, held_out):
    options = {"validation_corpus": str(files / "held.txt") if held_out else None}
    whole = prepare(config(files, "whole", **options), progress=False)
    monkeypatch.setattr(shards, "SHARD_CHARACTERS", 2000)
    add, added = shards._Packer.add, []

    def fail(packer, stream, document):
        add(packer, stream, document)
        added.append(document.text)
        if len(added) == 150:
            raise KeyboardInterrupt

    monkeypatch.setattr(shards._Packer, "add", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare(config(files, "cut", **options), progress=False)
    (partial,) = (files / "cut" / "corpora").glob("*.partial")
    finished = {path: path.stat().st_mtime_ns for path in sorted(partial.glob("train-*.arrow"))[:-1]}
    assert len(finished) >= 2
    again = prepare(config(files, "cut", **options), progress=False)
    assert content(again) == content(whole)
    total = sum(member["documents"] for member in again.statistics.members.values()) + (40 if held_out else 0)
    assert len(added) < total + 150  # fewer documents than two runs from the start
    assert {partial: (again.folder / path.name).stat().st_mtime_ns for path, partial in finished.items()} == {
        time: time for time in finished.values()
    }


def test_kill_minus_nine(files):
    """A real process, killed with no chance to clean up, with its workers; the next one goes on."""
    whole = prepare(config(files, "whole"), progress=False)
    code = f"""
import os, signal, time
from pathlib import Path
from concept_encoder.data import shards
from concept_encoder.data.corpus import DataConfig
from concept_encoder.data.packing import prepare
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_shards import config
if __name__ == "__main__":
    shards.SHARD_CHARACTERS = 3000
    save = shards._Packer.save
    def slow(packer):
        save(packer)
        time.sleep(0.3 if packer.shards > 2 else 0)
    shards._Packer.save = slow
    prepare(config(Path({str(files)!r}), "killed"), progress=False, processes=2)
"""
    (files / "run.py").write_text(code)
    process = subprocess.Popen([sys.executable, str(files / "run.py")], start_new_session=True)
    progress = None
    for _ in range(4800):  # minutes, on a machine that has other things to do
        progress = next(iter((files / "killed").glob(f"corpora/*.partial/{PROGRESS}")), None)
        if progress is not None and len(list(progress.parent.glob("train-*.arrow"))) > 3:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert progress is not None, "no shard was finished"
    with np.load(progress) as saved:
        assert json.loads(saved["plain"].tobytes())["shards"] >= 3
    for _ in range(600):  # its workers end by themselves
        workers = subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True, text=True).stdout.split()
        if not workers:
            break
        time.sleep(0.1)
    assert not workers
    assert content(prepare(config(files, "killed"), progress=False)) == content(whole)


def test_a_worker_that_is_killed_is_told_in_one_line_and_the_next_call_goes_on(files, monkeypatch):
    whole = prepare(config(files, "whole"), progress=False)
    monkeypatch.setattr(shards, "SHARD_CHARACTERS", 3000)
    save = shards._Packer.save

    def kill_a_worker(packer):
        save(packer)
        if packer.shards == 3:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    monkeypatch.setattr(shards._Packer, "save", kill_a_worker)
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 500)
    with pytest.raises(UserError, match="a process that tokenises was killed"):
        prepare(config(files, "killed"), progress=False, processes=2)
    monkeypatch.undo()
    assert len(list(files.glob("killed/corpora/*.partial/train-*.arrow"))) >= 3
    assert content(prepare(config(files, "killed"), progress=False)) == content(whole)


def rows_of(writer, documents, path):
    import datasets

    writer.begin(path)
    for ids in documents:
        writer.add(np.array(ids, dtype=np.int32))
    writer.end()
    return [list(row["input_ids"]) for row in datasets.Dataset.from_file(str(path))] if writer.rows else []


@given(st.lists(st.lists(st.integers(0, 99), max_size=25), max_size=12))
def test_rows_of_one_document_each(tmp_path_factory, documents):
    path = tmp_path_factory.mktemp("rows") / "rows.arrow"
    expected = [[CLS, *ids[start : start + 6], SEP] for ids in documents for start in range(0, len(ids), 6)]
    assert rows_of(DocumentRows(8, CLS, SEP), documents, path) == expected


@given(st.lists(st.lists(st.integers(0, 99), max_size=25), max_size=12))
def test_rows_across_documents(tmp_path_factory, documents):
    path = tmp_path_factory.mktemp("rows") / "rows.arrow"
    stream = [token for ids in documents if ids for token in [*ids, SEP]]
    expected = [[CLS, *stream[start : start + 7]] for start in range(0, len(stream) - 6, 7)]
    assert rows_of(FullRows(8, CLS, SEP), documents, path) == expected


def test_rows_of_one_document_reach_the_collator_with_a_mask(files):
    from concept_encoder.objectives.masked_lm import MaskedLMCollator, ObjectiveConfig
    from concept_encoder.training.stream import ExampleStream

    corpus = prepare(config(files, "cache", packing="documents"), progress=False)
    stream = ExampleStream(corpus.train, 32, seed=0)
    rows = stream.__getitems__(list(range(32)))
    batch = MaskedLMCollator(corpus.tokenizer, ObjectiveConfig(), seed=0)(rows)
    lengths = [len(row["input_ids"]) for row in rows]
    assert len(set(lengths)) > 1
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert all((np.asarray(row["input_ids"]) == corpus.tokenizer.sep_token_id).sum() == 1 for row in rows)


def test_the_length_histogram(files):
    corpus = prepare(config(files, "cache"), progress=False)
    statistics = corpus.statistics
    assert sum(statistics.length_histogram) == statistics.documents + statistics.validation_documents
    assert statistics.length_histogram[0] == 0  # no document of one token
