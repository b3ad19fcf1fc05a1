"""The unpadded kernel: its cuts against a loop over texts, and the real one where CUDA is; bf16 on a CPU."""

import copy

import pytest
import torch
from cases import SMALL
from torch.nn import functional as F

from concept_encoder.model import ConceptEncoderForMaskedLM, preset_config
from concept_encoder.model.kernels import query_cuts, row_cuts, sdpa_in_fp32

PADDINGS = {
    "right": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]],
    "both": [[0, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]],
}


def attend_in_pieces(q, k, v, cuts_q, cuts_k):
    """What an unpadded kernel does, piece after piece: `[B * Q, H, d]`."""
    out = torch.full_like(q, torch.nan)
    for i in range(len(cuts_q) - 1):
        queries, keys = slice(cuts_q[i], cuts_q[i + 1]), slice(cuts_k[i], cuts_k[i + 1])
        if q[queries].numel():
            states = (x.transpose(0, 1) for x in (q[queries], k[keys], v[keys]))
            out[queries] = F.scaled_dot_product_attention(*states).transpose(0, 1)
    return out


@pytest.mark.parametrize("mask", PADDINGS.values(), ids=PADDINGS.keys())
def test_the_cuts_hide_padding_and_nothing_else(mask):
    torch.manual_seed(0)
    mask = torch.tensor(mask, dtype=torch.bool)[:, None, None]
    q, k, v = torch.randn(3, 2, 4, 8), torch.randn(3, 2, 5, 8), torch.randn(3, 2, 5, 8)
    flat = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    cuts_q, cuts_k = query_cuts(3, 4, q.device), row_cuts(3, 5, mask, q.device)
    assert len(cuts_q) == len(cuts_k) == 10
    found = attend_in_pieces(*flat, cuts_q.tolist(), cuts_k.tolist()).unflatten(0, (3, 4)).transpose(1, 2)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def test_without_a_mask_every_row_is_one_piece():
    assert row_cuts(2, 5, None, torch.device("cpu")).tolist() == [0, 0, 5, 5, 5, 10, 10]


def test_where_it_cannot_run_it_gives_what_sdpa_gives():
    config = preset_config("woven", 4, **SMALL)
    ids = torch.randint(5, config.vocab_size, (2, 30))
    mask = torch.ones_like(ids)
    mask[1, 11:] = 0
    models = []
    for kernel in ("sdpa", "varlen"):
        torch.manual_seed(0)
        models.append(ConceptEncoderForMaskedLM(copy.deepcopy(config)).eval())
        models[-1].set_attn_implementation(kernel)
    torch.testing.assert_close(*(model(ids, attention_mask=mask).logits for model in models))


@pytest.mark.parametrize("mask", ["none", "padding", "bias"])
def test_bf16_on_a_cpu_is_attended_in_fp32(mask):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, length, 8, dtype=torch.bfloat16) for length in (4, 5, 5))
    hidden = {
        "none": None,
        "padding": torch.arange(5).expand(2, 1, 1, 5) < 3,
        "bias": torch.randn(2, 2, 4, 5).bfloat16(),
    }
    with torch.autocast("cpu", torch.bfloat16):
        found, weights = sdpa_in_fp32(torch.nn.Module(), q, k, v, hidden[mask], is_causal=False)
    wide = hidden["bias"].float() if mask == "bias" else hidden[mask]
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=wide)
    assert torch.equal(found, expected.transpose(1, 2).bfloat16())
    assert weights is None


def test_a_model_in_bf16_on_a_cpu_never_meets_the_slow_kernel(monkeypatch):
    met, plain = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, *a, **kw: met.append(q.dtype) or plain(q, *a, **kw)
    )
    config = preset_config("woven", 4, **SMALL)
    model = ConceptEncoderForMaskedLM(config)
    model.set_attn_implementation("sdpa")
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randint(5, config.vocab_size, (2, 30))).logits.float().sum().backward()
    assert set(met) == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel needs CUDA")
@pytest.mark.parametrize("preset", ["perceiver_mlm", "woven", "anchored", "funnel", "bixt", "bert"])
def test_unpadded_equals_sdpa_on_cuda_forward_and_backward(preset):
    config = preset_config(preset, 6, **{**SMALL, "hidden_size": 64})
    ids = torch.randint(5, config.vocab_size, (3, 37), device="cuda")
    mask = (torch.arange(37) < torch.tensor([[37], [20], [5]])).long().cuda()
    labels = ids.where(mask.bool(), -100)
    found = {}
    for kernel, dtype in (("eager", torch.float32), ("sdpa", torch.bfloat16), ("varlen", torch.bfloat16)):
        torch.manual_seed(0)
        model = ConceptEncoderForMaskedLM(copy.deepcopy(config)).cuda()
        model.set_attn_implementation(kernel)
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            loss = model(ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()]).float()
        found[kernel] = loss.item(), gradient
    (exact, reference), (_, plain), (close, unpadded) = found.values()
    assert close == pytest.approx(exact, rel=2e-3)
    error = (unpadded - reference).norm() / reference.norm()
    assert error < 1.5 * (plain - reference).norm() / reference.norm() + 1e-3  # no worse than bf16 itself
