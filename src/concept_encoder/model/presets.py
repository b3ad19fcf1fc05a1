"""Presets: names that people know, for combinations of the options of `ConceptEncoderConfig`.

`weighted_mlm`, `perceiver_mlm` and `perceiver_posonly_mlm` are models of MrCogito (github.com/ksopyla/MrCogito).
"""

import re
from dataclasses import dataclass, field
from typing import Any

from concept_encoder.model.config import ConceptEncoderConfig
from concept_encoder.model.layout import MAX_MOVES
from concept_encoder.model.registry import unknown


@dataclass(frozen=True)
class Preset:
    """A named architecture. `layout` holds `{L}`, `{L-2}`, `{L/2}`, … where the number of layers goes."""

    name: str
    about: str
    layout: str
    options: dict[str, Any] = field(default_factory=dict)

    def layer_types(self, num_layers: int) -> str:
        """The layout for that many layers. Raises `ValueError` when they do not divide."""
        if isinstance(num_layers, bool) or not isinstance(num_layers, int):
            raise ValueError(f"num_layers: expected a whole number, found {num_layers!r}")
        if num_layers < 1:
            raise ValueError(f"num_layers: {num_layers} is not positive")
        if num_layers > MAX_MOVES:
            raise ValueError(f"num_layers: {num_layers:,} is too many; use at most {MAX_MOVES:,}")

        def fill(match: re.Match) -> str:
            sign, operand = match["sign"], int(match["operand"] or 0)
            if sign == "/" and num_layers % operand:
                raise ValueError(f"num_layers: preset {self.name!r} counts layers in pairs; use {num_layers + 1}")
            if sign == "-" and num_layers <= operand:
                raise ValueError(f"num_layers: preset {self.name!r} needs at least {operand + 1} layers")
            return str(num_layers // operand if sign == "/" else num_layers - operand)

        return re.sub(r"\{L(?P<sign>[-/])?(?P<operand>\d)?\}", fill, self.layout)


_ROPE = {"token_position": "rope", "concept_position": "rope"}

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "weighted_mlm",
            "MrCogito's first model: fixed mixing weights a position",
            "(read think)*{L}",
            {"concept_source": "learned", "decoder": "weighted"},
        ),
        Preset(
            "perceiver_mlm",
            "MrCogito's baseline: tokens ask with embedding and position",
            "(read think)*{L}",
            {"concept_source": "learned", "decoder": "query_input"},
        ),
        Preset(
            "perceiver_posonly_mlm",
            "the same, asking with the position alone",
            "(read think)*{L}",
            {"concept_source": "learned", "decoder": "query_position"},
        ),
        Preset(
            "perceiver_io",
            "Perceiver IO: one read, then thinking",
            "read think*{L}",
            {"concept_source": "learned", "decoder": "query_position"},
        ),
        Preset(
            "recursive",
            "one layer, L times, with the same weights",
            "(read think)^{L}",
            {"concept_source": "learned", "decoder": "query_position"},
        ),
        Preset(
            "bixt",
            "BiXT: concepts and tokens attend to each other; hybrid",
            "(exchange think)*{L}",
            {"concept_source": "learned", "decoder": "token_stream", "decoder_layer_types": "write"},
        ),
        Preset(
            "funnel",
            "Funnel-Transformer, then concepts: N -> N/2 -> N/4; hybrid",
            "mix*2 pool mix pool mix think*{L-4}",
            {"concept_source": "pooled", "decoder": "upsample_residual", **_ROPE},
        ),
        Preset(
            "anchored",
            "contextual tokens, concepts that own positions; strict",
            "mix_local*2 (read think)*{L-2}",
            {"concept_source": "anchored", "decoder": "upsample", **_ROPE},
        ),
        Preset(
            "woven",
            "tokens and concepts take turns; hybrid",
            "(mix_local read think write)*{L/2}",
            {"concept_source": "anchored", "decoder": "token_stream", **_ROPE},
        ),
        Preset(
            "bert",
            "the matched twin: the same code without concepts",
            "mix*{L}",
            {"concept_source": "none", "decoder": "token_stream"},
        ),
    )
}


def preset_config(preset: str, num_layers: int | None = None, **fields: Any) -> ConceptEncoderConfig:
    """The configuration of a preset; `fields` add to its options or replace them.

    Args:
        num_layers: how many layers the preset's layout has, 6 when None; not together with a layout of your own.

    Raises:
        ValueError: an unknown preset or field, or fields that do not fit together.
    """
    if num_layers is not None and "layer_types" in fields:
        raise ValueError("num_layers: counts the layers of the preset's layout, which layer_types replaces; drop one")
    if preset not in PRESETS:
        raise ValueError(f"preset: {unknown('preset', preset, PRESETS)}")
    chosen = PRESETS[preset]
    options = {"layer_types": chosen.layer_types(6 if num_layers is None else num_layers), **chosen.options, **fields}
    return ConceptEncoderConfig(**options)


def twin_config(config: ConceptEncoderConfig, num_layers: int) -> ConceptEncoderConfig:
    """The `bert` twin of a concept encoder: the same sizes, vocabulary and token position, no concepts."""
    fields = config.to_diff_dict()
    for name in (
        "model_type",
        "architectures",
        "transformers_version",
        "layer_types",
        "layer_groups",
        "num_concepts",
        "concept_ratio",
        "concept_position",
        "decoder_layer_types",
        "classifier_head",
        "dtype",
    ):
        fields.pop(name, None)
    return preset_config("bert", num_layers, **{**fields, **PRESETS["bert"].options})
