"""A checkpoint in the pipelines of `transformers`: the folder is all that they are given."""

import pytest
import torch
from cases import SMALL
from transformers import pipeline

from concept_encoder.data.tokenizer import load_tokenizer, train_tokenizer
from concept_encoder.model import ConceptEncoderForMaskedLM, ConceptEncoderForSequenceClassification, preset_config
from concept_encoder.training.predict import fill_masks

TEXTS = ["a cat sat on the mat", "dogs bark at cats", "a mat for dogs"]
NAMES = {"num_labels": 2, "id2label": {0: "calm", 1: "loud"}, "label2id": {"calm": 0, "loud": 1}}


@pytest.fixture
def save(tmp_path):
    def write(model_class, preset, **fields):
        tokenizer = train_tokenizer(TEXTS * 5, "wordpiece", 100)
        sizes = {**SMALL, "vocab_size": len(tokenizer), "initializer_range": 0.2}
        torch.manual_seed(0)
        model = model_class(preset_config(preset, 4, **sizes, **fields)).eval()
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return model

    return write


@pytest.mark.parametrize("preset", ["woven", "anchored", "bert"])
def test_fill_mask(save, tmp_path, preset):
    model = save(ConceptEncoderForMaskedLM, preset)
    found = pipeline("fill-mask", model=str(tmp_path), tokenizer=str(tmp_path), top_k=3)("a cat [MASK] on the mat")
    ((expected,),) = fill_masks(model, load_tokenizer(str(tmp_path)), ["a cat [MASK] on the mat"], top=3)
    assert [answer["token_str"] for answer in found] == [word for word, _ in expected]
    assert [answer["score"] for answer in found] == pytest.approx([share for _, share in expected], abs=1e-4)


def test_text_classification(save, tmp_path):
    model = save(ConceptEncoderForSequenceClassification, "woven", **NAMES)
    classify = pipeline("text-classification", model=str(tmp_path), tokenizer=str(tmp_path))
    found = classify(TEXTS, batch_size=3)
    for text, answer in zip(TEXTS, found):
        with torch.no_grad():
            shares = model(**load_tokenizer(str(tmp_path))(text, return_tensors="pt")).logits[0].softmax(-1)
        assert answer["label"] == NAMES["id2label"][int(shares.argmax())]
        assert answer["score"] == pytest.approx(float(shares.max()), abs=1e-4)
