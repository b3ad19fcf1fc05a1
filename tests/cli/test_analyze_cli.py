"""`concept-encoder analyze` as a user meets it: which texts it reads, tasks, targets, and what is wrong in a line."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from concept_encoder.cli.main import main
from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.model import (
    ConceptEncoderForMaskedLM,
    ConceptEncoderForSequenceClassification,
    ConceptEncoderForTokenClassification,
    preset_config,
)

ANIMALS, TOOLS = ("cat", "dog", "cow", "hen"), ("saw", "axe", "file", "drill")
SIZES = {"vocab_size": 128, "hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": 24}


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return stopped.value.code or 0, out, err


def analyse(capsys, *arguments: object) -> tuple[str, dict]:
    """What it prints, and the analysis it leaves beside the checkpoint."""
    code, out, err = run(capsys, "analyze", *arguments)
    assert code == 0, err
    return out, json.loads((arguments[0] / "analysis" / "analysis.json").read_text())


def save_run(folder, model_class=ConceptEncoderForMaskedLM, data=None, **fields):
    """A run's folder with one checkpoint of an untrained model."""
    checkpoint = folder / "checkpoints" / "checkpoint-3"
    torch.manual_seed(0)
    names = {"num_labels": 2, "id2label": {0: "animal", 1: "tool"}, "label2id": {"animal": 0, "tool": 1}}
    model_class(preset_config("perceiver_mlm", 2, num_concepts=5, **SIZES, **names, **fields)).save_pretrained(
        checkpoint
    )
    train_tokenizer([" ".join((*ANIMALS, *TOOLS, "the", "a", "and"))] * 5, "wordpiece", 80).save_pretrained(checkpoint)
    if data is not None:
        (folder / "recipe.yaml").write_text(yaml.safe_dump({"data": data}))
    return folder


def task_text(i: int) -> tuple[str, str]:
    words, label = (ANIMALS, "animal") if i % 2 else (TOOLS, "tool")
    return f"the {words[i % 4]} and a {words[i // 4 % 4]} and {i}", label


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(task_text(i)[0] for i in range(300)))
    return {"corpus": str(file), "validation_fraction": 0.3, "vocab_size": 128, "sequence_length": 24}


@pytest.fixture
def rows(tmp_path):
    """Rows of a task of one's own, with a second text, as CSV and as words with tags."""
    file = tmp_path / "task.csv"
    table = [f"{task_text(i)[0]},{task_text(i + 1)[0]},{task_text(i)[1]}" for i in range(240)]
    file.write_text("\n".join(["sentence,other,topic", *table]))
    tagged = tmp_path / "tagged.jsonl"
    words = [task_text(i)[0].split() for i in range(240)]
    tags = [["tool" if word in TOOLS else "animal" for word in sentence] for sentence in words]
    tagged.write_text("\n".join(json.dumps({"words": w, "tags": t}) for w, t in zip(words, tags)))
    return {"csv": file, "tagged": tagged}


def test_a_run_is_read_on_its_own_held_out_texts(capsys, corpus, tmp_path):
    folder = save_run(tmp_path / "run", data=corpus)
    out, found = analyse(capsys, folder)
    assert f"held-out documents of {corpus['corpus']}" in out
    assert 60 < found["texts"]["count"] < 120
    assert f"reading {found['texts']['count']}" in out
    assert "analysed" not in out
    (tmp_path / "inside").mkdir()
    _, inside = analyse(capsys, folder / "checkpoints" / "checkpoint-3", "--max-texts", "20")
    assert inside["texts"]["count"] == 20
    assert inside["texts"]["source"] == found["texts"]["source"]
    assert inside["subject"]["name"] == found["subject"]["name"] == "run/checkpoint-3"


