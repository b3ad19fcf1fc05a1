"""Any `transformers` encoder through the same fine-tuning: what it is given, what it leaves, and what is refused."""

import json
import shutil

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTModel,
)

from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.evaluation.metrics import compute_all
from concept_encoder.training.classifiers import FinetuneModel, find_checkpoint, head_for, load_classifier
from concept_encoder.training.finetune import FinetuneRecipe, finetune
from concept_encoder.training.trainer import ConceptTrainer

WORDS = ["cat", "dog", "cow", "hen", "saw", "axe", "file", "drill", "the", "and"]
SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A pretrained BERT without any head, as the hub has them."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    BertModel(BertConfig(**SIZES, max_position_embeddings=32)).save_pretrained(folder)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(str(vocabulary), model_max_length=32).save_pretrained(folder)
    return folder


@pytest.fixture
def sections(bert, tmp_path):
    """Do the two words name the same thing? Without the second text there is nothing to learn."""
    rows = [{"one": a, "two": b, "label": int(a == b)} for a in WORDS for b in WORDS]
    rows += [row for row in rows if row["label"]] * 8
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = str(tmp_path / "train.jsonl")
    return {
        "model": {"checkpoint": str(bert)},
        "data": {"train": file, "validation": file, "text": "one", "text_pair": "two", "max_length": 16},
        "training": {"output_dir": str(tmp_path / "run"), "epochs": 2, "batch_size": 16, "learning_rate": 3e-3},
    }


def run(sections):
    return finetune(FinetuneRecipe.from_sections(sections), compute_all)


def test_bert_is_fine_tuned_with_its_own_head(sections, bert, tmp_path, monkeypatch):
    seen = []
    step = ConceptTrainer.training_step

    def spy(self, model, inputs, *args, **kwargs):
        seen.append({name: value.clone() for name, value in inputs.items()})
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(ConceptTrainer, "training_step", spy)
    sections["data"]["selection_fraction"] = 0.2
    result = run(sections)
    assert result["classifier_head"] == "own"
    assert result["controls"] == {}
    assert seen[0]["token_type_ids"].max() == 1  # the second text is told apart
    kept = tmp_path / "run" / result["checkpoint"]
    model = AutoModelForSequenceClassification.from_pretrained(kept)
    assert model.config.id2label == {0: "0", 1: "1"}
    assert (kept / "README.md").read_text().count("# bert, fine-tuned") == 1
    again = find_checkpoint(str(tmp_path / "run"))
    assert again == kept
    assert head_for(again, None) == "own"


def test_every_weight_but_the_head_is_the_checkpoints(sections, bert):
    from concept_encoder.data.tasks.config import TaskConfig
    from concept_encoder.data.tasks.load import load_task

    task = load_task(TaskConfig(**sections["data"]))
    start = BertModel.from_pretrained(bert)
    one, two, other = (load_classifier(FinetuneModel(str(bert)), bert, task, seed) for seed in (0, 0, 1))
    for name, weight in start.named_parameters():
        if "pooler" not in name:
            assert torch.equal(one.bert.get_parameter(name), weight)
    assert torch.equal(one.classifier.weight, two.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_a_model_without_token_types_gets_none(sections, bert, tmp_path):
    folder = tmp_path / "distil"
    config = DistilBertConfig(vocab_size=64, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=32)
    DistilBertModel(config).save_pretrained(folder)
    tokenizer = BertTokenizerFast(str(bert / "vocab.txt"), model_input_names=["input_ids", "attention_mask"])
    tokenizer.save_pretrained(folder)
    sections["model"]["checkpoint"] = str(folder)
    sections["training"]["max_steps"] = 2
    assert set(run(sections)["scores"]) == {"accuracy", "macro_f1"}


def test_a_model_of_one_direction_learns_with_padding(sections, tmp_path):
    folder = tmp_path / "gpt"
    GPT2Model(GPT2Config(vocab_size=128, n_embd=16, n_layer=1, n_head=2, n_positions=32)).save_pretrained(folder)
    tokenizer = train_tokenizer([" ".join(WORDS)] * 5, "wordpiece", 80)
    tokenizer.save_pretrained(folder)
    sections["model"]["checkpoint"] = str(folder)
    sections["training"]["max_steps"] = 2
    assert set(run(sections)["scores"]) == {"accuracy", "macro_f1"}


def without_pad(folder):
    tokenizer = train_tokenizer([" ".join(WORDS)] * 5, "wordpiece", 60)
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    (folder / "vocab.txt").unlink()
    plain.save_pretrained(folder)


def another_body(folder):
    BertModel(BertConfig(**{**SIZES, "num_hidden_layers": 1}, max_position_embeddings=32)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))


def image_model(folder):
    sizes = {name: size for name, size in SIZES.items() if name != "vocab_size"}
    ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "changes", "message"),
    [
        (None, {"model.classifier_head": "cls_query"}, "classifier_head: 'cls_query' does not fit a bert checkpoint"),
        (None, {"data.max_length": 64}, "data.max_length: 64 tokens exceed the checkpoint's 32"),
        (without_pad, {}, "the tokenizer has no pad token, so texts cannot share a batch"),
        (another_body, {}, r"holds no weights for bert.encoder.layer"),
        (image_model, {}, "a vit checkpoint cannot become a classifier; give an encoder"),
        (lambda folder: (folder / "model.safetensors").unlink(), {}, "transformers cannot load a classifier from it"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), {}, "transformers cannot load a classifier"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), {}, "its tokenizer cannot be loaded"),
        (None, {"model.checkpoint": "nobody/nothing"}, "nobody/nothing: no such folder, and not among the"),
    ],
)  # fmt: skip
def test_what_cannot_be_fine_tuned_is_one_line(sections, bert, tmp_path, damage, changes, message):
    folder = tmp_path / "copy"
    shutil.copytree(bert, folder)
    sections["model"]["checkpoint"] = str(folder)
    if damage:
        damage(folder)
    for name, value in changes.items():
        section, _, field = name.partition(".")
        sections[section][field] = value
    with pytest.raises(ValueError, match=message) as caught:
        run(sections)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError)
    assert not (tmp_path / "run").exists()


def test_a_concept_encoder_has_no_head_of_its_own(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "concept_encoder"}')
    with pytest.raises(UserError, match="'own' does not fit a concept_encoder checkpoint; name one of ours"):
        head_for(tmp_path, "own")


def test_an_id_of_the_hub_is_read_from_its_cache(bert, tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "models--someone--tiny-bert"
    shutil.copytree(bert, repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert find_checkpoint("someone/tiny-bert") == repository / "snapshots" / "0123abcd"
