import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from concept_encoder import analysis as room
from concept_encoder.analysis.pictures import figures_of
from concept_encoder.data.conllu import tagged
from concept_encoder.errors import UserError


@pytest.fixture(scope="module")
def sentences(texts):
    return [tagged(text.split(), ["DET" if word == "the" else "X" for word in text.split()]) for text in texts(80)]


@pytest.fixture(scope="module")
def found(checkpoints, texts, sentences):
    return room.analyze(checkpoints["learned"], texts(60), sentences=sentences, causal_texts=16)


@pytest.fixture
def run(checkpoints, tmp_path):
    for step in (10, 5):
        shutil.copytree(checkpoints["learned"], tmp_path / "run" / "checkpoints" / f"checkpoint-{step}")
    lines = [
        '{"step": 5, "loss": 7.5}',
        '{"step": 5, "eval_loss": 7.4}',
        '{"step": 10, "loss": 7.0}',
        '{"step": 12, "loss": NaN}',
        '{"step": 15, "lo',
    ]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(lines))
    return tmp_path / "run"


def test_an_analysis_is_json_and_always_the_same(found, checkpoints, texts):
    text = json.dumps(found, allow_nan=False)
    again = room.analyze(checkpoints["learned"], texts(60), causal_texts=16)
    assert json.loads(text)["rank"] == again["rank"]
    assert json.loads(text)["causal"] == again["causal"]
    assert found["texts"]["count"] == 60
    assert found["roles"]["classes"] == ["X", "DET"]
    assert found["attention"]["reads"] == 4
    assert found["health"]["exit_code"] == 0


def test_everything_is_written_and_read_back(found, tmp_path):
    page = room.write_analysis(found, tmp_path / "out")
    assert page.name == "report.html"
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == set(figures_of(found))
    assert {"spectrum", "correlation", "dimensions", "position", "sentence-1", "causal"} <= set(figures_of(found))
    read = room.read_analysis(tmp_path / "out")
    assert room.concept_report(read).render() == page.read_text(encoding="utf-8")
    room.write_analysis(found | {"roles": None}, tmp_path / "out")  # no picture of an earlier analysis stays
    assert not (tmp_path / "out" / "figures" / "word-classes.svg").exists()
    assert (tmp_path / "out" / "figures" / "spectrum.svg").exists()


def test_word_classes_are_asked_of_every_move_that_reads(checkpoints, texts, sentences):
    exchange = room.analyze(checkpoints["exchange"], texts(12), sentences=sentences, causal_texts=0)
    assert exchange["roles"]["classes"] == ["X", "DET"]
    tokens = room.analyze(checkpoints["foreign"], texts(12), states="tokens", sentences=sentences)
    assert "roles" not in tokens
    assert "word classes are left out: they are asked of concepts that read tokens by attention" in tokens["notes"]


def test_sections_join_a_report_that_is_there_already(found):
    report = room.Report("Quickstart").section("Losses").table(["model", "loss"], [["ours", 5.0]])
    html = room.concept_report(found, report).render()
    assert html.index("Losses") < html.index("The concepts in short") < html.index("Health")


def test_two_analyses_side_by_side(found, checkpoints, texts, tmp_path):
    other = room.analyze(checkpoints["foreign"], texts(60), states="tokens")
    assert other["attention"] is None
    assert other["causal"] is None
    compared = room.compare(found, other)
    rows = {row[0]: row[1:] for row in compared["rows"]}
    first, second = found["rank"]["effective_rank"], other["rank"]["effective_rank"]
    assert rows["effective rank"] == [first, second, round(second - first, 5)]
    assert "token states" in compared["notes"][0]
    page = room.write_comparison(found, other, tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text())["names"] == ["learned", "foreign"]
    assert page.read_text().count("<svg") == 3


def test_geometry_over_training_and_losses(run, texts):
    points = room.geometry_over_training(run, texts(15))
    assert [point["step"] for point in points] == [5, 10]
    assert 0 < points[0]["effective rank / ceiling"] <= 1.1
    found = room.analyze(run, texts(15), causal_texts=0)
    assert found["losses"] == {"training": [[5, 7.5], [10, 7.0]], "held out": [[5, 7.4]]}
    found["training"] = points
    assert {"loss", "training"} <= set(figures_of(found))


def test_the_run_of_a_checkpoint_is_found_from_anywhere(tmp_path, monkeypatch):
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-5"
    checkpoint.mkdir(parents=True)
    assert room.run_of(checkpoint) == room.run_of(tmp_path / "run") == tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    assert room.run_of("run/checkpoints/checkpoint-5") == Path("run")
    monkeypatch.chdir(checkpoint.parent)
    assert room.run_of("checkpoint-5").samefile(tmp_path / "run")


def test_a_folder_that_is_no_run(tmp_path, texts):
    with pytest.raises(UserError, match="no checkpoints/checkpoint-"):
        room.geometry_over_training(tmp_path, texts(3))
    with pytest.raises(UserError, match="no such checkpoint"):
        room.analyze(tmp_path / "nowhere", texts(3))


def test_one_text_gives_what_it_can_and_says_what_is_missing(checkpoints, texts, tmp_path):
    found = room.analyze(checkpoints["anchored"], texts(1))
    assert found["rank"]["content_rank"] is None
    page = room.write_analysis(found, tmp_path).read_text()
    assert "need at least 10 texts, got 1" in page
    assert "the loss without concepts needs at least 2 texts to exchange them between, got 1" in page
    assert not [number for number in room.key_numbers(found) if "loss added" in number.label]
    assert "needs at least" in page


def test_cut_texts_and_nan_states_are_noted(checkpoints, texts, tmp_path):
    subject = room.load_subject(checkpoints["learned"])
    subject.model.model.groups["0"].attention.out.weight.data[:] = torch.nan
    found = room.analyze(subject, ["cat " * 50, *texts(3), "  "])
    assert found["notes"] == [
        "1 of 4 texts are longer than 32 tokens and were cut",
        "4 texts with NaN or infinite states are left out of the geometry",
    ]
    assert found["rank"] is None
    assert found["health"]["exit_code"] == 1
    room.write_analysis(found, tmp_path)


def test_a_run_that_ends_in_nan_is_followed_until_then(run, texts, sentences, tmp_path):
    file = run / "checkpoints" / "checkpoint-10" / "model.safetensors"
    weights = load_file(file)
    weights["model.embeddings.word.weight"][:] = torch.nan
    save_file(weights, file, metadata={"format": "pt"})
    found = room.analyze(run, texts(15), sentences=sentences)
    found["training"] = room.geometry_over_training(run, texts(15))
    first, last = found["training"]
    assert 0 < first["effective rank / ceiling"] <= 1.1
    assert set(last.values()) == {10, None}
    room.write_analysis(found, tmp_path / "out")


def test_files_that_are_no_analysis(tmp_path):
    with pytest.raises(UserError, match="run the analysis first"):
        room.read_analysis(tmp_path / "nowhere")
    (tmp_path / "analysis.json").write_text("[]")
    with pytest.raises(UserError, match="not an analysis"):
        room.read_analysis(tmp_path)


def test_concepts_that_are_almost_one_vector_meet_no_target():
    noise_TCD = torch.randn(40, 6, 24, generator=torch.Generator().manual_seed(0))
    for shift, expected in ((0.0, True), (100.0, False)):
        found = {**room.geometry(noise_TCD + shift), "texts": {}, "health": {}}
        number = next(n for n in room.key_numbers(found) if n.label == "effective rank / noise ceiling")
        assert number.value > 0.8
        assert number.met is expected