def test_texts_of_ones_own(capsys, corpus, tmp_path):
    folder = save_run(tmp_path / "run")
    out, found = analyse(capsys, folder, "--texts", corpus["corpus"], "--max-texts", "12")
    assert f"reading 12 texts of {corpus['corpus']}" in out
    assert found["causal"]["loss"] == "masked-LM loss"
    files = {path: path.read_bytes() for path in (folder / "analysis").rglob("*.*")}
    assert {path.suffix for path in files} == {".json", ".html", ".svg"}
    analyse(capsys, folder, "--texts", corpus["corpus"], "--max-texts", "12")
    assert files == {path: path.read_bytes() for path in files}  # the same texts, the same bytes


def test_scripts_see_an_unsound_checkpoint(capsys, corpus, tmp_path):
    folder = save_run(tmp_path / "run")
    file = folder / "checkpoints" / "checkpoint-3" / "model.safetensors"
    weights = load_file(file)
    weights["head.dense.weight"][0, 0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    code, out, _ = run(capsys, "analyze", folder, "--texts", corpus["corpus"], "--max-texts", "12")
    assert code == 1
    assert "report.html" in out
    checks = json.loads((folder / "analysis" / "analysis.json").read_text())["health"]["checks"]
    assert ("weights", "fail") in [(check["name"], check["verdict"]) for check in checks]
    assert "note: the loss itself is NaN or infinite" in out


def test_targets_are_marked_and_two_checkpoints_stand_side_by_side(capsys, corpus, tmp_path):
    one, two = save_run(tmp_path / "one", data=corpus), save_run(tmp_path / "two")
    out, found = analyse(capsys, one)
    row = next(line for line in out.splitlines() if "effective rank / noise ceiling" in line)
    assert ("✓ met: > 0.8" in row) == (found["rank"]["share_of_ceiling"] > 0.8)
    assert "✓" in row or "✗" in row
    out, _ = analyse(capsys, one, "--compare", two, "--over-training")
    assert "difference" in out
    assert any(mark in out for mark in ("✓ / ✓", "✓ / ✗", "✗ / ✓", "✗ / ✗"))
    assert "comparison.html" in out
    assert (one / "analysis" / "comparison.html").is_file()


def test_bert_stands_beside_a_concept_encoder(capsys, corpus, tmp_path):
    """A model without concepts shows its token states; which it is need not be said."""
    one, twin = save_run(tmp_path / "one", data=corpus), save_run(tmp_path / "twin")
    ConceptEncoderForMaskedLM(preset_config("bert", 2, **SIZES)).save_pretrained(twin / "checkpoints" / "checkpoint-3")
    out, _ = analyse(capsys, one, "--compare", twin)
    assert "note: concepts of one stand beside token states of the other" in out


@pytest.mark.parametrize("head", ["via_decoder", "pair"])
def test_which_concepts_carry_a_task_on_pairs(capsys, rows, tmp_path, head):
    """Texts as one and apart; the fine-tuned run needs no words, its own task is what it reads."""
    data = {"train": str(rows["csv"]), "text": "sentence", "text_pair": "other", "label": "topic"}
    data |= {"max_length": 24, "validation_fraction": 0.4}
    folder = save_run(
        tmp_path / "run", ConceptEncoderForSequenceClassification, data | {"task": None}, classifier_head=head
    )
    out, found = analyse(capsys, folder)
    assert "held-out examples of task.csv" in out
    assert "concepts that carry the label" in out
    assert found["causal"]["loss"] == "loss on task.csv"
    examples = found["texts"]["count"] // (2 if head == "pair" else 1)
    assert found["task"]["texts"] == examples
    assert len(found["task"]["shares"]) == 5
    page = (folder / "analysis" / "report.html").read_text()
    assert "Which concepts carry task.csv" in page
    given = [f"data.{name}={value}" for name, value in data.items()]
    assert analyse(capsys, folder, *given)[1]["task"] == found["task"]


def test_a_task_on_a_pretrained_checkpoint_and_on_another_head(capsys, rows, tmp_path):
    task = [f"data.train={rows['csv']}", "data.text=sentence", "data.label=topic", "data.max_length=24"]
    task.append("data.validation_fraction=0.4")
    _, plain = analyse(capsys, save_run(tmp_path / "plain"), *task)
    assert plain["causal"]["loss"] == "masked-LM loss"
    assert plain["task"]["labels"] == ["animal", "tool"]
    assert len(plain["task"]["carriers"]) > 0  # an untrained encoder already keeps the words apart
    tags = [f"data.train={rows['tagged']}", "data.kind=token_classification", "data.text=words", "data.label=tags"]
    tagger = save_run(tmp_path / "tagger", ConceptEncoderForTokenClassification)
    _, found = analyse(capsys, tagger, *tags, "data.max_length=24", "data.validation_fraction=0.4")
    assert found["causal"]["loss"] == "loss on tagged.jsonl"
    assert found["roles"]["classes"]
    _, other = analyse(capsys, tagger, *task)
    assert other["causal"] is None
    assert any("does not answer task.csv" in note for note in other["notes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PLAIN"], "says which texts were held out; give a file of texts (--texts FILE)"),
        (["PLAIN", "--texts", "nowhere.txt"], "nowhere.txt"),
        (["PLAIN", "data.task=mrcp"], "data.task: no task 'mrcp'; did you mean 'mrpc'"),
        (["PLAIN", "data.task=mrpc", "--texts", "x.txt"], "--texts: given together with data.task=mrpc"),
        (["PLAIN", "model.preset=bert"], "model: an analysis trains nothing"),
        (["BERT", "--texts", "TEXTS"], "no concepts here; its token states can be analysed (--states tokens)"),
        (["DAMAGED", "--texts", "TEXTS"], "model.safetensors: damaged"),
        (["PLAIN", "--texts", "EMPTY"], "holds no text"),
        (["PLAIN", "--texts", "TEXTS", "--tags", "TAGS"], "2 columns; CoNLL-U has 10"),
        (["PLAIN", "--texts", "TEXTS", "--compare", "nowhere"], "nowhere"),
        (["PLAIN", "--texts", "TEXTS", "--output", "TEXTS"], "corpus.txt is a file; name a folder"),
        (["PLAIN", "--texts", "TEXTS", "--output", "INSIDE"], "corpus.txt is a file; name a folder"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(capsys, corpus, tmp_path, arguments, message):
    named = {"PLAIN": save_run(tmp_path / "plain"), "TEXTS": corpus["corpus"]}
    named |= {name: tmp_path / name for name in ("EMPTY", "TAGS", "BERT", "DAMAGED")}
    named["EMPTY"] = tmp_path / "empty.txt"
    named["INSIDE"] = f"{corpus['corpus']}/out"
    named["EMPTY"].write_text("\n \n")
    named["TAGS"].write_text("1\tword\n")
    checkpoint = named["PLAIN"] / "checkpoints" / "checkpoint-3"
    shutil.copytree(checkpoint, named["DAMAGED"])
    weights = named["DAMAGED"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5_000])
    shutil.copytree(checkpoint, named["BERT"])
    ConceptEncoderForMaskedLM(preset_config("bert", 2, **SIZES)).save_pretrained(named["BERT"])
    code, _, err = run(capsys, "analyze", *(named.get(word, word) for word in arguments))
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (named["PLAIN"] / "analysis").exists()


def test_few_and_long_texts_are_said(capsys, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(["the cat " * 40, "a dog", "the hen"]))
    out, found = analyse(capsys, save_run(tmp_path / "run"), "--texts", texts)
    assert "note: 1 of 3 texts are longer than 24 tokens and were cut" in out
    notes = " ".join(found["rank"]["notes"] + found["overlap"]["notes"])
    assert "need at least 10 texts, got 3" in notes
    assert "the definition asks for 1,000" in notes
    assert "note: ranks are averaged over 3 texts" in out
