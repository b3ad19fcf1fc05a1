"""What tokens hear in place of the concepts, to ask whether an answer needs them (`concept_intervention`).

Each function makes an intervention `(z_BCD, mask_BC) -> z_BCD` on the concepts where `which_C` is True.
Shape suffixes: see `streams.py`.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from concept_encoder.model.config import ConceptEncoderConfig
from concept_encoder.model.streams import Intervention


def controls_of(model: PreTrainedModel, texts: int, apart: int = 1) -> dict[str, Intervention]:
    """What a score with all concepts is set beside: "shuffled" between texts, and "zeroed".

    None of a model without concepts; no shuffling of a single text.

    Args:
        texts: how many there are to exchange concepts between; of pairs, how many pairs.
        apart: rows of a batch that are one of them (2 for pairs of texts).
    """
    config = model.config
    if not (isinstance(config, ConceptEncoderConfig) and config.has_concepts):
        return {}
    count = config.concepts_at(config.max_position_embeddings)
    everyone_C = torch.ones(count, dtype=torch.bool, device=model.device)
    exchange = {"shuffled": shuffled(everyone_C, apart)} if texts > 1 else {}
    return exchange | {"zeroed": zeroed(everyone_C)}


def zeroed(which_C: Tensor) -> Intervention:
    """Concepts set to the zero vector."""
    return lambda z_BCD, mask_BC: z_BCD.masked_fill(_fit(which_C, z_BCD), 0.0)


def averaged(which_C: Tensor) -> Intervention:
    """Concepts replaced by their mean over the texts of the batch that have them, at the depth where they are heard."""

    def blend(z_BCD: Tensor, mask_BC: Tensor | None) -> Tensor:
        real_BC1 = torch.ones_like(z_BCD[..., :1]) if mask_BC is None else mask_BC[..., None].to(z_BCD.dtype)
        mean_CD = (z_BCD * real_BC1).sum(0) / real_BC1.sum(0).clamp_min(1)
        return torch.where(_fit(which_C, z_BCD), mean_CD, z_BCD)

    return blend


def shuffled(which_C: Tensor, apart: int = 1) -> Intervention:
    """Concepts taken from another text of the batch: of the texts that have one, the `apart`-th before (2 for pairs).

    Where fewer than `2 * apart` texts have a concept, it is zeroed: it would come from the text itself, or from the
    other text of its pair.
    """

    def swap(z_BCD: Tensor, mask_BC: Tensor | None) -> Tensor:
        swapped_BCD = z_BCD.clone()
        for concept in torch.nonzero(which_C[: z_BCD.shape[1]]).flatten().tolist():
            rows = torch.arange(len(z_BCD)) if mask_BC is None else torch.nonzero(mask_BC[:, concept]).flatten()
            taken = z_BCD[rows.roll(apart), concept]
            swapped_BCD[rows, concept] = taken if len(rows) >= 2 * apart else torch.zeros_like(taken)
        return swapped_BCD

    return swap


def _fit(which_C: Tensor, z_BCD: Tensor) -> Tensor:
    return which_C[: z_BCD.shape[1], None]
