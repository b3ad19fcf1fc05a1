"""What flows through the encoder: a token stream and a concept stream, with who is padding and who sits where.

Shape suffixes, used in all of `model/`: B texts, N tokens, C concepts, D hidden size, H heads, d size of a head,
Q queries, K keys or chosen positions, E = 2D keys beside values, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

Intervention = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Streams:
    """Tokens and concepts between two moves. A mask of `None` means that nothing is padded: the fast path.

    Attributes:
        x_BND: token states.
        x_pos_BN: where each token sits, counted in tokens; `[1, N]` when all texts agree.
        x_mask_BN: True for real tokens.
        x_hidden_BN: True for tokens that nobody may attend to ([MASK], with `mask_free`); they keep their place.
        start: the streams before the first move: embedded tokens at full length. None in the start itself.
        full: the streams before the first `pool`; None when no `pool` has shortened the tokens.
        z_BCD: concept states; None before the first move that needs them.
        z_pos_BC: where each concept sits: its slot, or the place in the text that it owns.
        z_mask_BC: True for concepts that exist (a short text in a padded batch has fewer).
        kv_BNE: keys and values of the tokens for the next read, when one product made them for several reads.
        intervention: maps `(z_BCD, z_mask_BC)` to what tokens hear of the concepts instead; for causal questions.
        attentions: when not None, moves append `(move, weights_BHQK)` here.
    """

    x_BND: Tensor
    x_pos_BN: Tensor
    x_mask_BN: Tensor | None
    z_BCD: Tensor | None = None
    z_pos_BC: Tensor | None = None
    z_mask_BC: Tensor | None = None
    x_hidden_BN: Tensor | None = None
    start: "Streams | None" = None
    full: "Streams | None" = None
    kv_BNE: Tensor | None = None
    intervention: Intervention | None = None
    attentions: list[tuple[str, Tensor]] | None = None

    @property
    def visible_BN(self) -> Tensor | None:
        """The tokens that may be attended to; None for all."""
        if self.x_hidden_BN is None:
            return self.x_mask_BN
        return ~self.x_hidden_BN if self.x_mask_BN is None else self.x_mask_BN & ~self.x_hidden_BN

    @property
    def heard_BCD(self) -> Tensor | None:
        """The concepts as tokens hear them, wherever tokens read concepts: in the moves and in the decoder."""
        if self.intervention is None or self.z_BCD is None:
            return self.z_BCD
        return self.intervention(self.z_BCD, self.z_mask_BC)

    def replace(self, **changes: object) -> "Streams":
        """A copy with some fields exchanged."""
        return replace(self, **changes)
