"""The moves: every architecture is a sequence of them (`layer_types`). Each takes the streams and returns them updated.

Every attention input is normed, keys and values included. Streams that are updated get a feed-forward; `read` leaves it to
the `think` that follows, as in the plan's layer (cross-attention, self-attention, feed-forward).
"""

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from concept_encoder.model.attention import Attention, FeedForward, WindowedAttention, make_norm
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
    pointwise = False  # a token's update depends on no other token, so a decoder may ask at chosen positions only

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
    attention_class = Attention

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.norm = make_norm(config)
        self.attention = self.attention_class(config, attention_position(config, "tokens", "tokens"))
        self.feed_forward = FeedForward(config)

    def forward(self, s: Streams) -> Streams:
        h_BND = self.norm(s.x_BND)
        update, weights = self.attention(h_BND, h_BND, s.x_mask_BN, s.x_pos_BN, s.x_pos_BN)
        self.record(s, weights)
        x_BND = s.x_BND + update
        return s.replace(x_BND=x_BND + self.feed_forward(x_BND))


@MOVES.register("mix_local")
class MixLocal(Mix):
    """Tokens attend to a window of `local_window` tokens, O(N·w). Source: Longformer (arXiv:2004.05150)."""

    attention_class = WindowedAttention


@MOVES.register("read")
class Read(Move):
    """Concepts attend to tokens, O(C·N). Source: Perceiver cross-attention (arXiv:2103.03206)."""

    uses = frozenset({"tokens", "concepts"})
    updates = frozenset({"concepts"})

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.concept_norm = make_norm(config)
        self.token_norm = make_norm(config)
        self.attention = Attention(config, attention_position(config, "concepts", "tokens"))

    def forward(self, s: Streams) -> Streams:
        update, weights = self.attention(
            self.concept_norm(s.z_BCD), self.token_norm(s.x_BND), s.x_mask_BN, s.z_pos_BC, s.x_pos_BN
        )
        self.record(s, weights)
        return s.replace(z_BCD=s.z_BCD + update)


@MOVES.register("think")
class Think(Move):
    """Concepts attend to concepts, O(C²). Source: Perceiver latent self-attention (arXiv:2103.03206)."""

    uses = frozenset({"concepts"})
    updates = frozenset({"concepts"})

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.norm = make_norm(config)
        self.attention = Attention(config, attention_position(config, "concepts", "concepts"))
        self.feed_forward = FeedForward(config)

    def forward(self, s: Streams) -> Streams:
        h_BCD = self.norm(s.z_BCD)
        update, weights = self.attention(h_BCD, h_BCD, s.z_mask_BC, s.z_pos_BC, s.z_pos_BC)
        self.record(s, weights)
        z_BCD = s.z_BCD + update
        return s.replace(z_BCD=z_BCD + self.feed_forward(z_BCD))


@MOVES.register("write")
class Write(Move):
    """Tokens attend to concepts, O(C·N). Source: Perceiver IO output query (arXiv:2107.14795), Luna (arXiv:2106.01540)."""

    uses = frozenset({"tokens", "concepts"})
    updates = frozenset({"tokens"})
    pointwise = True

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.token_norm = make_norm(config)
        self.concept_norm = make_norm(config)
        self.attention = Attention(config, attention_position(config, "tokens", "concepts"))
        self.feed_forward = FeedForward(config)

    def forward(self, s: Streams) -> Streams:
        update, weights = self.attention(
            self.token_norm(s.x_BND), self.concept_norm(s.z_BCD), s.z_mask_BC, s.x_pos_BN, s.z_pos_BC
        )
        self.record(s, weights)
        x_BND = s.x_BND + update
        return s.replace(x_BND=x_BND + self.feed_forward(x_BND))
