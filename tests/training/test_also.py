"""One fine-tuned model on several scored splits (`data.also`): MNLI's mismatched side beside the matched one."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner

from concept_encoder.cli.finetune import command
from concept_encoder.data.tasks.config import TaskConfig
from concept_encoder.data.tasks.load import load_task
from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.evaluation.runs import read_runs
from concept_encoder.lab.metrics import metrics_of, reported, reports
from concept_encoder.lab.verbs import VERBS
from concept_encoder.model import ConceptEncoderForMaskedLM, preset_config
from concept_encoder.settings import from_mapping

TEXTS = ["a cat", "a dog", "the cat", "the dog"]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    for split, count in {"train": 24, "validation_matched": 12, "validation_mismatched": 9}.items():
        texts = [TEXTS[i % 4] for i in range(count)]
        rows = {"premise": texts, "hypothesis": texts[::-1], "label": [i % 3 for i in range(count)]}
        file = tmp_path / "hub/nyu-mll/glue/mnli" / f"{split}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(rows), file)
    monkeypatch.setenv("CONCEPT_ENCODER_DATA_ROOT", str(tmp_path / "hub"))
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": 24}
    ConceptEncoderForMaskedLM(preset_config("woven", 2, **sizes)).save_pretrained(tmp_path / "checkpoint")
    train_tokenizer(TEXTS * 5, "wordpiece", 60).save_pretrained(tmp_path / "checkpoint")
    sections = {
        "model": {"checkpoint": str(tmp_path / "checkpoint")},
        "data": {"task": "mnli", "also": ["mnli-mm"], "max_length": 16},
        "training": {"output_dir": str(tmp_path / "run"), "max_steps": 2, "batch_size": 8, "seed": 5},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(sections))
    return tmp_path / "recipe.yaml"


def test_every_split_is_read_as_a_run_with_its_baselines_and_controls(recipe, tmp_path):
    done = CliRunner().invoke(command, [str(recipe)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "Task: mnli-mm: 9" in done.output
    matched, mismatched = read_runs(tmp_path / "run")
    assert (matched.task, mismatched.task) == ("mnli", "mnli-mm")
    assert mismatched.seed == matched.seed == 5
    assert (matched.examples, mismatched.examples) == (12, 9)
    assert len(mismatched.predictions.labels) == 9
    assert set(mismatched.baselines) == {"majority class", "bag of words"}
    assert set(mismatched.controls) == {"concepts shuffled", "concepts zeroed"}
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    metrics = metrics_of(VERBS["finetune"], result)
    assert metrics["mnli-mm.accuracy"] == mismatched.scores["accuracy"]
    assert "mnli-mm.shuffled.accuracy" in metrics
    data = {"task": "mnli", "also": ["mnli-mm"]}
    assert reports(reported(VERBS["finetune"], {"data": data}), "mnli-mm.accuracy")
    assert not reports(reported(VERBS["finetune"], {"data": {"task": "mnli"}}), "mnli-mm.accuracy")


def test_hans_hears_entailed_or_not_from_a_model_of_mnli(recipe, tmp_path):
    """As in its paper: neutral and contradiction are one class to it."""
    rows = {"premise": TEXTS * 3, "hypothesis": TEXTS[::-1] * 3, "label": [0, 1] * 6}
    file = tmp_path / "hub/jhu-cogsci/hans/plain_text/validation.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table(rows), file)
    found = load_task(from_mapping(TaskConfig, {"task": "mnli", "also": ["hans"]}, "data"))
    (hans,) = found.also
    assert hans.merged == (0, 1, 1)
    assert set(found.train.labels) == {0, 1, 2}
    assert set(hans.train.labels) == {0, 1}, "what its baselines learn from"
    done = CliRunner().invoke(command, [str(recipe), "data.also=[hans]"], catch_exceptions=False)
    assert done.exit_code == 0
    _, beside = read_runs(tmp_path / "run")
    assert beside.predictions.label_names == ["entailment", "non-entailment"]
    assert set(beside.predictions.predictions) <= {0, 1}
    said = np.equal(beside.predictions.predictions, beside.predictions.labels)
    assert beside.scores["accuracy"] == pytest.approx(said.mean())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"task": "mnli", "also": ["mnli-m"]}, "data.also: no task 'mnli-m'; did you mean"),
        ({"task": "hans", "also": ["mnli"]}, "data.also: mnli has other labels or texts than hans"),
        ({"task": "mnli", "also": ["rte"]}, "data.also: rte has other labels or texts than mnli"),
        ({"task": "mnli", "also": ["mnli"]}, "data.also: mnli is scored already"),
        ({"task": "listops", "also": ["novel-author"]}, "data.also: the classes of listops are those of its rows"),
        ({"train": "x.csv", "also": ["rte"]}, "data.also: stands beside a named task"),
    ],
)
def test_what_cannot_stand_beside(data, message):
    with pytest.raises(UserError, match=message):
        from_mapping(TaskConfig, data, "data")
