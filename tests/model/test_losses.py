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


@pytest.mark.parametrize("count", [1, 7, 43, 200, 401])
@pytest.mark.parametrize("num_items", [None, 1000])
def test_loss_and_gradients_equal_the_dense_reference(count, num_items):
    h, decoder, labels = batch(count)
    assert loss_kernel(h.flatten(0, 1)) == ("chunked" if 3 * count > losses.CHUNK else "plain")
    dense = F.cross_entropy(decoder(h).flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")
    dense = dense / (num_items or (labels != IGNORE).sum())
    found = loss_and_gradients(masked_cross_entropy(h, decoder, labels, num_items), h, decoder)
    for one, other in zip(found, loss_and_gradients(dense, h, decoder)):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("count", [43, 401])  # odd chunks, within one block and over several
def test_autocast_keeps_the_loss_in_fp32_and_chunks_are_no_worse_than_bf16_itself(count):
    h, decoder, labels = batch(count)
    inputs = h.flatten(0, 1), decoder, labels.flatten()
    with torch.autocast("cpu", torch.bfloat16):
        assert loss_kernel(h.flatten(0, 1)) == "chunked"
        found = {name: loss_and_gradients(losses.KERNELS[name](*inputs), h, decoder) for name in ("plain", "chunked")}
    exact = loss_and_gradients(losses.KERNELS["plain"](*inputs), h, decoder)
    assert found["chunked"][0].dtype == torch.float32
    torch.testing.assert_close(found["chunked"][0], found["plain"][0], rtol=1e-6, atol=0)
    for reference, plain, chunked in zip(exact[1:], found["plain"][1:], found["chunked"][1:]):
        errors = [(other - reference).norm() / reference.norm() for other in (plain, chunked)]
        assert chunked.dtype == reference.dtype
        assert errors[1] < 1.1 * errors[0] + 1e-3


def test_states_in_bf16_have_gradients_in_bf16():
    h, decoder, labels = batch(401)
    half = nn.Linear(16, 101).to(torch.bfloat16)
    half.load_state_dict(decoder.state_dict())
    low = h.detach().bfloat16().requires_grad_()
    inputs = low.flatten(0, 1), half, labels.flatten()
    found, plain = (loss_and_gradients(losses.KERNELS[name](*inputs), low, half) for name in ("chunked", "plain"))
    for one, other in zip(found[1:], plain[1:]):
        assert one.dtype == torch.bfloat16
        assert (one.float() - other.float()).norm() < 0.01 * other.float().norm()


def test_chunks_refuse_a_second_backward_pass_and_keep_nothing_without_gradients():
    h, decoder, labels = batch(401)
    loss = masked_cross_entropy(h, decoder, labels, None)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        loss.backward()
    with torch.no_grad():
        torch.testing.assert_close(masked_cross_entropy(h, decoder, labels, None), loss)


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
