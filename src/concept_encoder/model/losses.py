"""The masked-LM loss over the vocabulary: the largest product of a pretraining step, and its largest memory.

Three kernels give the same loss and gradients; `loss_kernel` says which one runs. Shape suffixes: see `streams.py`;
L labels of the whole batch, E size of the word embeddings.
"""

from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IGNORE = -100
CHUNK = 512  # labels whose logits exist at a time; torch's own choice ("auto") is 4 to 19 times slower on the CPU

_HAS_CHUNKED = "linear_cross_entropy" in vars(F)  # torch 2.12
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
    - `chunked` in fp32 for more than 512 labels: never more than 512 rows of logits (torch.nn.functional.
      linear_cross_entropy). Not under autocast: there it sums the loss in bf16, wrong in the fourth digit;
    - `plain` otherwise, and in compiled graphs, where inductor fuses it.
    """
    if torch.compiler.is_compiling():
        return "plain"
    if h_LE.is_cuda and _HAS_LIGER:
        return "liger"
    full = h_LE.dtype == torch.float32 and not torch.is_autocast_enabled(h_LE.device.type)
    return "chunked" if _HAS_CHUNKED and full and len(h_LE) > CHUNK else "plain"


def _plain(h_LE: Tensor, decoder: nn.Linear, labels_L: Tensor) -> Tensor:
    return F.cross_entropy(decoder(h_LE).float(), labels_L, ignore_index=IGNORE, reduction="sum")


def _chunked(h_LE: Tensor, decoder: nn.Linear, labels_L: Tensor) -> Tensor:
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK, chunking_method=None)
    return F.linear_cross_entropy(
        h_LE,
        decoder.weight,
        labels_L,
        linear_bias=decoder.bias,
        reduction="sum",
        ignore_index=IGNORE,
        options=options,
    )


def _liger(h_LE: Tensor, decoder: nn.Linear, labels_L: Tensor) -> Tensor:
    from liger_kernel.transformers.functional import liger_cross_entropy

    return liger_cross_entropy(decoder(h_LE), labels_L, ignore_index=IGNORE, reduction="sum")


KERNELS = {"plain": _plain, "chunked": _chunked, "liger": _liger}
