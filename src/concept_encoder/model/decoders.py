"""How concepts answer tokens (`decoder`): what a token starts from, then the moves of `decoder_layer_types`.

A decoder is *strict* when everything it says of a token has passed through the concepts, *hybrid* when the token
stream goes around them. Results of the two are never compared without saying so. Shape suffixes: see `streams.py`.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from concept_encoder.model.attention import make_norm
from concept_encoder.model.moves import MOVES
from concept_encoder.model.registry import Registry
from concept_encoder.model.sources import SOURCES
from concept_encoder.model.streams import Streams

if TYPE_CHECKING:
    from concept_encoder.model.config import ConceptEncoderConfig

DECODERS = Registry("decoder")


class Decoder(nn.Module):
    """Token states from concepts: `queries`, then moves, then the final norm."""

    strict: ClassVar[bool]
    reads: ClassVar[frozenset[str]]  # the streams that the queries start from
    reads_full: ClassVar[bool] = False  # its tokens are those before the first move that shortens them
    default_layers: ClassVar[str] = "write"
    options: ClassVar[tuple[str, ...]] = ("decoder_layer_types",)
    needs_concepts = True
    needs_fixed_number = False  # of concepts: it has weights for each
    needs_owned_positions = False  # concepts that stand for places in the text
    needs_all_tokens = False  # a token stream that no move has shortened

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(MOVES[name](config) for name in config.decoder_layer_types)
        self.norm = make_norm(config)

    @property
    def pointwise(self) -> bool:
        """Whether a token's answer depends on no other token's: then only the asked ones are computed."""
        return all(layer.pointwise for layer in self.layers)

    def queries(self, s: Streams, index_BK: Tensor) -> Tensor:
        """What the tokens at these indices start from, `[B, K, D]`."""
        raise NotImplementedError

    def forward(self, s: Streams, index_BK: Tensor | None = None) -> Tensor:
        """Normed token states `[B, N, D]`, or `[B, K, D]` at the tokens `index_BK`."""
        assert s.start is not None, "decode what the encoder returned"
        batch, length = s.start.x_BND.shape[:2]
        asked = index_BK if index_BK is not None and self.pointwise else None
        if asked is None:
            asked_BK = torch.arange(length, device=s.start.x_BND.device)[None].expand(batch, -1)
            x_pos_BK, x_mask_BK = s.start.x_pos_BN, s.start.x_mask_BN
        else:
            asked_BK, x_mask_BK = asked, None
            x_pos_BK = s.start.x_pos_BN.expand(batch, -1).gather(1, asked)
        s = s.replace(x_BND=self.queries(s, asked_BK), x_pos_BN=x_pos_BK, x_mask_BN=x_mask_BK, x_hidden_BN=None)
        for layer in self.layers:
            s = layer(s)
        x_BKD = s.x_BND if asked is not None or index_BK is None else gather_tokens(s.x_BND, index_BK)
        return self.norm(x_BKD)


def gather_tokens(x_BND: Tensor, index_BK: Tensor) -> Tensor:
    """The states at the chosen indices, `[B, K, D]`."""
    return x_BND.gather(1, index_BK[..., None].expand(-1, -1, x_BND.shape[-1]))


@DECODERS.register("weighted")
class WeightedDecoder(Decoder):
    """Each position mixes the concepts with its own learned weights, the same for every text. Strict.

    Source: MrCogito.
    """

    strict = True
    reads = frozenset({"concepts"})
    default_layers = ""
    needs_fixed_number = True

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__(config)
        self.concept_norm = make_norm(config)
        self.logits = nn.Embedding(config.max_position_embeddings, config.num_concepts)

    def queries(self, s: Streams, index_BK: Tensor) -> Tensor:
        return self.logits(index_BK).softmax(-1) @ self.concept_norm(s.heard_BCD)


@DECODERS.register("query_position")
class QueryPositionDecoder(Decoder):
    """A token asks with its position alone: everything passes the bottleneck. Strict.

    Source: Perceiver IO (arXiv:2107.14795).
    """

    strict = True
    reads = frozenset()

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__(config)
        self.table = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.table_norm = make_norm(config)

    def queries(self, s: Streams, index_BK: Tensor) -> Tensor:
        return self.table_norm(self.table(index_BK))


@DECODERS.register("query_input")
class QueryInputDecoder(QueryPositionDecoder):
    """A token asks with its embedding and its position: a bag of words stays on the residual path. Hybrid.

    Source: MrCogito.
    """

    strict = False

    def queries(self, s: Streams, index_BK: Tensor) -> Tensor:
        return gather_tokens(s.start.x_BND, index_BK) + super().queries(s, index_BK)


@DECODERS.register("upsample")
class UpsampleDecoder(Decoder):
    """A token starts from the concept that owns its chunk plus its place in the chunk, then asks all concepts. Strict.

    Source: up-sampling of Funnel-Transformer, section 2.3 (arXiv:2006.03236), without its residual from the tokens.
    """

    strict = True
    reads = frozenset({"concepts"})
    needs_owned_positions = True

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__(config)
        self.concept_norm = make_norm(config)
        places = SOURCES[config.concept_source].num_places(config)
        self.place = nn.Embedding(places, config.hidden_size)
        self.place_norm = make_norm(config)

    def queries(self, s: Streams, index_BK: Tensor) -> Tensor:
        owner_BK, place_BK = SOURCES[self.config.concept_source].owner(self.config, index_BK)
        return gather_tokens(self.concept_norm(s.heard_BCD), owner_BK) + self.place_norm(self.place(place_BK))


@DECODERS.register("upsample_residual")
class UpsampleResidualDecoder(UpsampleDecoder):
    """Up-sampling, plus the last token states at full length on a residual path. Hybrid.

    Source: the decoder of Funnel-Transformer, section 2.3 (arXiv:2006.03236).
    """

    strict = False
    reads = frozenset({"tokens", "concepts"})
    reads_full = True
    default_layers = "mix*2"

    def queries(self, s: Streams, index_BK: Tensor) -> Tensor:
        return super().queries(s, index_BK) + gather_tokens((s.full or s).x_BND, index_BK)


@DECODERS.register("token_stream")
class TokenStreamDecoder(Decoder):
    """The token stream itself, as the moves left it. Hybrid. Source: BERT; BiXT's token side (arXiv:2402.12138)."""

    strict = False
    reads = frozenset({"tokens"})
    default_layers = ""
    needs_concepts = False
    needs_all_tokens = True

    def queries(self, s: Streams, index_BK: Tensor) -> Tensor:
        return gather_tokens(s.x_BND, index_BK)
