"""Position encodings, for tokens and for concepts alike (`token_position`, `concept_position`).

A member may act in two places: on the *states*, once, where a stream begins; and in every *attention*, where it may
rotate queries and keys or change the logits. Nothing here is a buffer: tables are computed from the positions.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from concept_encoder.model.registry import Registry

if TYPE_CHECKING:
    from concept_encoder.model.config import ConceptEncoderConfig

POSITIONS = Registry("position encoding")


class Position(nn.Module):
    """What a position encoding may do; every hook defaults to nothing."""

    acts_on_states = False
    acts_in_attention = False
    has_table = False  # tells `max_position_embeddings` places apart and no more
    needs_owned_positions = False  # in cross-attention: both sides must sit somewhere in the same text
    options: tuple[str, ...] = ()  # fields of the configuration that only this member reads
    bias_by_pair = False  # `bias` looks at one query and one key at a time: it may be asked for a part of the text

    def __init__(self, config: "ConceptEncoderConfig", crossed: bool = False):
        """`crossed`: the attention is from one stream to the other, so that queries are not among the keys."""
        super().__init__()

    @classmethod
    def check(cls, field: str, config: "ConceptEncoderConfig") -> None:
        """Raises `ValueError` for sizes of the model that this member cannot work with."""

    @classmethod
    def adds_bias(cls) -> bool:
        """Whether this member changes the logits."""
        return cls.bias is not Position.bias

    @classmethod
    def sees_whole_text(cls) -> bool:
        """Whether it cannot act where queries are not among the keys one by one: in `mix_local` and `pool`."""
        return cls.adds_bias() and not cls.bias_by_pair

    def states(self, pos_BN: Tensor) -> Tensor | None:
        """What to add to the states at these positions, `[B, N, D]`."""
        return None

    def rotate(self, states_BHNd: Tensor, pos_BN: Tensor) -> Tensor:
        """Queries or keys, turned by their positions."""
        return states_BHNd

    def bias(
        self, q_BHQd: Tensor, k_BHKd: Tensor, mask_BK: Tensor | None, q_pos_BQ: Tensor, k_pos_BK: Tensor
    ) -> Tensor | None:
        """What to add to the attention logits, `[B, H, Q, K]`, in the dtype of `q`, which is scaled by d^-1/2 already.

        Positions, and the bias with them, may be the same for all texts: `[1, Q]`, `[1, K]`, `[1, H, Q, K]`.
        """
        return None


@POSITIONS.register("none")
class NoPosition(Position):
    """No position information. Source: MrCogito's concepts; Set Transformer (arXiv:1810.00825)."""


@POSITIONS.register("learned")
class LearnedPosition(Position):
    """One learned vector a position, added to the states. Source: BERT (arXiv:1810.04805)."""

    acts_on_states = True
    has_table = True
    options = ("max_position_embeddings",)

    def __init__(self, config: "ConceptEncoderConfig", crossed: bool = False):
        super().__init__(config, crossed)
        self.table = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def states(self, pos_BN: Tensor) -> Tensor:
        return self.table(pos_BN.long())


