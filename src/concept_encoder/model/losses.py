"""The masked-LM loss over the vocabulary: the largest product of a pretraining step, and its largest memory.

Three kernels give the same loss and gradients; `loss_kernel` says which one runs. Shape suffixes: see `streams.py`;
L labels of the whole batch, E size of the word embeddings.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IGNORE = -100
CHUNK = 128  # labels whose logits exist at a time in fp32
BLOCK = 1024  # labels whose gradients of logits exist at a time, in the precision of the product

_HAS_LIGER = find_spec("liger_kernel") is not None


def masked_cross_entropy(
    h_BKE: Tensor, decoder: nn.Linear, labels_BK: Tensor, num_items: Tensor | int | None
) -> Tensor:
    """Mean cross-entropy over the labels that are not -100, or their sum divided by `num_items`.

    Args:
        h_BKE: states of the asked tokens, in the space of the word embeddings.
        decoder: from these states to logits.
        num_items: labels in the whole accumulated batch, when it is larger than this one.
    """
    h_LE, labels_L = h_BKE.flatten(0, 1), labels_BK.flatten()
    total = KERNELS[loss_kernel(h_LE)](h_LE, decoder, labels_L)
    if num_items is None:
        num_items = (labels_L != IGNORE).sum().clamp(min=1)
    return total / num_items


def loss_kernel(h_LE: Tensor) -> str:
    """The kernel for these states on this machine.

    - `liger` on CUDA, where the package is installed (extra `cuda`): one pass over the logits, gradients in place;
    - `chunked` on the CPU and in fp32, above 128 labels: never more than 128 rows of logits;
    - `plain` otherwise, and in compiled graphs, where inductor fuses it.
    """
    if torch.compiler.is_compiling():
        return "plain"
    if h_LE.is_cuda and _HAS_LIGER:
        return "liger"
    low = h_LE.dtype != torch.float32 or torch.is_autocast_enabled(h_LE.device.type)
    return "plain" if len(h_LE) <= CHUNK or (h_LE.is_cuda and low) else "chunked"


def _plain(h_LE: Tensor, decoder: nn.Linear, labels_L: Tensor) -> Tensor:
    return F.cross_entropy(decoder(h_LE).float(), labels_L, ignore_index=IGNORE, reduction="sum")


class _Chunked(torch.autograd.Function):
    """`_plain` without all its logits at once: each chunk leaves its part of the loss and of the gradients behind.

    Gradients are made in the forward pass, as of a loss whose own gradient is 1, and scaled in the backward pass.
    Source: the idea of Liger's fused linear cross-entropy (arXiv:2410.10989), in plain torch.
    """

    @staticmethod
    def forward(ctx: Any, h_LE: Tensor, weight_VE: Tensor, bias_V: Tensor, labels_L: Tensor, dtype: torch.dtype):
        low_LE, low_VE, low_V = h_LE.to(dtype), weight_VE.to(dtype), bias_V.to(dtype)
        total, grad_LE = torch.zeros((), device=h_LE.device), torch.empty_like(h_LE)
        grad_VE, grad_V = None, torch.zeros_like(bias_V)
        for block in torch.arange(len(h_LE), device=h_LE.device).split(BLOCK):
            grad_KV = low_LE.new_empty(len(block), len(low_V))  # K labels of a block
            for chunk, grad_cV in zip(block.split(CHUNK), grad_KV.split(CHUNK)):
                logits = torch.addmm(low_V, low_LE[chunk], low_VE.T).float()
                total += _loss_then_gradient(logits, labels_L[chunk])
                grad_V += logits.sum(0)
                grad_cV.copy_(logits)
                del logits
                grad_LE[chunk] = (grad_cV @ low_VE).to(h_LE.dtype)
            part_VE = grad_KV.T @ low_LE[block]
            del grad_KV, grad_cV  # before the copy in fp32
            grad_VE = part_VE.to(weight_VE.dtype) if grad_VE is None else grad_VE.add_(part_VE)
        ctx.grads = grad_LE, grad_VE, grad_V
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("the chunked loss keeps its gradients for one backward pass only")
        grads, ctx.grads = ctx.grads, None
        return *(states.mul_(grad) for states in grads), None, None


def _loss_then_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """The summed loss `[]`; its gradient takes the place of the logits."""
    asked, labels = labels != IGNORE, labels.clamp(min=0)[:, None]
    norm = logits.logsumexp(-1, keepdim=True)
    losses = norm - logits.gather(1, labels)
    logits.sub_(norm).exp_().scatter_add_(1, labels, -torch.ones_like(losses)).mul_(asked[:, None])
    return (losses[:, 0] * asked).sum()


def _chunked(h_LE: Tensor, decoder: nn.Linear, labels_L: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return _plain(h_LE, decoder, labels_L)
    kind = h_LE.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else h_LE.dtype
    with torch.autocast(kind, enabled=False):
        return _Chunked.apply(h_LE, decoder.weight, decoder.bias, labels_L, dtype)


def _liger(h_LE: Tensor, decoder: nn.Linear, labels_L: Tensor) -> Tensor:
    from liger_kernel.transformers.functional import liger_cross_entropy

    return liger_cross_entropy(decoder(h_LE), labels_L, ignore_index=IGNORE, reduction="sum")


KERNELS = {"plain": _plain, "chunked": _chunked, "liger": _liger}
