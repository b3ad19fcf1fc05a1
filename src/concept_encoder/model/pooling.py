"""How a text becomes one vector for a classifier (`classifier_head`). Shape suffixes: see `streams.py`."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from concept_encoder.model.attention import Attention, make_norm
from concept_encoder.model.encoder import ConceptEncoderModel, normed_concepts
from concept_encoder.model.positions import NoPosition
from concept_encoder.model.registry import Registry
from concept_encoder.model.streams import Streams

if TYPE_CHECKING:
    from concept_encoder.model.config import ConceptEncoderConfig

CLASSIFIER_HEADS = Registry("classifier head")


class ClassifierHead(nn.Module):
    """Pools what the texts became into vectors `[B, size]`."""

    needs_concepts = False
    separate_texts = False  # a pair comes as two texts, not as one

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__()
        self.size = config.hidden_size

    def texts(self, *inputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """The inputs as the encoder takes them, `[B, N]` each."""
        return inputs

    def forward(self, model: ConceptEncoderModel, s: Streams) -> Tensor:
        raise NotImplementedError


def masked_mean(states_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
    """Mean over the real items, `[B, D]`."""
    if mask_BN is None:
        return states_BND.mean(1)
    weight_BN1 = mask_BN[..., None].to(states_BND.dtype)
    return (states_BND * weight_BN1).sum(1) / weight_BN1.sum(1).clamp(min=1)


@CLASSIFIER_HEADS.register("via_decoder")
class ViaDecoderHead(ClassifierHead):
    """Mean of the decoded tokens: every pretrained weight is used, encoder *and* decoder.

    Source: MrCogito, plan 3.1.
    """

    def forward(self, model: ConceptEncoderModel, s: Streams) -> Tensor:
        return masked_mean(model.decode(s), s.start.x_mask_BN)


@CLASSIFIER_HEADS.register("concept_pool")
class ConceptPoolHead(ClassifierHead):
    """Mean of the concepts; the decoder is left aside. Source: Perceiver (arXiv:2103.03206) averages its latents."""

    needs_concepts = True

    def forward(self, model: ConceptEncoderModel, s: Streams) -> Tensor:
        return masked_mean(normed_concepts(s), s.z_mask_BC)


@CLASSIFIER_HEADS.register("concept_pool_weighted")
class WeightedConceptPoolHead(ClassifierHead):
    """Mean of the concepts with weights learned from their content. Source: attention pooling (arXiv:1703.03130)."""

    needs_concepts = True

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__(config)
        self.score = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, model: ConceptEncoderModel, s: Streams) -> Tensor:
        z_BCD = normed_concepts(s)
        score_BC = self.score(z_BCD)[..., 0]
        if s.z_mask_BC is not None:
            score_BC = score_BC.masked_fill(~s.z_mask_BC, torch.finfo(score_BC.dtype).min)
        return (score_BC.softmax(-1)[..., None] * z_BCD).sum(1)


@CLASSIFIER_HEADS.register("cls_query")
class ClsQueryHead(ClassifierHead):
    """One learned query attends to the concepts; the decoder is left aside.

    Source: Perceiver IO (arXiv:2107.14795); MrCogito's first head.
    """

    needs_concepts = True

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__(config)
        self.query = nn.Embedding(1, config.hidden_size)
        self.query_norm = make_norm(config)
        self.concept_norm = make_norm(config)
        self.attention = Attention(config, NoPosition(config))
        self.norm = make_norm(config)

    def forward(self, model: ConceptEncoderModel, s: Streams) -> Tensor:
        query_B1D = self.query.weight.expand(s.z_BCD.shape[0], 1, -1)
        place = torch.zeros(1, 1, device=s.z_BCD.device)
        kv_BCE = self.attention.key_value(self.concept_norm(s.heard_BCD))
        update_B1D, _ = self.attention(self.query_norm(query_B1D), kv_BCE, s.z_mask_BC, place, s.z_pos_BC)
        return self.norm(query_B1D + update_B1D)[:, 0]


@CLASSIFIER_HEADS.register("pair")
class PairHead(ViaDecoderHead):
    """Two texts encoded apart: [u, v, |u-v|, u*v], each the mean of its decoded tokens.

    Source: InferSent (arXiv:1705.02364).
    """

    separate_texts = True

    def __init__(self, config: "ConceptEncoderConfig"):
        super().__init__(config)
        self.size = 4 * config.hidden_size

    def texts(self, *inputs: Tensor | None) -> tuple[Tensor | None, ...]:
        if inputs[0].ndim != 3:
            raise ValueError("classifier_head: 'pair' takes two texts apart, input_ids of shape [B, 2, N]")
        return tuple(None if values is None else values.flatten(0, 1) for values in inputs)

    def forward(self, model: ConceptEncoderModel, s: Streams) -> Tensor:
        u_BD, v_BD = super().forward(model, s).unflatten(0, (-1, 2)).unbind(1)
        return torch.cat([u_BD, v_BD, (u_BD - v_BD).abs(), u_BD * v_BD], dim=-1)
