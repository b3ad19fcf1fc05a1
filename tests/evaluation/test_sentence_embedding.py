import numpy as np
import pytest
import torch
from cases import SMALL

from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.model import ConceptEncoderForMaskedLM, preset_config

sentence_transformers = pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer = train_tokenizer(["a cat sat on the mat", "dogs bark at cats", "a mat for dogs"] * 5, "wordpiece", 100)
    for preset in ("woven", "bert"):
        torch.manual_seed(0)
        ConceptEncoderForMaskedLM(preset_config(preset, 2, **SMALL)).save_pretrained(folder / preset)
        tokenizer.save_pretrained(folder / preset)
    return folder


@pytest.mark.parametrize(
    ("preset", "pooling"), [("woven", "concept_pool"), ("woven", "via_decoder"), ("bert", "via_decoder")]
)
def test_a_checkpoint_is_a_sentence_transformer(checkpoints, tmp_path, preset, pooling):
    from concept_encoder.evaluation.sentence_embedding import sentence_transformer

    model = sentence_transformer(checkpoints / preset, pooling)
    texts = ["a cat sat", "dogs bark at the cat on the mat"]
    together = model.encode(texts)
    assert together.shape == (2, 32)
    alone = np.concatenate([model.encode([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    model.save(str(tmp_path / "saved"))
    loaded = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True)
    np.testing.assert_array_equal(loaded.encode(texts), together)
    assert loaded.get_embedding_dimension() == 32


def test_poolings_that_do_not_fit(checkpoints):
    from concept_encoder.evaluation.sentence_embedding import sentence_transformer

    with pytest.raises(UserError, match="pooling: 'concept_pool' needs concepts"):
        sentence_transformer(checkpoints / "bert")
    with pytest.raises(UserError, match="pooling: 'cls' is not one of"):
        sentence_transformer(checkpoints / "woven", "cls")
    with pytest.raises(UserError, match="max_seq_length: 999 exceeds the model's 48 tokens"):
        sentence_transformer(checkpoints / "woven", max_seq_length=999)
