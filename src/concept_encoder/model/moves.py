"""The moves: every architecture is a sequence of them (`layer_types`). Each takes the streams and returns them updated.

Every attention input is normed, keys and values included. Streams that are updated get a feed-forward; `read` leaves
it to the `think` that follows, as in MrCogito's layer (cross-attention, self-attention, feed-forward).
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concept_encoder.model.attention import (
    Attention,
    FeedForward,
    ResidualOutput,
    WindowedAttention,
    make_norm,
)
from concept_encoder.model.positions import attention_position
from concept_encoder.model.registry import Registry
from concept_encoder.model.streams import Streams

if TYPE_CHECKING:
    from concept_encoder.model.config import ConceptEncoderConfig

MOVES = Registry("move")


class Move(nn.Module):
    """One layer: which streams it uses and updates, and whether it treats each token apart from the others."""

    uses: ClassVar[frozenset[str]]
    updates: ClassVar[frozenset[str]]
    attends: ClassVar[tuple[str, ...]] = ()  # from which stream to which, if there is an attention
    options: ClassVar[tuple[str, ...]] = ()  # fields of the configuration that only this move reads
    pointwise = False  # a token's update depends on no other token, so a decoder may ask at chosen positions only
    shortens = False  # leaves half as many tokens, as `pool` does
    partial = False  # an attention among tokens that is not from every token to every token
    projects_tokens = False  # a `Read`: its keys and values of the tokens may come from `project_together`

    def forward(self, s: Streams) -> Streams:
        raise NotImplementedError

    def record(self, s: Streams, weights: Tensor | None) -> None:
        """Keep attention weights when somebody asked for them and the kernel has them."""
        if s.attentions is not None and weights is not None:
            s.attentions.append((self.name, weights))


@MOVES.register("mix")
class Mix(Move):
    """Tokens attend to all tokens, O(N²). Source: Transformer encoder layer, pre-norm (arXiv:2002.04745)."""

    uses = frozenset({"tokens"})
    updates = frozenset({"tokens"})
    attends = ("tokens", "tokens")
    attention_class = Attention

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.norm = make_norm(config)
        self.attention = self.attention_class(config, attention_position(config, *self.attends))
        self.feed_forward = FeedForward(config)

    def forward(self, s: Streams) -> Streams:
        h_BND = self.norm(s.x_BND)
        kv_BNE = self.attention.key_value(h_BND)
        update, weights = self.attention(h_BND, kv_BNE, s.visible_BN, s.x_pos_BN, s.x_pos_BN)
        self.record(s, weights)
        x_BND = s.x_BND + update
        return s.replace(x_BND=x_BND + self.feed_forward(x_BND))


@MOVES.register("mix_local")
class MixLocal(Mix):
    """Tokens attend to a window of `local_window` tokens, O(N·w). Source: Longformer (arXiv:2004.05150)."""

    attention_class = WindowedAttention
    options = ("local_window",)
    partial = True


@MOVES.register("read")
class Read(Move):
    """Concepts attend to tokens, O(C·N). Source: Perceiver cross-attention (arXiv:2103.03206)."""

    uses = frozenset({"tokens", "concepts"})
    updates = frozenset({"concepts"})
    attends = ("concepts", "tokens")
    projects_tokens = True

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.concept_norm = make_norm(config)
        self.token_norm = make_norm(config)
        self.attention = Attention(config, attention_position(config, *self.attends))

    @staticmethod
    def project_together(reads: list["Read"], s: Streams) -> tuple[Tensor, ...]:
        """Keys and values of the same tokens for several reads, `[B, N, E]` each, from one matrix product.

        The tokens are normed once: the weights of the norms go into the maps, W (g * x) = (W * g) x.
        """
        norms = [read.token_norm for read in reads]
        normed_BND = F.layer_norm(s.x_BND, s.x_BND.shape[-1:], eps=norms[0].eps)
        maps = [read.attention.key_value.weight * norm.weight for read, norm in zip(reads, norms)]
        return F.linear(normed_BND, torch.cat(maps)).chunk(len(reads), dim=-1)

    def token_kv(self, s: Streams) -> Tensor:
        return self.attention.key_value(self.token_norm(s.x_BND)) if s.kv_BNE is None else s.kv_BNE

    def forward(self, s: Streams) -> Streams:
        update, weights = self.attention(
            self.concept_norm(s.z_BCD), self.token_kv(s), s.visible_BN, s.z_pos_BC, s.x_pos_BN
        )
        self.record(s, weights)
        return s.replace(z_BCD=s.z_BCD + update)


@MOVES.register("think")
class Think(Move):
    """Concepts attend to concepts, O(C²). Source: Perceiver latent self-attention (arXiv:2103.03206)."""

    uses = frozenset({"concepts"})
    updates = frozenset({"concepts"})
    attends = ("concepts", "concepts")

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.norm = make_norm(config)
        self.attention = Attention(config, attention_position(config, *self.attends))
        self.feed_forward = FeedForward(config)

    def forward(self, s: Streams) -> Streams:
        h_BCD = self.norm(s.z_BCD)
        update, weights = self.attention(h_BCD, self.attention.key_value(h_BCD), s.z_mask_BC, s.z_pos_BC, s.z_pos_BC)
        self.record(s, weights)
        z_BCD = s.z_BCD + update
        return s.replace(z_BCD=z_BCD + self.feed_forward(z_BCD))


@MOVES.register("write")
class Write(Move):
    """Tokens attend to concepts, O(C·N).

    Source: Perceiver IO output query (arXiv:2107.14795), Luna (arXiv:2106.01540).
    """

    uses = frozenset({"tokens", "concepts"})
    updates = frozenset({"tokens"})
    attends = ("tokens", "concepts")
    pointwise = True

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.token_norm = make_norm(config)
        self.concept_norm = make_norm(config)
        self.attention = Attention(config, attention_position(config, *self.attends))
        self.feed_forward = FeedForward(config)

    def forward(self, s: Streams) -> Streams:
        kv_BCE = self.attention.key_value(self.concept_norm(s.heard_BCD))
        update, weights = self.attention(self.token_norm(s.x_BND), kv_BCE, s.z_mask_BC, s.x_pos_BN, s.z_pos_BC)
        self.record(s, weights)
        x_BND = s.x_BND + update
        return s.replace(x_BND=x_BND + self.feed_forward(x_BND))


@MOVES.register("slot")
class SlotRead(Read):
    """A read in which concepts compete: softmax over the concepts, then a mean over tokens.

    Source: Slot Attention (arXiv:2006.15055).
    """

    def forward(self, s: Streams) -> Streams:
        attention = self.attention
        q_BHCd, k_BHNd, v_BHNd = attention.project(self.concept_norm(s.z_BCD), self.token_kv(s), s.z_pos_BC, s.x_pos_BN)
        logits_BHCN = (q_BHCd @ k_BHNd.mT) * attention.head_dim**-0.5
        bias = attention.position_bias(q_BHCd, k_BHNd, s.visible_BN, s.z_pos_BC, s.x_pos_BN)
        if bias is not None:
            logits_BHCN = logits_BHCN + bias
        if s.z_mask_BC is not None:
            logits_BHCN = logits_BHCN.masked_fill(~s.z_mask_BC[:, None, :, None], torch.finfo(logits_BHCN.dtype).min)
        share_BHCN = logits_BHCN.float().softmax(2)
        if s.visible_BN is not None:
            share_BHCN = share_BHCN * s.visible_BN[:, None, None]
        weights_BHCN = (share_BHCN / share_BHCN.sum(-1, keepdim=True).clamp(min=1e-8)).to(v_BHNd.dtype)
        self.record(s, weights_BHCN)
        dropped_BHCN = F.dropout(weights_BHCN, attention.dropped)
        return s.replace(z_BCD=s.z_BCD + attention.finish((dropped_BHCN @ v_BHNd).transpose(1, 2)))


@MOVES.register("exchange")
class Exchange(Move):
    """Concepts and tokens attend to each other through one similarity, O(C·N). Source: BiXT (arXiv:2402.12138).

    Each side has one projection for matching and one for values. The kernel runs once a direction, so that the C x N
    similarity is never kept.
    """

    uses = frozenset({"tokens", "concepts"})
    updates = frozenset({"tokens", "concepts"})
    attends = ("concepts", "tokens")

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.concept_norm = make_norm(config)
        self.token_norm = make_norm(config)
        self.attention = Attention(config, attention_position(config, *self.attends))
        self.concept_value = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.token_out = ResidualOutput(config.hidden_size, config.hidden_size)
        self.feed_forward = FeedForward(config)

    def forward(self, s: Streams) -> Streams:
        attention, concepts = self.attention, self.concept_norm(s.z_BCD)
        kv_BNE = attention.key_value(self.token_norm(s.x_BND))
        match_z, match_x, v_BHNd = attention.project(concepts, kv_BNE, s.z_pos_BC, s.x_pos_BN)
        bias = attention.position_bias(match_z, match_x, s.visible_BN, s.z_pos_BC, s.x_pos_BN)
        to_concepts, weights = attention.attend(match_z, match_x, v_BHNd, attention.kernel_mask(bias, s.visible_BN))
        if s.intervention is not None:  # tokens hear other concepts than those that read them
            concepts = self.concept_norm(s.heard_BCD)
            match_z = attention.position.rotate(attention.split_heads(attention.query(concepts)), s.z_pos_BC)
            bias = attention.position_bias(match_z, match_x, s.visible_BN, s.z_pos_BC, s.x_pos_BN)
        v_BHCd = attention.split_heads(self.concept_value(concepts))
        turned = None if bias is None else bias.mT
        to_tokens, _ = attention.attend(match_x, match_z, v_BHCd, attention.kernel_mask(turned, s.z_mask_BC))
        self.record(s, weights)
        x_BND = s.x_BND + attention.dropout(self.token_out(to_tokens.flatten(2)))
        return s.replace(z_BCD=s.z_BCD + attention.finish(to_concepts), x_BND=x_BND + self.feed_forward(x_BND))


@MOVES.register("pool")
class Pool(Move):
    """Tokens are halved: means of pairs attend to the unpooled tokens. Source: Funnel-Transformer (arXiv:2006.03236).

    Only the query is pooled; the first token ([CLS]) stays apart; a text of odd length keeps its last token alone.
    """

    uses = frozenset({"tokens"})
    updates = frozenset({"tokens"})
    attends = ("tokens", "tokens")
    shortens = True
    partial = True

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.norm = make_norm(config)
        self.attention = Attention(config, attention_position(config, *self.attends))
        self.feed_forward = FeedForward(config)

    def forward(self, s: Streams) -> Streams:
        pooled = self.halve(s)
        kv_BNE = self.attention.key_value(self.norm(s.x_BND))
        update, weights = self.attention(self.norm(pooled.x_BND), kv_BNE, s.visible_BN, pooled.x_pos_BN, s.x_pos_BN)
        self.record(s, weights)
        x_BMD = pooled.x_BND + update
        return pooled.replace(x_BND=x_BMD + self.feed_forward(x_BMD))

    @staticmethod
    def halve(s: Streams) -> Streams:
        """`1 + ceil((N - 1) / 2)` tokens: means of the visible ones of a pair, at the mean place of the real ones."""
        real_BMp, seen_BMp = _pairs(_weights(s.x_mask_BN, s)), _pairs(_weights(s.visible_BN, s))
        x_BDMp = _pairs(s.x_BND.mT) * _shares(seen_BMp)[:, None].to(s.x_BND.dtype)
        exists_BM = real_BMp.any(-1)
        return s.replace(
            x_BND=x_BDMp.sum(-1).mT,
            x_pos_BN=(_pairs(s.x_pos_BN.float()) * _shares(real_BMp)).sum(-1),
            x_mask_BN=None if s.x_mask_BN is None else exists_BM,
            x_hidden_BN=None if s.x_hidden_BN is None else exists_BM & ~seen_BMp.any(-1),
            full=s.full or s,
        )


def _weights(mask_BN: Tensor | None, s: Streams) -> Tensor:
    """The mask as numbers, `[B or 1, N]`."""
    return torch.ones_like(s.x_pos_BN[:1], dtype=torch.float) if mask_BN is None else mask_BN.float()


def _shares(weights_BMp: Tensor) -> Tensor:
    return weights_BMp / weights_BMp.sum(-1, keepdim=True).clamp(min=1)


def _pairs(states_N: Tensor) -> Tensor:
    """The last dimension as `[first, nothing], [second, third], …`, `[..., M, 2]`."""
    rest = F.pad(states_N[..., 1:], (0, (states_N.shape[-1] - 1) % 2)).unflatten(-1, (-1, 2))
    return torch.cat([F.pad(states_N[..., :1], (0, 1))[..., None, :], rest], dim=-2)
