"""Fine-tuning with a tag on every word, end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModelForTokenClassification

from concept_encoder.data.tasks.load import load_task
from concept_encoder.data.tasks.tagging import TaggedExamples
from concept_encoder.data.tokenizer import load_tokenizer, train_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.evaluation.baselines import baselines
from concept_encoder.evaluation.metrics import scorer
from concept_encoder.model import ConceptEncoderForMaskedLM, ConceptEncoderForTokenClassification, preset_config
from concept_encoder.model.loading import load_checkpoint
from concept_encoder.training.batches import TaskCollator, tokenize_task
from concept_encoder.training.finetune import FinetuneRecipe, finetune
from concept_encoder.training.scoring import Asking, asked, predict

NAMES, VERBS = ["file", "saw", "drill"], ["sing", "run"]  # a file, or to file: the word alone does not tell


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_tokenizer([" ".join(NAMES + VERBS + ["the", "to", "and"])] * 5, "wordpiece", 80)
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 32}
    ConceptEncoderForMaskedLM(preset_config("woven", 2, **sizes, local_window=8)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_jsonl(path, count, seed):
    rng = np.random.default_rng(seed)
    with open(path, "w") as file:
        for _ in range(count):
            words, tags = [], []
            for _ in range(rng.integers(1, 5)):
                verb = bool(rng.integers(2))
                words += ["to" if verb else "the", str(rng.choice(NAMES + VERBS * verb)), "and"]
                tags += ["PART" if verb else "DET", "VERB" if verb else "NOUN", "CCONJ"]
            file.write(json.dumps({"words": words[:-1], "tags": tags[:-1]}) + "\n")
    return str(path)


def read_jsonl(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def sections(checkpoint, tmp_path):
    return {
        "model": {"checkpoint": str(checkpoint)},
        "data": {
            "kind": "token_classification",
            "train": write_jsonl(tmp_path / "train.jsonl", 160, 0),
            "validation": write_jsonl(tmp_path / "validation.jsonl", 65, 1),
            "text": "words",
            "label": "tags",
            "max_length": 32,
        },
        "training": {"output_dir": str(tmp_path / "run"), "epochs": 8, "batch_size": 16, "learning_rate": 3e-3},
    }


def run(sections):
    recipe = FinetuneRecipe.from_sections(sections)
    task = load_task(recipe.data)
    return finetune(recipe, scorer(task), task, baselines(task))


def test_tags_that_need_the_neighbours_are_learned(sections, tmp_path):
    result = run(sections)
    assert result["kind"] == "token_classification"
    beside = result["baselines"]
    assert beside["commonest tag"]["accuracy"] < beside["commonest tag of the word"]["accuracy"] < 0.95
    assert result["scores"]["accuracy"] > 0.97
    assert set(result["controls"]) == {"concepts shuffled", "concepts zeroed"}
    assert set(result["controls"]["concepts zeroed"]) == {"accuracy", "macro_f1"}
    assert result["words"]["cut_off"] == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["scores"] == result["scores"]
    metrics = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    first = next(line for line in metrics if "loss" in line)
    assert first["loss"] == pytest.approx(np.log(5), rel=0.5)  # a mean over tags: not over texts, not a sum

    # the scores once more, by another way: from the saved checkpoint, text by text
    folder = tmp_path / "run" / result["checkpoint"]
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(folder).eval(), load_tokenizer(folder)
    assert isinstance(model, ConceptEncoderForTokenClassification)
    assert sorted(model.config.id2label.values()) == ["CCONJ", "DET", "NOUN", "PART", "VERB"]
    found, right = [], []
    for row in read_jsonl(sections["data"]["validation"]):
        text = tokenizer(row["words"], is_split_into_words=True, return_tensors="pt")
        first_of_word = [text.word_ids().index(word) for word in range(len(row["words"]))]
        with torch.no_grad():
            tags = model(text["input_ids"], text["attention_mask"]).logits[0].argmax(-1)[first_of_word]
        found += [model.config.id2label[int(tag)] for tag in tags]
        right += row["tags"]
    assert result["words"]["scored"] == len(right)
    assert result["scores"]["accuracy"] == pytest.approx(accuracy_score(right, found))
    assert result["scores"]["macro_f1"] == pytest.approx(f1_score(right, found, average="macro"))
    kept = json.loads((tmp_path / "run" / "predictions.json").read_text())
    names = kept["label_names"]
    assert [[names[tag] for text in kept[side] for tag in text] for side in ("labels", "predictions")] == [right, found]


def test_accumulation_changes_nothing(sections, tmp_path):
    """Texts of a step have other numbers of words: the loss is a mean over all words of the step, however it is cut."""
    losses = []
    for name, micro in (("whole", None), ("parts", 2)):
        sections["model"]["classifier_dropout"] = 0.0
        sections["training"] |= {"output_dir": str(tmp_path / name), "micro_batch_size": micro, "log_every": 1}
        sections["training"] |= {"max_steps": 6, "batch_size": 8}
        run(sections)
        metrics = read_jsonl(tmp_path / name / "metrics.jsonl")
        losses.append([line["loss"] for line in metrics if "loss" in line])
    assert len(losses[0]) == 6
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_entities_and_words_beyond_the_length(sections, tmp_path):
    for side in ("train", "validation"):
        path = Path(sections["data"][side])
        text = path.read_text().replace('"NOUN"', '"B-X"')
        for tag in ("PART", "DET", "VERB", "CCONJ"):
            text = text.replace(f'"{tag}"', '"O"')
        path.write_text(text)
    sections["data"]["max_length"] = 8
    sections["training"]["max_steps"] = 2
    result = run(sections)
    assert list(result["scores"]) == ["entity_f1", "accuracy", "macro_f1"]
    words = sum(len(row["words"]) for row in read_jsonl(sections["data"]["validation"]))
    assert result["words"]["cut_off"] > 0
    assert sum(result["words"].values()) == words


def test_answers_come_back_in_the_order_of_the_rows(checkpoint):
    tokenizer = load_tokenizer(checkpoint)
    model = load_checkpoint(ConceptEncoderForTokenClassification, checkpoint, num_labels=5)
    torch.nn.init.normal_(model.classifier.weight)  # answers that differ
    rng = np.random.default_rng(0)
    words = [list(map(str, rng.choice(NAMES + VERBS, rng.integers(1, 9)))) for _ in range(20)]
    rows = tokenize_task(TaggedExamples(words, [[0] * len(text) for text in words]), tokenizer, 32, separate=False)
    together, alone = (predict(model, rows, Asking(TaskCollator(tokenizer), size)) for size in (7, 1))
    assert [len(answer) for answer in together] == [len(text) for text in words] == list(map(len, asked(rows)))
    for some, one in zip(together, alone):
        assert np.array_equal(some, one)


@pytest.mark.parametrize("rows", [1, 2, 65])
def test_controls_of_few_texts(sections, tmp_path, rows):
    sections["data"]["validation"] = write_jsonl(tmp_path / "few.jsonl", rows, 2)
    sections["training"]["max_steps"] = 1
    one = {"concepts zeroed"}  # a text alone has nobody to exchange concepts with
    assert set(run(sections)["controls"]) == (one if rows == 1 else {"concepts shuffled", *one})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.classifier_head": "concept_pool"},
            "model.classifier_head: 'concept_pool' pools texts, but every word",
        ),
        ({"model.classifier_head": "pair"}, "model.classifier_head: 'pair' pools texts"),
        ({"data.label": "ner"}, ".*no column 'ner'; columns: words, tags"),
        ({"data.text_pair": "tags"}, "data.text_pair: tags belong to the words of one text"),
        ({"data.kind": "classification"}, ".*column 'words' holds .*, expected text"),
        ({"data.kind": "tagging"}, "data.kind: 'tagging' is not one of"),
    ],
)
def test_what_is_wrong_is_named(sections, changes, message, tmp_path):
    for name, value in changes.items():
        section, _, field = name.partition(".")
        sections[section][field] = value
    with pytest.raises(UserError, match=f"^{message}") as caught:
        run(sections)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
