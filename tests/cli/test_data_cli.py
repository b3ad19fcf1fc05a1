"""`data` and `tokenizer` as a user meets them, and `pretrain --smoke` on the plan's recipes."""

import json
from pathlib import Path

import pytest
import yaml

from concept_encoder.cli.main import main
from concept_encoder.data.corpus import DataConfig
from concept_encoder.training.pretrain import PretrainRecipe
from concept_encoder.training.recipe import load_sections, section

RECIPES = Path(__file__).parents[2] / "recipes"
PLAN = ["plan-fineweb-edu.yaml", "plan-openwebtext-wikipedia.yaml"]


def run(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    out, err = capsys.readouterr()
    return stopped.value.code or 0, out, err


@pytest.fixture
def texts(tmp_path):
    lines = [f"line {i} of some text, {'odd' if i % 2 else 'even'} and long enough to read" for i in range(300)]
    (tmp_path / "one.txt").write_text("\n".join(lines))
    (tmp_path / "two.txt").write_text("\n".join(line.upper() for line in lines[:200]))
    return tmp_path


@pytest.fixture
def recipe(texts):
    file = texts / "recipe.yaml"
    data = {
        "corpus": {str(texts / "one.txt"): 0.5, str(texts / "two.txt"): 0.5},
        "sequence_length": 16,
        "vocab_size": 128,
        "validation_fraction": 0.1,
        "cache_dir": str(texts / "cache"),
    }
    file.write_text(yaml.safe_dump({"data": data}))
    return file


def test_prepare_and_stats(capsys, recipe, texts):
    pytest.importorskip("datasketch")
    pytest.importorskip("py3langid")
    code, out, _ = run(capsys, "data", "prepare", str(recipe), "--processes", "1")
    assert code == 0
    folder = next(line.removeprefix("prepared: ") for line in out.splitlines() if line.startswith("prepared: "))
    assert json.loads((Path(folder) / "statistics.json").read_text())["documents"] > 300
    code, out, _ = run(capsys, "data", "stats", str(recipe))
    assert code == 0
    for words in ("exact duplicates", "near duplicates", "en", "unknown tokens", "8 to 15"):
        assert words in out
    assert len(list((texts / "cache" / "corpora").glob("*/statistics.json"))) == 1  # packed once


def test_corpora_are_listed(capsys):
    code, out, _ = run(capsys, "data", "corpora")
    assert code == 0
    assert "fineweb-edu" in out
    assert "8,013,769" in out
    assert "39.8" in out


@pytest.mark.parametrize("width", [80, 200])
def test_tasks_are_listed(capsys, monkeypatch, width):
    """Their names whole, whatever the width: they are typed again, and `grep` looks for them."""
    from concept_encoder.cli import show
    from concept_encoder.data.tasks.table import TASKS

    monkeypatch.setattr(show.console, "_width", width)
    code, out, _ = run(capsys, "data", "tasks")
    assert code == 0
    assert all(f" {name} " in out for name in TASKS)
    assert width < 200 or "validation_mismatched" in out
    assert "9,832" in out


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_train_a_tokenizer_and_compare(capsys, texts, kind):
    size = "300" if kind == "bpe" else "80"
    corpus, folder = str(texts / "one.txt"), str(texts / kind)
    code, out, _ = run(capsys, "tokenizer", "train", corpus, folder, "--type", kind, "--vocab-size", size)
    assert code == 0
    assert f"{'320' if kind == 'bpe' else '128'} embedding rows" in out
    code, out, _ = run(capsys, "tokenizer", "report", folder, "--texts", str(texts / "two.txt"))
    assert code == 0
    assert kind in out
    code, _, err = run(capsys, "tokenizer", "train", corpus, folder)
    assert code == 2
    assert "is there already" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "prepar"], "data prepar: no such command; did you mean 'prepare'"),
        (["data", "prepare", "RECIPE", "data.corpus={one: 0.5, two: 0.4}"], "data.corpus: the weights sum to 0.9"),
        (["data", "prepare", "RECIPE", "data.corpus=only.txt"], "data.validation_fraction: 0 held-out documents"),
        (["data", "prepare", "RECIPE", "data.corpus=minipil"], "did you mean 'minipile'"),
        (["data", "prepare", "RECIPE", "data.packing=docs"], "data.packing: 'docs' is not one of documents, full"),
        (["data", "prepare", "RECIPE", "data.sequence_length=100000", "data.packing=full"], "training documents ("),
        (["data", "stats", "RECIPE", "--task", "colla"], "no task 'colla'"),
        (["tokenizer", "train", "gone.txt", "here"], "gone.txt: no such file"),
        (["tokenizer", "train", "RECIPE", "here", "--vocab-size", "100", "--type", "bpe"], "data.vocab_size: 100"),
        (["tokenizer", "report", "nowhere/at/all", "--texts", "x.txt"], "nowhere/at/all: no such file"),
    ],
)
def test_mistakes_get_one_line(capsys, recipe, texts, monkeypatch, arguments, message):
    monkeypatch.chdir(texts)
    (texts / "only.txt").write_text("one document, and enough of it for a row of sixteen tokens, but no second one")
    code, _, err = run(capsys, *(str(recipe) if word == "RECIPE" else word for word in arguments))
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", PLAN)
def test_the_plan_at_full_size(name):
    sections = load_sections(RECIPES / name)
    checked = PretrainRecipe.from_sections(sections)
    training = checked.training
    assert (training.batch_size, training.learning_rate, training.schedule) == (512, 3e-4, "cosine")
    assert (sections["model"]["hidden_size"], sections["model"]["num_layers"]) == (512, 6)
    assert sections["model"]["num_concepts"] == 128
    assert section(sections, "data", DataConfig).sequence_length == 512


@pytest.mark.parametrize("name", PLAN)
def test_the_plan_at_toy_size(capsys, texts, monkeypatch, name):
    monkeypatch.chdir(texts)
    monkeypatch.setenv("XDG_CACHE_HOME", str(texts))
    overrides = ["data.corpus={one.txt: 0.65, two.txt: 0.35}", "data.vocab_size=128", "training.max_steps=2"]
    code, _, err = run(capsys, "pretrain", str(RECIPES / name), "--smoke", *overrides)
    assert code == 0, err
    run_folder = texts / "runs" / f"{name.removesuffix('.yaml')}-smoke"
    result = json.loads((run_folder / "result.json").read_text())
    assert result["steps"] == 2
    assert result["concepts"] == 16
