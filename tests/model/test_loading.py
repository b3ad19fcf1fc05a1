"""Opening checkpoints: what is wrong with one is a single line that names the file."""

import json

import pytest
import torch
from cases import SMALL
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from concept_encoder.model import (
    ConceptEncoderForMaskedLM,
    ConceptEncoderForSequenceClassification,
    ConceptEncoderForTokenClassification,
    ConceptEncoderModel,
    preset_config,
)
from concept_encoder.model.loading import list_checkpoints, load_checkpoint, resolve_checkpoint

SIZES = {**SMALL, "vocab_size": 64}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    ConceptEncoderForMaskedLM(preset_config("woven", 2, **SIZES)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def refused(folder, model_class=ConceptEncoderForMaskedLM, **fields):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at the text
        load_checkpoint(model_class, folder, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_copies_of_checkpoints_are_passed_over(tmp_path):
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-old", "checkpoint-2-backup"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "config.json").write_text("{}")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-10"]
    assert resolve_checkpoint(tmp_path).name == "checkpoint-10"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "foo"}, "dtype: no type of numbers is called 'foo'"),
        ({"dtype": 3}, "dtype: no type of numbers is called 3"),
        ({"id2label": 3}, "id2label: expected the name of each class by its number, found 3"),
        ({"id2label": {"cat": "x"}}, "id2label: expected the name of each class"),
        ({"hidden_size": "wide"}, "hidden_size: expected a whole number, found 'wide'"),
        ({"layer_types": ["thnik"]}, "layer_groups: 1 numbers|layer_types[0]: no move is called 'thnik'"),
        ({"hidden_sizes": 3}, "hidden_sizes: no such field of the model"),
    ],
)
def test_a_damaged_configuration_is_named(folder, fields, message):
    change(folder, **fields)
    said = refused(folder)
    assert any(said.startswith(f"{folder / 'config.json'}: {text}") for text in message.split("|"))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "3", "{", ""])
def test_a_configuration_that_is_none(folder, text):
    (folder / "config.json").write_text(text)
    assert refused(folder).startswith(f"{folder / 'config.json'}: not readable as a configuration")


@pytest.mark.parametrize("content", [b"", b"damaged", b"PK\x03\x04 damaged", b"\x80\x04 damaged"])
def test_damaged_weights_of_pickle(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    assert "use an earlier checkpoint" in refused(folder)


def test_weights_of_another_shape_are_named(folder):
    change(folder, intermediate_size=96)
    said = refused(folder)
    assert said.startswith(
        f"{folder}: model.groups.0.feed_forward.out.weight has the shape [32, 128], "
        "but the configuration asks for [32, 96]"
    )


def test_a_classifier_for_other_classes_starts_anew(folder, tmp_path):
    for model_class in (ConceptEncoderForSequenceClassification, ConceptEncoderForTokenClassification):
        three = load_checkpoint(model_class, folder, num_labels=3)
        three.save_pretrained(tmp_path / "three")
        same = load_checkpoint(model_class, tmp_path / "three", num_labels=3)
        assert torch.equal(same.classifier.weight, three.classifier.weight)
        five = load_checkpoint(model_class, tmp_path / "three", num_labels=5, id2label=None, label2id=None)
        assert five.classifier.weight.shape == (5, 32)
        assert five.classifier.weight.isfinite().all()
        assert five.classifier.weight.std() > 0
        for name, weight in three.model.named_parameters():
            assert torch.equal(weight, five.model.get_parameter(name))


def test_a_fine_tuned_checkpoint_has_no_masked_lm_head(folder, tmp_path):
    load_checkpoint(ConceptEncoderForSequenceClassification, folder).save_pretrained(tmp_path / "tuned")
    said = refused(tmp_path / "tuned")
    assert said == (
        f"{tmp_path / 'tuned'}: a fine-tuned checkpoint, which has no masked-LM head; "
        "use the pretrained checkpoint instead"
    )


def test_a_tokenizer_larger_than_the_embedding(folder):
    Tokenizer(WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0")).save(str(folder / "tokenizer.json"))
    load_checkpoint(ConceptEncoderModel, folder)
    Tokenizer(WordLevel({f"w{i}": i for i in range(65)}, unk_token="w0")).save(str(folder / "tokenizer.json"))
    for model_class in (ConceptEncoderForMaskedLM, ConceptEncoderForSequenceClassification):
        said = refused(folder, model_class)
        assert said.startswith(f"{folder / 'tokenizer.json'}: 65 tokens, but the model embeds 64 (vocab_size)")
