"""What a concept encoder is: plain torch modules on the transformers conventions."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from concept_encoder.model.config import ConceptEncoderConfig
from concept_encoder.model.encoder import ConceptEncoderModel, ConceptEncoderOutput
from concept_encoder.model.heads import (
    ConceptEncoderForMaskedLM,
    ConceptEncoderForSequenceClassification,
    ConceptEncoderForTokenClassification,
)
from concept_encoder.model.presets import PRESETS, preset_config, twin_config

AutoConfig.register("concept_encoder", ConceptEncoderConfig)
AutoModel.register(ConceptEncoderConfig, ConceptEncoderModel)
AutoModelForMaskedLM.register(ConceptEncoderConfig, ConceptEncoderForMaskedLM)
AutoModelForSequenceClassification.register(ConceptEncoderConfig, ConceptEncoderForSequenceClassification)
AutoModelForTokenClassification.register(ConceptEncoderConfig, ConceptEncoderForTokenClassification)

__all__ = [
    "PRESETS",
    "ConceptEncoderConfig",
    "ConceptEncoderForMaskedLM",
    "ConceptEncoderForSequenceClassification",
    "ConceptEncoderForTokenClassification",
    "ConceptEncoderModel",
    "ConceptEncoderOutput",
    "preset_config",
    "twin_config",
]
