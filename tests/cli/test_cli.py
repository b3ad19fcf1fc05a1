"""The command line as a user meets it: help, verbs, and one line for what is wrong."""

import subprocess
import sys

import pytest
import torch
import yaml

from concept_encoder.cli.main import VERBS, main
from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.model import ConceptEncoderForMaskedLM, preset_config


def run(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    out, err = capsys.readouterr()
    return stopped.value.code or 0, out, err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    train_tokenizer(["concepts read the tokens of a text"] * 5, "wordpiece", 64).save_pretrained(folder)
    torch.manual_seed(0)
    config = preset_config(
        "anchored", 3, vocab_size=64, hidden_size=16, num_attention_heads=2, max_position_embeddings=16
    )
    ConceptEncoderForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(f"line {i} of some text to read" for i in range(200)))
    file = tmp_path / "recipe.yaml"
    sections = {
        "model": {"preset": "anchored", "num_layers": 3, "hidden_size": 16, "num_attention_heads": 2},
        "data": {
            "corpus": str(tmp_path / "corpus.txt"),
            "sequence_length": 16,
            "vocab_size": 64,
            "validation_fraction": 0.2,
            "cache_dir": str(tmp_path / "cache"),
        },
        "training": {"output_dir": str(tmp_path / "run"), "max_steps": 2, "batch_size": 4},
    }
    file.write_text(yaml.safe_dump(sections))
    return file


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help(capsys, verb):
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert "Usage:" in out


def test_help_imports_no_torch():
    lines = ["import sys; from concept_encoder.cli.main import main", "try: main(['--help'])"]
    code = "\n".join([*lines, "except SystemExit: print('torch' in sys.modules)"])
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.rstrip().endswith("False")


def test_pretrain_and_ask(capsys, recipe, tmp_path):
    code, out, _ = run(capsys, "pretrain", str(recipe), "training.seed=1")
    assert code == 0
    assert "unigram" in out
    code, out, _ = run(capsys, "fill-mask", str(tmp_path / "run"), "line [MASK] of some text", "--top", "3")
    assert code == 0
    assert "probability" in out


@pytest.mark.parametrize("words", [["plan"], ["plan", "hosts"], ["data"], ["tokenizer"]])
def test_a_group_of_commands_alone_prints_its_help(capsys, words):
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "Commands:" in out


def test_variants_and_describe(capsys, recipe):
    code, out, _ = run(capsys, "variants")
    assert code == 0
    for name in ("woven", "exchange", "anchored", "upsample_residual", "cope", "cls_query", "token"):
        assert name in out
    code, out, _ = run(capsys, "describe", str(recipe))
    assert code == 0
    assert "Parameters" in out
    assert "16,384" in out
    assert "bert twin: " in out
    code, out, _ = run(capsys, "describe", str(recipe), "model.preset=bert", "model.concept_position=none")
    assert code == 0
    assert "bert twin" not in out  # it is its own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quikstart"], "quikstart: no such command; did you mean 'quickstart'"),
        (["pretrain"], "Missing argument 'RECIPE'"),
        (["quickstart", "--short", "--output", "RECIPE"], "is a file; name a folder"),
        (["pretrain", "nothing.yaml"], "nothing.yaml: no such recipe file"),
        (["pretrain", "RECIPE", "model.preset=wovn"], "model.preset: no preset is called 'wovn'; did you mean 'woven'"),
        (["pretrain", "RECIPE", "data.corpus=nothing.txt"], "nothing.txt"),
        (["pretrain", "RECIPE", "training.output_dir=/proc/run"], "/proc/run"),
        (["describe", "RECIPE", "model.num_layers=2"], "model.num_layers: preset 'anchored' needs at least 3 layers"),
        (["fill-mask", "nowhere", "a [MASK]"], "nowhere: no such checkpoint or run folder"),
        (["fill-mask", "CHECKPOINT", "no mask here"], "holds no [MASK]"),
        (["fill-mask", "CHECKPOINT", "[MASK] " * 30], "tokens exceed max_position_embeddings 16"),
        (["variants", "postions"], "postions: no such family; did you mean 'positions'"),
        (["analyze", "nowhere"], "nowhere"),
        (["analyze", "CHECKPOINT", "--tags", "nowhere.conllu"], "nowhere.conllu"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(capsys, recipe, checkpoint, arguments, message):
    named = {"RECIPE": str(recipe), "CHECKPOINT": str(checkpoint)}
    code, _, err = run(capsys, *(named.get(word, word) for word in arguments))
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "corpus.txt"),
        (b"caf\xe9 au lait\n", "corpus.txt:1"),
        (b"too short", "data.sequence_length"),
    ],
)
def test_bad_corpora_leave_nothing_behind(capsys, recipe, tmp_path, content, message):
    (tmp_path / "corpus.txt").write_bytes(content)
    code, _, err = run(capsys, "pretrain", str(recipe))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
