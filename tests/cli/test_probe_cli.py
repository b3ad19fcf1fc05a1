"""`concept-encoder probe` as a user and as a plan meet it."""

import json

import pytest
import torch
from cases import SMALL
from transformers import BertConfig, BertForMaskedLM

from concept_encoder.cli.main import main
from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.lab.metrics import metrics_of
from concept_encoder.lab.verbs import VERBS, command_line, read_result
from concept_encoder.model import ConceptEncoderForMaskedLM, preset_config

WORDS = ["the cat sees a dog", "a dog sees the cat", "dogs see cats", "cats see the dog and a cat"]


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return stopped.value.code or 0, out, err


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    for name, model in {
        "woven": ConceptEncoderForMaskedLM(preset_config("woven", 2, **SMALL)),
        "foreign": BertForMaskedLM(BertConfig(vocab_size=320, max_position_embeddings=48, **sizes)),
    }.items():
        model.save_pretrained(folder / name)
        train_tokenizer(WORDS * 5, "wordpiece", 120).save_pretrained(folder / name)
    return folder


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "agreement.csv"
    file.write_text("sentence_good,sentence_bad\n" + "\n".join(f"the cat sees {w},the cat see {w}" for w in WORDS))
    return file


def test_minimal_pairs_and_perplexity_are_written_for_a_plan(capsys, checkpoints, pairs, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(WORDS))
    sections = {"options": {"checkpoint": str(checkpoints / "woven"), "probe": ["blimp", "perplexity"]}}
    sections["options"] |= {"pairs": str(pairs), "texts": str(texts), "max_pairs": 3}
    words = command_line(VERBS["probe"], sections, tmp_path / "recipe.yaml", tmp_path / "out", 0, ("concept-encoder",))
    code, out, err = run(capsys, *words[1:])
    assert code == 0, err
    for said in ("chance", "the model, concepts shuffled", "the model, concepts zeroed", "guessing by frequency"):
        assert said in out
    metrics = metrics_of(VERBS["probe"], read_result(VERBS["probe"], tmp_path / "out"))
    assert metrics["blimp.pairs"] == 3
    assert {"blimp.accuracy", "blimp.shuffled.accuracy", "blimp.paradigms.agreement.accuracy"} <= set(metrics)
    assert {"perplexity.per_token", "perplexity.zeroed.per_word", "perplexity.unigram.bits_per_byte"} <= set(metrics)


def test_a_foreign_masked_language_model_stands_beside(capsys, checkpoints, pairs):
    code, out, err = run(capsys, "probe", checkpoints / "foreign", "--pairs", pairs)
    assert code == 0, err
    assert "concepts" not in out
    found = json.loads((checkpoints / "foreign" / "probe" / "probe.json").read_text())
    assert found["blimp"]["chance"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such checkpoint or run folder; for an id of the hub name a folder (--output)"),
        (["PAIRS"], "agreement.csv: neither a checkpoint (no config.json) nor a run"),
        (["HERE"], "neither a checkpoint (no config.json) nor a run"),  # said before the hub is asked for BLiMP
        (["WOVEN", "--pairs", "nowhere.csv"], "nowhere.csv: no such file"),
        (["WOVEN", "--pairs", "PAIRS", "--output", "PAIRS"], "agreement.csv is a file; name a folder"),
        (["WOVEN", "--pairs", "PAIRS", "--output", "PAIRS/out"], "agreement.csv is a file; name a folder"),
        (["WOVEN", "--probe", "perplexity"], "says which texts were held out; give a file of texts (--texts FILE)"),
        (["WOVEN", "--probe", "perplexity", "--texts", "PAIRS", "--text-column", "x"], "no column 'x'"),
        (["WOVEN", "--probe", "blmp"], "'blmp' is not one of"),
        pytest.param(
            ["WOVEN", "--device", "cuda"],
            "--device: no CUDA device is visible; use cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(capsys, checkpoints, pairs, arguments, message):
    named = {"WOVEN": checkpoints / "woven", "PAIRS": pairs, "HERE": checkpoints}
    code, _, err = run(capsys, "probe", *(named.get(word, word.replace("PAIRS", str(pairs))) for word in arguments))
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (checkpoints / "woven" / "probe").exists()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Similarity tasks and a task of one text, in the hub's layout."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, others = WORDS * 8, [*WORDS[1:], WORDS[0]] * 8
    scores = [float(i % 4) for i in range(32)]
    tables = {
        "nyu-mll/glue/stsb": {"sentence1": texts, "sentence2": others, "label": scores},
        "RobZamp/sick/default": {"sentence_A": texts, "sentence_B": others, "relatedness_score": scores},
        "nyu-mll/glue/cola": {"sentence": texts, "label": [0, 1, 1, 0] * 8},
    }
    for path, columns in tables.items():
        for split in ("train", "validation"):
            file = tmp_path / "hub" / path / f"{split}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(columns), file)
    monkeypatch.setenv("CONCEPT_ENCODER_DATA_ROOT", str(tmp_path / "hub"))


def test_frozen_probes_stand_beside_their_baselines(capsys, checkpoints, mirror, tmp_path):
    asked = ["--probe", "sts", "--task", "cola", "--baseline", "cbow", "--output", tmp_path / "out"]
    code, out, err = run(capsys, "probe", checkpoints / "woven", *asked)
    assert code == 0, err
    for said in ("word overlap", "majority class", "bag of words", "cbow", "concepts, concepts shuffled", "decoded"):
        assert said in out
    metrics = metrics_of(VERBS["probe"], read_result(VERBS["probe"], tmp_path / "out"))
    assert {"sts.stsb.decoded.spearman", "sts.sick-relatedness.concepts.shuffled.pearson"} <= set(metrics)
    assert {"linear.cola.decoded.zeroed.accuracy", "linear.cola.baselines.cbow.accuracy"} <= set(metrics)
    code, out, err = run(capsys, "probe", checkpoints / "foreign", "--task", "cola", "--output", tmp_path / "foreign")
    assert code == 0, err
    assert "tokens" in out
    assert "shuffled" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "coal"], "'--task': 'coal' is not one of 'cola'"),
        (["--task", "cola", "--baseline", "lstm"], "'--baseline': 'lstm' is not one of 'cbow', 'bilstm'"),
        (["--task", "cola", "--max-length", "99"], "max_length: 99 is more than the model's 48"),
        (["--mteb", "STS1234"], "STS1234"),
    ],
)
def test_mistakes_of_tasks(capsys, checkpoints, mirror, arguments, message):
    code, _, err = run(capsys, "probe", checkpoints / "woven", *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (checkpoints / "woven" / "probe").exists()
