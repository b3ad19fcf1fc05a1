"""Every kernel of the masked-LM loss against the dense fp32 reference, values and gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from concept_encoder.model import losses
from concept_encoder.model.losses import IGNORE, loss_kernel, masked_cross_entropy


def batch(count: int) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    decoder = nn.Linear(16, 101)
    labels = torch.randint(101, (3, count))
    labels[1, count // 2 :] = IGNORE
    return torch.randn(3, count, 16, requires_grad=True), decoder, labels


def loss_and_gradients(total: torch.Tensor, h: torch.Tensor, decoder: nn.Linear) -> list[torch.Tensor]:
    return [total, *torch.autograd.grad(total, [h, decoder.weight, decoder.bias])]


@pytest.mark.parametrize("count", [1, 7, 200, 401])
@pytest.mark.parametrize("num_items", [None, 1000])
def test_loss_and_gradients_equal_the_dense_reference(count, num_items):
    h, decoder, labels = batch(count)
    expected_kernel = "chunked" if losses._HAS_CHUNKED and 3 * count > losses.CHUNK else "plain"
    assert loss_kernel(h.flatten(0, 1)) == expected_kernel
    dense = F.cross_entropy(decoder(h).flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")
    dense = dense / (num_items or (labels != IGNORE).sum())
    found = loss_and_gradients(masked_cross_entropy(h, decoder, labels, num_items), h, decoder)
    for one, other in zip(found, loss_and_gradients(dense, h, decoder)):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_autocast_keeps_the_loss_in_fp32():
    h, decoder, labels = batch(401)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss_kernel(h.flatten(0, 1)) == "plain"
        loss = masked_cross_entropy(h, decoder, labels, None)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, masked_cross_entropy(h, decoder, labels, None), rtol=1e-3, atol=0)


def test_no_labels_at_all_is_a_loss_of_zero():
    h, decoder, labels = batch(7)
    assert masked_cross_entropy(h, decoder, torch.full_like(labels, IGNORE), None) == 0


@pytest.mark.skipif(not (torch.cuda.is_available() and losses._HAS_LIGER), reason="needs CUDA and liger-kernel")
def test_liger_equals_the_dense_reference():
    h, decoder, labels = batch(200)
    h, decoder, labels = h.detach().cuda().requires_grad_(), decoder.cuda(), labels.cuda()
    assert loss_kernel(h.flatten(0, 1)) == "liger"
    dense = F.cross_entropy(decoder(h).flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
    found = loss_and_gradients(masked_cross_entropy(h, decoder, labels, None), h, decoder)
    for one, other in zip(found, loss_and_gradients(dense, h, decoder)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
