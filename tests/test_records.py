"""Files of a run: whole or absent, and readable after a kill at any byte."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concept_encoder.records import read_metrics, write_atomically

LINES = [{"step": 1, "loss": 7.0}, {"step": 1, "eval_loss": 6.9}, {"step": 2, "loss": 6.5, "note": "µ"}]


def test_later_lines_of_a_step_count_and_held_out_losses_are_records_of_their_own(tmp_path):
    later = {"step": 1, "loss": 6.8}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*LINES, later]))
    assert read_metrics(tmp_path) == [later, *LINES[1:]]
    assert read_metrics(tmp_path / "no-such-run") == []


@given(cut=st.integers(0, 200), resumed=st.booleans())
def test_a_kill_at_any_byte_costs_the_line_being_written_alone(tmp_path_factory, cut, resumed):
    run = tmp_path_factory.mktemp("run")
    written = [json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in LINES]
    kept = b"".join(written)[:cut]
    (run / "metrics.jsonl").write_bytes(kept + b"\n" + written[-1] if resumed else kept)
    whole = [line for line, text in zip(LINES, written) if text.rstrip() in kept]
    expected = [*(line for line in whole if line != LINES[-1]), LINES[-1]] if resumed else whole
    assert read_metrics(run) == expected


@pytest.mark.parametrize("content", ["text µ", b"bytes \xff"])
def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path, content):
    path = write_atomically(tmp_path / "new" / "file", "old")
    assert write_atomically(path, content) == path
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "file", "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device", "x")))
    with pytest.raises(OSError, match=r"No space left on device: '.*/file'"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named_as_it_was_given(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"report\.html") as caught:
        write_atomically(tmp_path / "file" / "report.html", "x")
    assert caught.value.filename == str(tmp_path / "file" / "report.html")


def test_nothing_heavy_is_imported():
    heavy = "{'torch', 'transformers', 'numpy', 'yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys, concept_encoder.records; assert not {heavy}"], check=True)
