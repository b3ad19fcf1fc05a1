"""The example of docs/adding-a-variant.md is a variant like any other: it runs, and keeps the contract."""

import re
from pathlib import Path

import pytest
import torch
from cases import small
from test_contract import build, check_padding_invariance, padded_batch

from concept_encoder.model import ConceptEncoderForMaskedLM
from concept_encoder.model.positions import POSITIONS

GUIDE = Path(__file__).parents[2] / "docs" / "adding-a-variant.md"


@pytest.fixture
def alibi(monkeypatch):
    monkeypatch.setattr(POSITIONS, "_members", dict(POSITIONS._members))
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.S)
    exec(code, {})
    return POSITIONS["alibi"]


def test_the_bias_is_the_papers(alibi):
    q, k = torch.randn(2, 1, 4, 5, 8)
    places = torch.arange(5)[None]
    bias = alibi(small()).bias(q, k, None, places, places)
    for head, slope in enumerate([1 / 4, 1 / 16, 1 / 64, 1 / 256]):  # section 3: 2^(-8/n), 2^(-16/n), …
        for i in range(5):
            for j in range(5):
                assert bias[0, head, i, j].item() == pytest.approx(-slope * abs(i - j))


@pytest.mark.parametrize(
    "fields",
    [
        {"layer_types": "mix mix_local read slot think", "concept_source": "anchored", "decoder": "upsample"},
        {"layer_types": "mix pool mix think", "concept_source": "pooled", "decoder": "upsample_residual"},
        {"layer_types": "mix_local exchange think write", "concept_source": "anchored", "decoder": "token_stream"},
        {"layer_types": "mix read think", "num_concepts": 6, "decoder_layer_types": "write mix_local"},
    ],
    ids=lambda fields: fields["layer_types"],
)
def test_it_keeps_the_contract(alibi, fields):
    config = small(**fields, token_position="alibi", concept_position="alibi")
    check_padding_invariance(config)
    ids, mask = padded_batch(config)
    fast, plain = (build(ConceptEncoderForMaskedLM, config) for _ in range(2))
    plain.set_attn_implementation("eager")
    logits = fast(ids, attention_mask=mask).logits
    torch.testing.assert_close(
        logits[mask.bool()], plain(ids, attention_mask=mask).logits[mask.bool()], atol=1e-5, rtol=1e-4
    )
    nowhere = build(ConceptEncoderForMaskedLM, small(**fields, token_position="none"))
    assert list(nowhere.state_dict()) == list(fast.state_dict())
    assert not torch.allclose(nowhere(ids, attention_mask=mask).logits[mask.bool()], logits[mask.bool()])
    assert build(ConceptEncoderForMaskedLM, config).to(torch.bfloat16)(ids, attention_mask=mask).logits.isfinite().all()
