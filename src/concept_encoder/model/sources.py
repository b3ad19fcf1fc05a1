"""Where concepts come from (`concept_source`). Called once, before the first move that needs concepts.

Shape suffixes: see `streams.py`.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concept_encoder.model.moves import MOVES
from concept_encoder.model.positions import states_position
from concept_encoder.model.registry import Registry
from concept_encoder.model.streams import Streams

if TYPE_CHECKING:
    from concept_encoder.model.config import ConceptEncoderConfig

SOURCES = Registry("concept source")


class Source(nn.Module):
    """Begins the concept stream."""

    has_concepts = True
    options: ClassVar[tuple[str, ...]] = ()  # which of `num_concepts` and `concept_ratio` this source reads
    without_options: ClassVar[str] = ""  # what is wrong with giving it the other
    defaults: ClassVar[dict[str, int]] = {}  # when neither is given
    owns_positions = False  # each concept stands for a place in the text, and begins with what the tokens there hold
    takes_shortened = False  # the concepts are the tokens that a shortening move has left

    @classmethod
    def num_concepts(cls, config: "ConceptEncoderConfig", length: int) -> int:
        """C for a text of `length` tokens."""
        return config.num_concepts or -(-length // config.concept_ratio)

    @classmethod
    def owner(cls, config: "ConceptEncoderConfig", index_BK: Tensor) -> tuple[Tensor, Tensor]:
        """For tokens at these indices: the concept that owns each, and the token's place in that concept's chunk."""
        raise NotImplementedError(f"concept_source {cls.name!r} owns no positions")

    @classmethod
    def num_places(cls, config: "ConceptEncoderConfig") -> int:
        """The places that `owner` tells apart."""
        return config.concept_ratio

    def forward(self, s: Streams) -> Streams:
        raise NotImplementedError


@SOURCES.register("none")
class NoSource(Source):
    """No concepts: the stream of tokens is all there is (the `bert` twin)."""

    has_concepts = False
    without_options = "given, but concept_source is 'none'; drop it or choose a source"

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()

    @classmethod
    def num_concepts(cls, config: "ConceptEncoderConfig", length: int) -> int:
        return 0


@SOURCES.register("learned")
class LearnedSource(Source):
    """C free vectors, the same for every text. Source: Perceiver latents (arXiv:2103.03206); MrCogito.

    With `concept_ratio` in place of `num_concepts` a text of N tokens uses the first ceil(N / ratio) of them.
    """

    options = ("num_concepts", "concept_ratio")
    defaults: ClassVar[dict[str, int]] = {"num_concepts": 128}

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.ratio = config.concept_ratio
        count = self.num_concepts(config, config.max_position_embeddings)
        self.vectors = nn.Embedding(count, config.hidden_size)
        self.position = states_position(config.concept_position, config)

    def forward(self, s: Streams) -> Streams:
        z_CD, mask_BC, text = self.vectors.weight, None, s.start
        if self.ratio is not None:
            z_CD = z_CD[: -(-text.x_BND.shape[1] // self.ratio)]
            mask_BC = None if text.x_mask_BN is None else _chunks(text.x_mask_BN, self.ratio).any(-1)
        z_pos_BC = torch.arange(len(z_CD), device=z_CD.device)[None]
        added = self.position.states(z_pos_BC)
        z_BCD = (z_CD if added is None else z_CD + added).expand(s.x_BND.shape[0], -1, -1)
        return s.replace(z_BCD=z_BCD, z_pos_BC=z_pos_BC, z_mask_BC=mask_BC)


@SOURCES.register("anchored")
class AnchoredSource(Source):
    """C = ceil(N / ratio): each starts from the mean of its own chunk of tokens and owns the position of that chunk.

    A learned vector is added to tell concepts from tokens. Source: chunk means as in Funnel-Transformer pooling
    (arXiv:2006.03236); owned positions as Perceiver AR gives its latents (arXiv:2202.07765).
    """

    owns_positions = True
    options = ("concept_ratio",)
    without_options = "'anchored' concepts follow the length; give concept_ratio instead"
    defaults: ClassVar[dict[str, int]] = {"concept_ratio": 4}

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.ratio = config.concept_ratio
        self.vector = nn.Embedding(1, config.hidden_size)
        self.position = states_position(config.concept_position, config)

    @classmethod
    def owner(cls, config: "ConceptEncoderConfig", index_BK: Tensor) -> tuple[Tensor, Tensor]:
        return index_BK // config.concept_ratio, index_BK % config.concept_ratio

    def forward(self, s: Streams) -> Streams:
        # A chunk of [MASK] alone is still a place in the text (mask_free hides its tokens, not its concept).
        exists_BC = None if s.x_mask_BN is None else _chunks(s.x_mask_BN, self.ratio).any(-1)
        z_pos_BC = (_chunks(s.x_pos_BN.float(), self.ratio) * self._shares(s.x_mask_BN, s)).sum(-1)
        x_BDCr = _chunks(s.x_BND.mT, self.ratio)
        z_BCD = (x_BDCr * self._shares(s.visible_BN, s)[:, None].to(x_BDCr.dtype)).sum(-1).mT
        added = self.position.states(z_pos_BC)
        z_BCD = z_BCD + self.vector.weight + (0 if added is None else added)
        return s.replace(z_BCD=z_BCD, z_pos_BC=z_pos_BC, z_mask_BC=exists_BC)

    def _shares(self, mask_BN: Tensor | None, s: Streams) -> Tensor:
        """The weight of each token in the mean of its chunk, `[B or 1, C, ratio]`; only those of the mask have one."""
        mask_BN = torch.ones_like(s.x_BND[:1, :, 0]) if mask_BN is None else mask_BN.float()
        real_BCr = _chunks(mask_BN, self.ratio)
        return real_BCr / real_BCr.sum(-1, keepdim=True).clamp(min=1)


@SOURCES.register("pooled")
class PooledSource(Source):
    """The tokens that `pool` has left become the concepts and own their places.

    Source: Funnel-Transformer (arXiv:2006.03236).
    """

    owns_positions = True
    takes_shortened = True
    without_options = "the number of 'pooled' concepts follows from the 'pool' moves; drop it"

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.position = states_position(config.concept_position, config)

    @classmethod
    def num_concepts(cls, config: "ConceptEncoderConfig", length: int) -> int:
        for _ in range(_halvings(config)):
            length = 1 + length // 2
        return length

    @classmethod
    def owner(cls, config: "ConceptEncoderConfig", index_BK: Tensor) -> tuple[Tensor, Tensor]:
        chunk = 2 ** _halvings(config)
        before_BK = (index_BK - 1).clamp(min=0)  # the first token is a chunk of its own
        first_BK = index_BK == 0
        return (1 + before_BK // chunk).masked_fill(first_BK, 0), (1 + before_BK % chunk).masked_fill(first_BK, 0)

    @classmethod
    def num_places(cls, config: "ConceptEncoderConfig") -> int:
        return 1 + 2 ** _halvings(config)

    def forward(self, s: Streams) -> Streams:
        added = self.position.states(s.x_pos_BN)
        z_BCD = s.x_BND if added is None else s.x_BND + added
        return s.replace(z_BCD=z_BCD, z_pos_BC=s.x_pos_BN, z_mask_BC=s.x_mask_BN)


def _halvings(config: "ConceptEncoderConfig") -> int:
    return sum(MOVES[name].shortens for name in config.layer_types)


def _chunks(states_N: Tensor, size: int) -> Tensor:
    """Cut the last dimension into chunks of `size`, the last one filled up with zeros: `[..., C, size]`."""
    return F.pad(states_N, (0, -states_N.shape[-1] % size)).unflatten(-1, (-1, size))
