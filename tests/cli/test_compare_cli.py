"""`compare` and `gap` as a user gives them."""

import json
import os

import numpy as np
import pytest
import yaml

from concept_encoder.cli.main import main
from concept_encoder.evaluation.metrics import compute_all


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return stopped.value.code or 0, out, err


@pytest.fixture
def systems(tmp_path):
    rng = np.random.default_rng(0)
    labels = (np.arange(150) < 100).astype(int)
    for name, share in (("twin", 0.6), ("woven", 0.9)):
        for seed in range(5):
            folder = tmp_path / name / f"seed{seed}"
            folder.mkdir(parents=True)
            predictions = np.where(rng.random(150) < share, labels, 1 - labels)
            metrics = ("f1", "accuracy")
            result = {
                "verb": "finetune",
                "task": "mrpc",
                "kind": "classification",
                "scores": compute_all(metrics, predictions, labels),
                "baselines": {"majority class": compute_all(metrics, np.ones(150, int), labels)},
                "examples": {"validation": 150},
            }
            (folder / "result.json").write_text(json.dumps(result))
            (folder / "recipe.yaml").write_text(yaml.safe_dump({"training": {"seed": seed}}))
            found = {"labels": labels.tolist(), "predictions": predictions.tolist()}
            (folder / "predictions.json").write_text(json.dumps(found))
    return tmp_path / "twin", tmp_path / "woven"


def test_compare_in_every_format(capsys, systems, tmp_path):
    code, out, _ = run(capsys, "compare", *systems)
    assert code == 0
    assert "Differences from twin" in out
    code, out, _ = run(capsys, "compare", *systems, "--format", "markdown")
    assert "| mrpc | accuracy | woven | +" in out
    assert "| higher |" in out
    for name, start in (("page.html", "<!doctype html"), ("table.tex", r"\begin{table}"), ("table.md", "**Scores")):
        code, out, _ = run(capsys, "compare", *systems, "--output", tmp_path / name)
        assert code == 0
        assert (tmp_path / name).read_text().lower().startswith(start.lower())
        assert f"written: {tmp_path / name}" in out.replace("\n", "")


def test_gap_of_runs_and_of_published_rows(capsys, systems):
    code, out, _ = run(capsys, "gap", systems[1], "plan", "--format", "markdown")
    assert code == 0
    assert "| AVG8-acc | plan | 61.6 | 82.5 | +20.8 |" in out
    assert "the plan's 24 points are 23 like for like" in out
    code, out, _ = run(capsys, "gap", "--format", "markdown")
    assert "| electra-small | ELECTRA-Small++ | 14M | dev | AVG8-acc | 81.1 | 81.1 |" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare"], "Missing argument 'RUN...'"),
        (["compare", "nowhere"], "nowhere: no such run folder"),
        (["compare", "TWIN", "TWIN"], "given twice"),
        (
            ["compare", "TWIN", "--output", "table.pdf"],
            "table.pdf is not the name of a page; end it in .md, .html, .tex",
        ),
        (
            ["compare", "TWIN", "--output", "result.json", "--format", "markdown"],
            "result.json is not the name of a page",
        ),
        (["compare", "TWIN", "--output", "folder.md"], "--output: folder.md is a folder"),
        (["gap", "--output", "pipe.md"], "--output: pipe.md is no regular file; name another"),
        (["compare", ""], "RUN: is empty; name the folder of a run"),
        (["gap", ""], "RUN: is empty; name the folder of a run"),
        (["compare", "TWIN", "--output", "nowhere/table.md"], "--output: nowhere is no folder"),
        (["compare", "TWIN", "--output", "t.md", "--format", "terminal"], "--format: terminal goes to no file"),
        (
            ["gap", "bert-bas"],
            "bert-bas: no such run folder, and no published row of that name; did you mean 'bert-base'",
        ),
        (["gap", "--reference", "bert"], "bert: no published row of that name"),  # also where none is measured
        (["gap", "TWIN", "--reference", "bert"], "bert: no published row of that name; did you mean"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(capsys, systems, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.md").mkdir()
    os.mkfifo(tmp_path / "pipe.md")
    code, _, err = run(capsys, *(systems[0] if word == "TWIN" else word for word in arguments))
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
