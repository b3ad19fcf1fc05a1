"""`evaluate` as a user gives it: real fine-tuning of tiny models on files of one's own."""

import csv
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from concept_encoder.cli.evaluate import whole_of
from concept_encoder.cli.main import main
from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import TrainingDiverged
from concept_encoder.lab.metrics import metrics_of
from concept_encoder.lab.plan import load_plan
from concept_encoder.lab.runs import expand
from concept_encoder.lab.verbs import VERBS, command_line, read_result
from concept_encoder.model import ConceptEncoderForMaskedLM, preset_config
from concept_encoder.training.finetune import finetune

WORDS = ["cat", "dog", "cow", "hen", "saw", "axe", "file", "drill"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Two checkpoints, `woven` and its twin `bert`, and a task, `topics.csv`."""
    folder = tmp_path_factory.mktemp("here")
    tokenizer = train_tokenizer([" ".join([*WORDS, "the", "a", "and"])] * 5, "wordpiece", 80)
    for preset, window in (("woven", {"local_window": 8}), ("bert", {})):
        torch.manual_seed(0)
        sizes = {"vocab_size": 128, "hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": 32}
        ConceptEncoderForMaskedLM(preset_config(preset, 2, **sizes, **window)).save_pretrained(folder / preset)
        tokenizer.save_pretrained(folder / preset)
    rng = np.random.default_rng(0)
    with open(folder / "topics.csv", "w", newline="") as file:
        write = csv.writer(file).writerow
        write(["text", "label"])
        for _ in range(120):
            words = rng.choice(WORDS, 3)
            write([" ".join(words), "animal" if words[0] in WORDS[:4] else "tool"])
    return folder


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return stopped.value.code or 0, out, err


def arguments(here, tmp_path):
    rates = ["--learning-rate", "3e-3", "--learning-rate", "1e-2"]
    data = ["--set", f"data.train={here / 'topics.csv'}", "--set", "training.epochs=2"]
    return [here / "woven", *rates, *data, "--seeds", "2", "--baseline", "cbow", "--output", tmp_path / "evaluation"]


def test_from_a_checkpoint_to_a_page(here, capsys, tmp_path):
    asked = arguments(here, tmp_path)
    code, out, _ = run(capsys, "evaluate", *asked, "--dry-run")
    assert code == 0
    assert "3 runs in" in " ".join(out.split())
    assert not (tmp_path / "evaluation").exists()
    code, out, _ = run(capsys, "evaluate", *asked, "--twin", here / "bert")
    assert code == 0
    assert "the main metric on 10% cut from the training side" in " ".join(out.replace("│", " ").split())
    assert "Differences from evaluation-twin/via_decoder" in out
    folder = tmp_path / "evaluation"
    page = (folder / "report.md").read_text()
    assert "| topics.csv | accuracy | evaluation/via_decoder |" in page
    assert "| bag of words | cbow | concepts shuffled | concepts zeroed |" in page
    assert "concepts shuffled" in page
    assert (folder / "report.html").read_text().startswith("<!doctype html")
    record = json.loads((folder / "evaluation.json").read_text())
    scores = record["systems"]["via_decoder"]["tasks"]["topics.csv"]["scores"]
    assert set(scores) == {"accuracy", "macro_f1"}
    results = sorted((folder / ".runs").glob("*/result.json"))
    before = [os.stat(file).st_mtime_ns for file in results]
    code, again, _ = run(capsys, "evaluate", *asked, "--twin", tmp_path / "evaluation-twin")
    assert code == 0
    assert [os.stat(file).st_mtime_ns for file in results] == before
    code, printed, _ = run(capsys, "evaluate", folder, "--twin", tmp_path / "evaluation-twin")
    assert code == 0
    assert printed == again[: len(printed)]
    code, _, err = run(capsys, "evaluate", folder, "--task", "rte")
    assert code == 2
    assert "a finished evaluation, shown as it is; give its checkpoint to evaluate more" in err
    code, out, _ = run(capsys, "compare", tmp_path / "evaluation-twin", folder, "--format", "markdown")
    assert code == 0
    assert "| topics.csv | accuracy | evaluation |" in out


def test_a_failed_task_is_named_and_the_exit_code_says_so(here, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CONCEPT_ENCODER_DATA_ROOT", str(tmp_path))
    code, out, err = run(capsys, "evaluate", here / "woven", "--task", "rte", "--output", tmp_path / "evaluation")
    assert code == 1
    assert "failed: rte.via_decoder.3e-05.s0" in err
    assert "no score: rte (via_decoder)" in err
    assert "Runs that failed" in out
    assert "the same command tries again what failed, and nothing else" in err
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["systems"] == {}


def test_a_seed_that_diverges_is_a_failure(here, capsys, tmp_path, monkeypatch):
    def finetuned(recipe, *arguments, **options):
        if recipe.training.seed == 1:
            raise TrainingDiverged("nan")
        return finetune(recipe, *arguments, **options)

    monkeypatch.setattr("concept_encoder.training.finetune.finetune", finetuned)
    data = ["--set", f"data.train={here / 'topics.csv'}", "--set", "training.epochs=1", "--learning-rate", "1e-2"]
    asked = ["evaluate", here / "woven", *data, "--seeds", "2", "--output", tmp_path / "evaluation"]
    code, out, err = run(capsys, *asked)
    assert code == 1
    assert "diverged at the chosen rate: topics.csv.via_decoder.0.01.s1" in err
    assert "tries again" not in err
    assert f"is not tried again, unless its folder is deleted in {tmp_path / 'evaluation' / '.runs'}" in err
    assert "1 of 2 seeds diverged" in " ".join(out.replace("│", " ").split())
    code, out, _ = run(capsys, *asked, "--dry-run")
    assert code == 0
    assert out.count("diverged") == 1
    before = (tmp_path / "evaluation" / "evaluation.json").read_bytes()
    code, _, err = run(capsys, *asked, "--set", "training.batch_size=16")
    assert code == 2
    assert "holds an evaluation of another protocol (--set)" in err
    assert (tmp_path / "evaluation" / "evaluation.json").read_bytes() == before


def test_runs_are_named_by_their_defaults_and_by_the_rows_of_their_data(tmp_path, monkeypatch):
    """An upgrade that changes a default, or other rows under the same name, must not find the runs of before."""

    def whole(root, **training):
        monkeypatch.setenv("CONCEPT_ENCODER_DATA_ROOT", str(root))
        model = {"checkpoint": "x", "classifier_head": "via_decoder"}
        return whole_of({"model": model, "data": {"task": "rte"}, "training": training})

    for root, text in (("one", "a"), ("copy", "a"), ("other", "b")):
        for split in ("train", "validation"):
            file = tmp_path / root / "nyu-mll/glue/rte" / f"{split}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"sentence1": [text], "sentence2": [text], "label": [0]}), file)
    found = whole(tmp_path / "one")
    assert found["training"]["weight_decay"] == 0.01
    assert found == whole(tmp_path / "copy", weight_decay=0.01)
    assert found["rows"] != whole(tmp_path / "other")["rows"]
    (tmp_path / "hub").mkdir()
    assert set(whole(tmp_path / "hub")["rows"].values()) == {"hub"}


def test_every_baseline_stands_beside_every_side(here, capsys, tmp_path, monkeypatch):
    """Of MNLI's mismatched side too, which is scored with the model of the matched one."""
    monkeypatch.setenv("CONCEPT_ENCODER_DATA_ROOT", str(tmp_path))
    for split in ("train", "validation_matched", "validation_mismatched"):
        texts = [f"{word} {other}" for word in WORDS for other in WORDS]
        rows = {"premise": texts, "hypothesis": texts[::-1], "label": [i % 3 for i in range(64)]}
        file = tmp_path / "nyu-mll/glue/mnli" / f"{split}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(rows), file)
    tasks = ["--task", "mnli", "--task", "mnli-mm", "--set", "training.epochs=1", "--learning-rate", "1e-3"]
    more = ["--seeds", "1", "--baseline", "bilstm", "--output", tmp_path / "evaluation"]
    code, _, _ = run(capsys, "evaluate", here / "woven", *tasks, *more)
    assert code == 0
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["systems"]["via_decoder"]["tasks"]
    for task in ("mnli", "mnli-mm"):
        assert {"majority class", "bag of words", "bilstm"} == set(found[task]["baselines"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--task", "rte"], "nowhere: no such checkpoint or run folder"),
        (["WOVEN"], "--task: name a task, or --suite glue"),
        (["WOVEN", "--suite", "gleu"], "'gleu' is not 'glue'"),
        (["WOVEN", "--task", "rtee"], "did you mean 'rte'"),
        (["WOVEN", "--task", "rte", "--head", "cls"], "no classifier head is called 'cls'"),
        (["BERT", "--task", "rte", "--head", "cls_query"], "'cls_query' pools concepts, and"),
        (["WOVEN", "--task", "rte", "--learning-rate", "fast"], "'fast' is not a valid float"),
        (["WOVEN", "--task", "rte", "--learning-rate", "1e99"], "--learning-rate: 1e+99 is not between 0 and 1"),
        (["WOVEN", "--task", "rte", "--set", "training.epochz=3"], "training.epochz: no such field"),
        (["WOVEN", "--task", "rte", "--set", "data.max_length=64"], "data.max_length is more than the 32 tokens"),
        (["WOVEN", "--task", "rte", "--reference", "bert-bas"], "no published row of that name"),
        (["WOVEN", "--task", "rte", "--twin", "nowhere"], "nowhere: no such checkpoint or run folder"),
        (
            ["WOVEN", "--task", "cola", "--head", "pair"],
            "--head: pair encodes two texts apart, and no task here has two",
        ),
        (["WOVEN", "--set", "data.train=nowhere.csv"], "nowhere.csv: no such file"),
        (["WOVEN", "--set", "data.train=TOPICS", "--set", "data.text=txt"], "no column 'txt'"),
        (["WOVEN", "--task", "rte", "--output", "TOPICS", "--dry-run"], "topics.csv is a file; name a folder"),
        (["WOVEN", "--task", "rte", "--seeds", "99999999999"], "99999999999 is not in the range"),
        (["WOVEN", "--task", "topics", "--set", "data.train=TOPICS"], "--task: data.train is a task by itself"),
        (["WOVEN", "--task", "rte", "--output", "HERE"], "holds something else than an evaluation"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(here, capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    places = {"WOVEN": here / "woven", "BERT": here / "bert", "HERE": here}
    words = [places.get(word, word.replace("TOPICS", str(here / "topics.csv"))) for word in words]
    code, _, err = run(capsys, "evaluate", *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_plan_spreads_tasks_and_reads_their_metrics(tmp_path):
    experiment = {
        "id": "glue",
        "verb": "evaluate",
        "overrides": {"options.checkpoint": "runs/mine", "options.set": ["data.max_examples=50"]},
        "grid": {"options.task": ["cola", "rte"]},
        "expect": {"direction": "up", "by": 0.1, "against": 0.0},
    }
    experiment["expect"]["metric"] = ["cola.matthews_correlation", "rte.accuracy"]
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump({"title": "t", "experiments": [experiment]}))
    runs = expand(load_plan(file))
    assert [run.name for run in runs] == ["glue.cola.s0", "glue.rte.s0"]
    assert {run.variant for run in runs} == {""}  # judged together
    words = command_line(runs[0].verb, runs[0].sections, tmp_path, tmp_path / "run", 0)
    assert words[words.index("evaluate") + 1 :] == [
        f"--output={tmp_path / 'run'}", "--set=data.max_examples=50", "--task=cola", "--", "runs/mine"
    ]  # fmt: skip
    experiment["expect"]["metric"] = "qnli.accuracy"
    file.write_text(yaml.safe_dump({"title": "t", "experiments": [experiment]}))
    with pytest.raises(ValueError, match=r"qnli.accuracy: no run of glue reports it"):
        expand(load_plan(file))


def test_metrics_of_an_evaluation(tmp_path):
    task = {
        "scores": {"accuracy": 0.6},
        "controls": {"concepts shuffled": {"accuracy": 0.5}},
        "baselines": {"majority class": {"accuracy": 0.5}},
    }
    system = {"tasks": {"rte": task}, "averages": {"AVG8-acc": 61.0}}
    for names, start in ((["via_decoder"], ""), (["via_decoder", "cls_query"], "cls_query.")):
        (tmp_path / "evaluation.json").write_text(json.dumps({"systems": dict.fromkeys(names, system)}))
        found = metrics_of(VERBS["evaluate"], read_result(VERBS["evaluate"], tmp_path))
        assert found[f"{start}rte.accuracy"] == 0.6
        assert found[f"{start}rte.shuffled.accuracy"] == 0.5
        assert found[f"{start}rte.baseline.majority-class.accuracy"] == 0.5
        assert found[f"{start}average.AVG8-acc"] == 61.0


def test_half_an_evaluation_is_no_result_of_a_plan(tmp_path):
    verb, task = VERBS["evaluate"], {"scores": {"accuracy": 0.6}}
    system = {"tasks": {"rte": task, "cola": task}, "averages": {"AVG8-acc": 61.0}}
    choices = [{"system": "via_decoder", "task": "rte", "diverged": {"rte.s3": "NaN"}}]
    record = {"systems": {"via_decoder": system}, "choices": choices, "failed": {}}
    (tmp_path / "evaluation.json").write_text(json.dumps(record))
    assert set(metrics_of(verb, read_result(verb, tmp_path))) == {"cola.accuracy"}
    (tmp_path / "evaluation.json").write_text(json.dumps({**record, "failed": {"cola.s1": "out of memory"}}))
    assert read_result(verb, tmp_path) is None
