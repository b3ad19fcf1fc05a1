"""The one attention module (self and cross) and the feed-forward; kernels come from the transformers interface.

Shape suffixes: see `streams.py`.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from concept_encoder.model.kernels import SDPA_IN_FP32, VARLEN, can_run_varlen, varlen_attention
from concept_encoder.model.positions import Position

if TYPE_CHECKING:
    from concept_encoder.model.config import ConceptEncoderConfig


def make_norm(config: "ConceptEncoderConfig") -> nn.LayerNorm:
    """The norm used everywhere: LayerNorm without bias."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=False)


class ResidualOutput(nn.Linear):
    """The last linear map of a residual branch: initialised smaller, so that depth keeps the scale."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)


class Attention(nn.Module):
    """Multi-head attention from queries `x_BQD` to keys and values of `y_BKD` (both already normed).

    The kernel is `config._attn_implementation`: `sdpa` (default), `eager` (keeps the weights), `varlen` (see
    `kernels.py`), or whatever transformers offers on the machine (`flash_attention_2`, …).
    Source: Transformer, equation 1 (arXiv:1706.03762).
    """

    is_causal = False

    def __init__(self, config: "ConceptEncoderConfig", position: Position):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.position = position
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.key_value = nn.Linear(config.hidden_size, 2 * config.hidden_size, bias=False)
        self.out = ResidualOutput(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, x_BQD: Tensor, kv_BKE: Tensor, y_mask_BK: Tensor | None, x_pos_BQ: Tensor, y_pos_BK: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the update `[B, Q, D]` and, from kernels that keep them, the weights `[B, H, Q, K]`.

        `kv_BKE` is `key_value(y_BKD)`, E = 2D: the caller makes it, as one product may serve several layers.
        """
        q_BHQd, k_BHKd, v_BHKd = self.project(x_BQD, kv_BKE, x_pos_BQ, y_pos_BK)
        bias = self.position_bias(q_BHQd, k_BHKd, y_mask_BK, x_pos_BQ, y_pos_BK)
        attended_BQHd, weights = self.attend(q_BHQd, k_BHKd, v_BHKd, self.kernel_mask(bias, y_mask_BK))
        return self.finish(attended_BQHd), weights

    def project(self, x_BQD: Tensor, kv_BKE: Tensor, x_pos_BQ: Tensor, y_pos_BK: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, split in heads and turned by their positions."""
        q_BHQd = self.split_heads(self.query(x_BQD))
        k_BKD, v_BKD = kv_BKE.chunk(2, dim=-1)
        k_BHKd, v_BHKd = self.split_heads(k_BKD), self.split_heads(v_BKD)
        return self.position.rotate(q_BHQd, x_pos_BQ), self.position.rotate(k_BHKd, y_pos_BK), v_BHKd

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Run the kernel: `[B, Q, H, d]` and the weights, if it keeps them."""
        name = self.kernel
        if mask is not None and name.startswith("fl"):
            name = "sdpa"  # flash and flex take no such mask, and transformers' unpadding knows self-attention only
        if name == "sdpa" and q.dtype == torch.bfloat16 and q.device.type == "cpu":
            name = SDPA_IN_FP32
        kernel = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
        return kernel(self, q, k, v, mask, dropout=self.dropped, scaling=self.head_dim**-0.5, is_causal=False)

    @property
    def kernel(self) -> str:
        return self.config._attn_implementation or "eager"

    @property
    def dropped(self) -> float:
        """The share of the weights that is dropped now."""
        return self.config.attention_probs_dropout_prob if self.training else 0.0

    def split_heads(self, states_BND: Tensor) -> Tensor:
        """`[B, H, N, d]`."""
        return states_BND.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def finish(self, attended_BQHd: Tensor) -> Tensor:
        """Heads joined and projected: the update `[B, Q, D]`."""
        return self.dropout(self.out(attended_BQHd.flatten(2)))

    def position_bias(
        self, q_BHQd: Tensor, k_BHKd: Tensor, mask_BK: Tensor | None, q_pos_BQ: Tensor, k_pos_BK: Tensor
    ) -> Tensor | None:
        """What the position encoding adds to the logits, `[B or 1, H, Q, K]`, if it adds anything."""
        return self.position.bias(q_BHQd * self.head_dim**-0.5, k_BHKd, mask_BK, q_pos_BQ, k_pos_BK)

    def kernel_mask(self, bias: Tensor | None, mask_BK: Tensor | None) -> Tensor | None:
        """Which keys may be seen, `[B, 1, 1, K]`, or the position bias with it, `[B, H, Q, K]`."""
        if bias is not None:
            return bias if mask_BK is None else bias.masked_fill(~mask_BK[:, None, None], -torch.inf)
        return None if mask_BK is None else mask_BK[:, None, None, :]


class WindowedAttention(Attention):
    """Self-attention of each token to the tokens at most `local_window // 2` away, in O(N·w) time and memory.

    The text is cut into blocks of half a window; a block attends to itself and its two neighbours under a band mask. A
    position bias is asked for block by block, so its member must have `bias_by_pair`.
    Source: Longformer, section 3.1 (arXiv:2004.05150); window as in ModernBERT (arXiv:2412.13663).
    """

    def forward(
        self, x_BQD: Tensor, kv_BKE: Tensor, y_mask_BK: Tensor | None, x_pos_BQ: Tensor, y_pos_BK: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        half, length = self.config.local_window // 2, x_BQD.shape[1]
        if length <= half + 1:  # the window covers the text
            return super().forward(x_BQD, kv_BKE, y_mask_BK, x_pos_BQ, y_pos_BK)
        q_BHNd, k_BHNd, v_BHNd = self.project(x_BQD, kv_BKE, x_pos_BQ, y_pos_BK)
        padding = self.kernel_mask(None, y_mask_BK)
        unbiased = not self.position.adds_bias()
        if unbiased and self.kernel == VARLEN and can_run_varlen(self, q_BHNd, padding, self.dropped):
            scaling = self.head_dim**-0.5
            attended, _ = varlen_attention(self, q_BHNd, k_BHNd, v_BHNd, padding, scaling=scaling, window=half)
            return self.finish(attended), None
        batch, blocks = x_BQD.shape[0], -(-length // half)
        real_BN = x_BQD.new_ones(batch, length, dtype=torch.bool) if y_mask_BK is None else y_mask_BK
        mask, deaf = _band_mask(half, real_BN)
        q = _blocks(q_BHNd, half)
        k, v = (_blocks(states, half, neighbours=True) for states in (k_BHNd, v_BHNd))
        x_pos_BN = x_pos_BQ.expand(batch, -1)[:, None, :, None]  # as states of one head
        q_pos, k_pos = _blocks(x_pos_BN, half), _blocks(x_pos_BN, half, neighbours=True)
        bias = self.position_bias(q, k, None, q_pos[:, 0, :, 0], k_pos[:, 0, :, 0])
        if bias is not None:
            mask = bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
        attended, _ = self.attend(q, k, v, mask)
        if y_mask_BK is not None:  # whoever sees nobody hears nothing, as in a text that one window covers
            attended = attended.masked_fill(deaf, 0.0)
        return self.finish(attended.unflatten(0, (batch, blocks)).flatten(1, 2)[:, :length]), None


def _blocks(states_BHNd: Tensor, size: int, neighbours: bool = False) -> Tensor:
    """Blocks of tokens, `[B * blocks, H, size, d]`, or each between its two neighbours; zeros where no token is."""
    margin, tail = size * neighbours, -states_BHNd.shape[2] % size
    blocks = F.pad(states_BHNd, (0, 0, margin, margin + tail)).unflatten(2, (-1, size)).transpose(1, 2)
    if neighbours:  # not `unfold`: its backward pass takes twice the time, and it ties a compiled graph to one length
        blocks = torch.cat([blocks[:, :-2], blocks[:, 1:-1], blocks[:, 2:]], dim=3)
    return blocks.flatten(0, 1)


def _band_mask(half: int, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Which of a block's `3 * half` keys each of its queries may see, `[B * blocks, 1, half, 3 * half]`.

    A query that may see none sees itself, as zero by zero is nothing; which do, `[B * blocks, half, 1, 1]`.
    """
    query = torch.arange(half, device=mask_BN.device)[:, None]
    key = torch.arange(3 * half, device=mask_BN.device)[None] - half
    real = _blocks(mask_BN[:, None, :, None], half, neighbours=True).mT
    allowed = ((key - query).abs() <= half) & real
    deaf = ~allowed.any(-1, keepdim=True)
    return allowed | (deaf & (key == query)), deaf.transpose(1, 2)


def eager_attention(
    module: Attention, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: float
) -> tuple[Tensor, Tensor]:
    """The formula, softmax(qk/√d)v, keeping the weights; for analysis and as the reference of the fast kernels.

    A query that may see no key hears nothing, as in SDPA.
    """
    logits = (query @ key.transpose(2, 3)) * kwargs["scaling"]
    if attention_mask is not None:
        shown = attention_mask if attention_mask.dtype == torch.bool else attention_mask > -torch.inf
        logits = logits if shown is attention_mask else logits + attention_mask
        logits = logits.masked_fill(~shown, torch.finfo(logits.dtype).min)
        weights = logits.float().softmax(-1).masked_fill(~shown.any(-1, keepdim=True), 0.0).to(query.dtype)
    else:
        weights = logits.float().softmax(-1).to(query.dtype)
    weights_dropped = F.dropout(weights, kwargs["dropout"], module.training)
    return (weights_dropped @ value).transpose(1, 2), weights


class FeedForward(nn.Module):
    """Norm, widen, activate, narrow; returns the update. Source: Transformer, equation 2 (arXiv:1706.03762)."""

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.norm = make_norm(config)
        self.widen = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.activation = ACT2FN[config.hidden_act]
        self.out = ResidualOutput(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.dropout(self.out(self.activation(self.widen(self.norm(x_BND)))))
