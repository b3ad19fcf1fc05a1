"""The concepts taken away, to see whether a score needs them: another text's, or none."""

from typing import Literal

from transformers import PreTrainedModel

from concept_encoder.errors import UserError
from concept_encoder.model.interventions import controls_of
from concept_encoder.model.streams import Intervention

Control = Literal["shuffled", "zeroed"]


def intervention(model: PreTrainedModel, control: Control | None, texts: int) -> Intervention | None:
    """What tokens hear in place of the concepts of `texts` different texts; None for the concepts themselves.

    Raises:
        UserError: a model without concepts, or a single text whose concepts are to be exchanged.
    """
    if control is None:
        return None
    known = controls_of(model, texts)
    if not known:
        raise UserError(f"concepts: {type(model).__name__} has none to be {control}")
    if control not in known:
        raise UserError("concepts: shuffling needs two texts at least, to take them from the other")
    return known[control]
