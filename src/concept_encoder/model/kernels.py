"""Attention kernels of our own, registered with transformers by name.

"varlen": unpadded flash attention for padded batches on CUDA, without moving a token. Where it cannot run (CPU, fp32, a
mask with gaps, a position bias) scaled_dot_product_attention runs instead and gives the same.
"sdpa_in_fp32": what "sdpa" means for bf16 on a CPU. Shape suffixes: see `streams.py`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

VARLEN = "varlen"
SDPA_IN_FP32 = "sdpa_in_fp32"


def can_run_varlen(module: nn.Module, query: Tensor, mask: Tensor | None, dropout: float) -> bool:
    """Whether the kernel takes these inputs: half precision on CUDA, keys hidden by plain padding only."""
    padding_only = mask is None or (mask.dtype == torch.bool and mask.shape[-2] == 1 and not module.config.mask_free)
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and padding_only and dropout == 0


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    window: int | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """`[B, Q, H, d]` from `[B, H, Q, d]` and `[B, H, K, d]`; real keys are one stretch of each text.

    The batch is not gathered: every row of K keys is cut at both ends of its text, and the queries belong to the
    middle piece. Padding is then a sequence without queries, shapes stay static, and no position needs a look at the
    data. With a `window` (self-attention, as many tokens to each side) padding attends to padding.
    Source: FlashAttention-2 (arXiv:2307.08691), through torch.nn.attention.varlen.
    """
    plain = window is None and attention_mask is None
    if plain or not can_run_varlen(module, query, attention_mask, dropout):
        assert window is None, "the caller asks `can_run_varlen` first"
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=False)
    from torch.nn.attention.varlen import varlen_attn

    cuts_k = row_cuts(key.shape[0], key.shape[2], attention_mask, key.device)
    cuts_q = cuts_k if window is not None else query_cuts(query.shape[0], query.shape[2], query.device)
    attended = varlen_attn(
        *(states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)),
        cuts_q,
        cuts_k,
        query.shape[2],
        key.shape[2],
        scale=scaling,
        window_size=(-1, -1) if window is None else (window, window),
    )
    return attended.unflatten(0, (query.shape[0], query.shape[2])), None


def row_cuts(batch: int, length: int, mask_B11K: Tensor | None, device: torch.device) -> Tensor:
    """Where pieces begin in `B * K` keys, `[3B + 1]`: of each row the padding before, the text, the padding after."""
    row_B1 = torch.arange(batch, device=device, dtype=torch.int32)[:, None] * length
    if mask_B11K is None:
        pieces_B3 = torch.tensor([[0, 0, length]], device=device, dtype=torch.int32)
    else:
        real_BK = mask_B11K[:, 0, 0].to(torch.int32)
        first_B1, count_B1 = real_BK.argmax(1, keepdim=True), real_BK.sum(1, keepdim=True)
        pieces_B3 = torch.cat([torch.zeros_like(first_B1), first_B1, first_B1 + count_B1], 1).to(torch.int32)
    return _closed((row_B1 + pieces_B3).flatten(), batch * length)


def query_cuts(batch: int, length: int, device: torch.device) -> Tensor:
    """The same cuts of `B * Q` queries, all of which belong to the text."""
    row_B1 = torch.arange(batch, device=device, dtype=torch.int32)[:, None] * length
    pieces_13 = torch.tensor([[0, 0, length]], device=device, dtype=torch.int32)
    return _closed((row_B1 + pieces_13).flatten(), batch * length)


def _closed(cuts: Tensor, end: int) -> Tensor:
    return torch.cat([cuts, cuts.new_full((1,), end)])


def sdpa_in_fp32(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """`[B, Q, H, d]` in the dtype of the query: torch's CPU kernel is slower in bf16 than in fp32."""
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query.device.type, enabled=False):
        wide = (states.float() for states in (query, key, value))
        attended, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, *wide, attention_mask, **kwargs)
    return attended.to(query.dtype), None


ALL_ATTENTION_FUNCTIONS.register(VARLEN, varlen_attention)
ALL_ATTENTION_FUNCTIONS.register(SDPA_IN_FP32, sdpa_in_fp32)
