"""The concepts taken away, to see whether a score needs them: another text's, or none."""

from typing import Literal

import torch
from transformers import PreTrainedModel

from concept_encoder.errors import UserError
from concept_encoder.model.encoder import ConceptEncoderPreTrainedModel
from concept_encoder.model.interventions import shuffled, zeroed
from concept_encoder.model.streams import Intervention

Control = Literal["shuffled", "zeroed"]


def controls_of(model: PreTrainedModel, texts: int) -> tuple[Control, ...]:
    """Those that a model can be asked with: none without concepts, no exchange of a single text's."""
    if not isinstance(model, ConceptEncoderPreTrainedModel) or not model.config.has_concepts:
        return ()
    return ("shuffled", "zeroed") if texts > 1 else ("zeroed",)


def intervention(model: PreTrainedModel, control: Control | None, texts: int) -> Intervention | None:
    """What tokens hear in place of the concepts of `texts` different texts; None for the concepts themselves.

    Raises:
        UserError: a model without concepts, or a single text whose concepts are to be exchanged.
    """
    if control is None:
        return None
    if not controls_of(model, texts):
        raise UserError(f"concepts: {type(model).__name__} has none to be {control}")
    if control not in controls_of(model, texts):
        raise UserError("concepts: shuffling needs two texts at least, to take them from the other")
    count = model.config.concepts_at(model.config.max_position_embeddings)
    everyone_C = torch.ones(count, dtype=torch.bool, device=model.device)
    return {"shuffled": shuffled, "zeroed": zeroed}[control](everyone_C)