class LearnedScale(nn.Module):
    """States times one learned number, which starts at `initializer_range`."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1))

    def forward(self, states: Tensor) -> Tensor:
        return self.weight * states.to(self.weight.dtype)


@POSITIONS.register("sinusoidal")
class SinusoidalPosition(Position):
    """Fixed sines and cosines, scaled by one learned number. Source: Transformer, section 3.5 (arXiv:1706.03762).

    The learned scale starts at the size of the other embeddings (arXiv:2212.14034 scales them likewise), so that a
    table of ones and zeros does not drown the words at the start.
    """

    acts_on_states = True

    def __init__(self, config: "ConceptEncoderConfig", crossed: bool = False):
        super().__init__(config, crossed)
        self.size = config.hidden_size
        self.scale = LearnedScale()

    @classmethod
    def check(cls, field: str, config: "ConceptEncoderConfig") -> None:
        if config.hidden_size % 2:
            raise ValueError(
                f"hidden_size: {config.hidden_size} is odd, but sinusoidal positions come in pairs; use an even one"
            )

    def states(self, pos_BN: Tensor) -> Tensor:
        angle = _angles(pos_BN, self.size, 10_000.0)
        return self.scale(torch.cat([angle.sin(), angle.cos()], dim=-1))


@POSITIONS.register("rope")
class RotaryPosition(Position):
    """Queries and keys turned in proportion to their positions: logits see the distance.

    Between tokens, and between concepts, the field of that stream decides. Between the two (`read`, `write`, …) it
    acts only where both fields are `rope` and concepts own positions (`anchored`, `pooled`): queries and keys must be
    turned alike, and turning a free-floating slot by its number would mean nothing to a token. A field that is
    `rope` and acts nowhere is refused. Source: RoPE (arXiv:2104.09864).
    """

    acts_in_attention = True
    needs_owned_positions = True
    options = ("rope_theta",)

    def __init__(self, config: "ConceptEncoderConfig", crossed: bool = False):
        super().__init__(config, crossed)
        self.theta = config.rope_theta

    @classmethod
    def check(cls, field: str, config: "ConceptEncoderConfig") -> None:
        size = config.hidden_size // config.num_attention_heads
        if size % 2:
            raise ValueError(
                f"{field}: rope turns pairs, but a head has the odd size {size}; change num_attention_heads"
            )

    def rotate(self, states_BHNd: Tensor, pos_BN: Tensor) -> Tensor:
        angle = _angles(pos_BN, states_BHNd.shape[-1], self.theta)[:, None]
        cos, sin = angle.cos().to(states_BHNd.dtype), angle.sin().to(states_BHNd.dtype)
        first, second = states_BHNd.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


@POSITIONS.register("cope")
class ContextualPosition(Position):
    """Positions counted by content: a gate says which keys count, and logits see the count.

    The gate of query i and key j is sigmoid(q_i·k_j / √d). The paper is causal, with p_ij the sum of the gates of i
    over the keys from j to i; the logit gains q_i·e[p_ij] / √d, with e interpolated between whole positions.

    Not causal, the paper gives no form. Ours, in self-attention: the keys *after* i are counted likewise, from i to
    j, with a table of their own (as T5, arXiv:1910.10683, keeps separate buckets for both sides), so that the half
    before i is the paper's. In `read` the query does not sit among the keys: p_ij counts from the first token to j.
    Costs O(Q·K) memory.
    Source: CoPE (arXiv:2405.18719).
    """

    acts_in_attention = True
    options = ("cope_positions",)

    def __init__(self, config: "ConceptEncoderConfig", crossed: bool = False):
        super().__init__(config, crossed)
        self.crossed, self.limit = crossed, config.cope_positions
        tables = 1 if crossed else 2
        self.table = nn.Embedding(tables * self.limit, config.hidden_size // config.num_attention_heads)

    def bias(
        self, q_BHQd: Tensor, k_BHKd: Tensor, mask_BK: Tensor | None, q_pos_BQ: Tensor, k_pos_BK: Tensor
    ) -> Tensor:
        gate_BHQK = (q_BHQd @ k_BHKd.mT).float().sigmoid()  # bf16 cannot count: from 256 on it knows even numbers only
        if mask_BK is not None:
            gate_BHQK = gate_BHQK * mask_BK[:, None, None]
        logits_BHQP = (q_BHQd @ self.table.weight.T).float()
        until_BHQK = gate_BHQK.cumsum(-1)
        if self.crossed:
            return self._look_up(logits_BHQP, until_BHQK).to(q_BHQd.dtype)
        at_query_BHQ1 = until_BHQK.diagonal(dim1=-2, dim2=-1)[..., None]
        own_BHQ1 = gate_BHQK.diagonal(dim1=-2, dim2=-1)[..., None]
        before = self._look_up(logits_BHQP[..., : self.limit], at_query_BHQ1 - until_BHQK + gate_BHQK)
        after = self._look_up(logits_BHQP[..., self.limit :], until_BHQK - at_query_BHQ1 + own_BHQ1)
        return torch.where(torch.ones_like(before[0, 0], dtype=torch.bool).tril(), before, after).to(q_BHQd.dtype)

    def _look_up(self, logits_BHQP: Tensor, count_BHQK: Tensor) -> Tensor:
        """The position logits at fractional counts, interpolated."""
        count_BHQK = count_BHQK.clamp(0, self.limit - 1)
        floor = count_BHQK.detach().floor()
        share = count_BHQK - floor
        low, high = floor.long(), (floor + 1).clamp(max=self.limit - 1).long()
        return logits_BHQP.gather(-1, low) * (1 - share) + logits_BHQP.gather(-1, high) * share


def _angles(pos_BN: Tensor, size: int, theta: float) -> Tensor:
    """`pos / theta^(2i/size)` in fp32, `[B, N, size / 2]`."""
    exponent = torch.arange(0, size, 2, device=pos_BN.device, dtype=torch.float32) / size
    return pos_BN.float()[..., None] * theta**-exponent


def states_position(name: str, config: "ConceptEncoderConfig") -> Position:
    """The part of a member that is added to a stream where it begins (nothing, for members that act in attention)."""
    member = POSITIONS[name]
    return member(config) if member.acts_on_states else NoPosition(config)


def attention_fields(config: "ConceptEncoderConfig", query: str, key: str) -> tuple[str, ...]:
    """Which of the two fields act in an attention from `query` to `key`, each "tokens" or "concepts"."""
    both = ("token_position", "concept_position")
    token, concept = (POSITIONS[getattr(config, field)] for field in both)
    if query == key:
        fields = both[:1] if query == "tokens" else both[1:]
    elif concept.needs_owned_positions:
        fields = both if concept is token and config.concepts_own_positions else ()
    else:
        fields = both[1:] if query == "concepts" else ()
    return tuple(field for field in fields if POSITIONS[getattr(config, field)].acts_in_attention)


def attention_position(config: "ConceptEncoderConfig", query: str, key: str) -> Position:
    """The part of a member that acts in an attention from `query` to `key`."""
    fields = attention_fields(config, query, key)
    member = POSITIONS[getattr(config, fields[0])] if fields else NoPosition
    return member(config, crossed=query != key)
