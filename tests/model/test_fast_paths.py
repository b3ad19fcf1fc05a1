"""Every fast path at once against the formulas: loss and gradients, padded and whole, odd lengths, fp32 and bf16.

Fast is what runs by default: SDPA without a mask where nothing is padded, windows in blocks, one key-value product for
several reads, logits at labelled tokens alone and in chunks. Plain is softmax(qk/√d)v, windows under a dense band, a
product a read, logits everywhere. What needs CUDA is in test_kernels.py, inductor in test_compile.py.
"""

import pytest
import torch
from cases import SMALL
from torch.nn import functional as F

from concept_encoder.model import PRESETS, ConceptEncoderForMaskedLM, losses, preset_config
from concept_encoder.model.attention import WindowedAttention, eager_attention


def dense_window(self, x_BND, kv_BNE, mask_BN, x_pos_BN, y_pos_BN):
    """Windowed attention as a band in the whole N x N mask."""
    q, k, v = self.project(x_BND, kv_BNE, x_pos_BN, y_pos_BN)
    place_N = torch.arange(x_BND.shape[1])
    allowed_1NN = ((place_N[:, None] - place_N).abs() <= self.config.local_window // 2)[None]
    if mask_BN is not None:
        allowed_1NN = allowed_1NN & (mask_BN[:, None] | torch.eye(len(place_N), dtype=torch.bool))
    attended, _ = eager_attention(self, q, k, v, allowed_1NN[:, None], dropout=0.0, scaling=self.head_dim**-0.5)
    return self.finish(attended), None


def build(preset: str) -> ConceptEncoderForMaskedLM:
    torch.manual_seed(0)
    model = ConceptEncoderForMaskedLM(preset_config(preset, 6 if preset == "funnel" else 4, **SMALL))
    for parameter in model.parameters():  # far from the start, where attention is uniform and norms are 1
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def loss_and_gradients(model: ConceptEncoderForMaskedLM, loss: torch.Tensor) -> tuple[float, torch.Tensor]:
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("lengths", [[37, 37, 37], [37, 20, 5]], ids=["whole", "padded"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_fast_paths_equal_the_plain_ones(preset, precision, lengths, monkeypatch):
    ids = torch.randint(5, SMALL["vocab_size"], (3, 37), generator=torch.Generator().manual_seed(1))
    real = torch.arange(37) < torch.tensor(lengths)[:, None]
    mask = None if real.all() else real.long()
    labels = ids.where(real & (torch.arange(37) % 3 == 0), -100)

    def fast(model: ConceptEncoderForMaskedLM) -> torch.Tensor:
        return model(ids, attention_mask=mask, labels=labels).loss

    def plain(model: ConceptEncoderForMaskedLM) -> torch.Tensor:
        model.set_attn_implementation("eager")
        model.model.read_runs = {}
        logits = model(ids, attention_mask=mask).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    monkeypatch.setattr(losses, "CHUNK", 8)  # the 39 labels come in odd chunks and blocks
    monkeypatch.setattr(losses, "BLOCK", 18)
    found = {}
    for name, run in (("fast", fast), ("plain", plain), ("exact", plain)):
        with monkeypatch.context() as patch:
            if run is plain:
                patch.setattr(WindowedAttention, "forward", dense_window)
            model = build(preset)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16" and name != "exact"):
                loss = run(model)
            found[name] = loss_and_gradients(model, loss)
    loss, gradient = found["exact"]
    errors = {name: (found[name][1] - gradient).norm() / gradient.norm() for name in ("fast", "plain")}
    assert found["fast"][0] == pytest.approx(loss, rel=1e-5 if precision == "fp32" else 1e-2)
    assert errors["fast"] < (1e-5 if precision == "fp32" else 1.5 * errors["plain"] + 1e-3)  # no worse than bf16 itself
