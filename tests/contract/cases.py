"""Small configurations that together hold every registered variant. A new variant is picked up by its registry."""

from hypothesis import reject
from hypothesis import strategies as st

from concept_encoder.model import PRESETS, ConceptEncoderConfig, preset_config
from concept_encoder.model.decoders import DECODERS
from concept_encoder.model.moves import MOVES
from concept_encoder.model.pooling import CLASSIFIER_HEADS
from concept_encoder.model.positions import POSITIONS
from concept_encoder.model.sources import SOURCES

HEADS = sorted(CLASSIFIER_HEADS)
SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
    "local_window": 8,
    "mask_token_id": 4,
}


def small(**fields: object) -> ConceptEncoderConfig:
    return ConceptEncoderConfig(**{**SMALL, **fields})


def changed(config: ConceptEncoderConfig, **fields: object) -> ConceptEncoderConfig:
    """The same configuration with other values for some fields."""
    own = config.to_diff_dict()
    return ConceptEncoderConfig(
        **{name: own[name] for name in own if name not in ("model_type", "transformers_version", "dtype")} | fields
    )


def concepts(source: str) -> dict[str, object]:
    """The number of concepts as the source wants it."""
    if source == "none":
        return {}
    return {"learned": {"num_concepts": 6}, "anchored": {"concept_ratio": 4}}.get(source, {})


def needs_concepts(head: str) -> bool:
    return CLASSIFIER_HEADS[head].needs_concepts


def variant_cases() -> dict[str, ConceptEncoderConfig]:
    """One configuration a variant, named `family=member`, and one a preset."""
    cases = {}
    for name in PRESETS:
        fields = {} if PRESETS[name].options["concept_source"] != "learned" else {"num_concepts": 6}
        cases[f"preset={name}"] = preset_config(name, 6 if name == "funnel" else 4, **SMALL, **fields)
    for name in MOVES:
        cases[f"move={name}"] = small(**_with_move(name))
    for name in SOURCES:
        cases[f"source={name}"] = small(**_with_source(name))
    for name in DECODERS:
        source = "anchored" if DECODERS[name].needs_owned_positions else "learned"
        layout = "(read think)*2 write" if DECODERS[name].needs_all_tokens else "(read think)*2"
        cases[f"decoder={name}"] = small(layer_types=layout, concept_source=source, decoder=name, **concepts(source))
    for name in POSITIONS:
        whole = POSITIONS[name].sees_whole_text()
        local, pool = ("mix", "") if whole else ("mix_local", "pool")
        layouts = {
            "learned": "mix read think",
            "anchored": f"mix {local} read think",
            "pooled": f"mix {pool} mix think",
        }
        for source, layout in layouts.items():
            if source == "pooled" and whole:
                continue
            cases[f"position={name},{source}"] = small(
                layer_types=layout,
                concept_source=source,
                decoder="query_position",
                decoder_layer_types="write",
                token_position=name,
                concept_position=name,
                **concepts(source),
            )
    cases["option=token_dim"] = small(layer_types="read think", decoder="query_input", num_concepts=6, token_dim=8)
    cases["option=ratio"] = small(layer_types="read think", decoder="query_position", concept_ratio=4)
    cases["option=mask_free"] = small(
        layer_types="mix_local read think",
        concept_source="anchored",
        decoder="upsample",
        mask_free=True,
        decoder_layer_types="write mix_local",
    )
    cases["option=mask_free,pooled"] = small(
        layer_types="mix pool*2 think",
        concept_source="pooled",
        decoder="upsample_residual",
        mask_free=True,
        token_position="rope",
        concept_position="rope",
    )
    cases["option=mask_free,token_stream"] = small(
        layer_types="(mix_local read think write)*2", decoder="token_stream", num_concepts=6, mask_free=True
    )
    cases["option=deep_decoder"] = small(
        layer_types="read think", decoder="query_position", num_concepts=6, decoder_layer_types="write mix_local write"
    )
    return cases


def _with_move(name: str) -> dict[str, object]:
    moves = {
        "read": "read",
        "slot": "slot",
        "think": "read think",
        "write": "read write read",
        "exchange": "exchange read",
    }
    moves.update({move: f"{move} read" for move in ("mix", "mix_local", "pool")})
    return {"layer_types": moves.get(name, f"read {name} read"), "decoder": "query_position", "num_concepts": 6}


def _with_source(name: str) -> dict[str, object]:
    if name == "none":
        return {"layer_types": "mix*2", "concept_source": "none", "decoder": "token_stream"}
    if name == "pooled":
        return {"layer_types": "mix pool*2 think", "concept_source": "pooled", "decoder": "upsample"}
    return {"layer_types": "mix read think", "concept_source": name, "decoder": "query_input", **concepts(name)}


@st.composite
def valid_configs(draw: st.DrawFn) -> ConceptEncoderConfig:
    """Any combination of variants that the configuration accepts; a position that would act nowhere is left out."""
    source = draw(st.sampled_from(sorted(SOURCES)))
    names = sorted(name for name, move in MOVES.items() if source != "none" or "concepts" not in move.uses)
    layers = draw(st.lists(st.sampled_from(names), min_size=1, max_size=5))
    rounds = draw(st.sampled_from([1, 1, 2]))  # two rounds share their weights
    count = draw(st.sampled_from([{"concept_ratio": 3}, {"num_concepts": 5}, {}] if source != "none" else [{}]))
    fields = {
        "layer_types": layers * rounds,
        "layer_groups": list(range(len(layers))) * rounds,
        "num_attention_heads": draw(st.sampled_from([4, 1, 8])),
        "local_window": draw(st.sampled_from([8, 2, 64])),
        "concept_source": source,
        "decoder": draw(st.sampled_from(sorted(DECODERS))),
        "decoder_layer_types": draw(st.sampled_from([None, "write", "write mix_local", "mix", "read write"])),
        "token_position": draw(st.sampled_from(sorted(POSITIONS))),
        "concept_position": draw(st.sampled_from(sorted(POSITIONS))),
        "token_dim": draw(st.sampled_from([32, 8])),
        "classifier_head": draw(st.sampled_from([h for h in HEADS if source != "none" or not needs_concepts(h)])),
        "mask_free": draw(st.booleans()),
        **count,
    }
    for _ in range(3):
        try:
            return small(**fields)
        except ValueError as error:
            field, _, reason = str(error).partition(": ")
            if "acts nowhere" not in reason:
                reject()
            fields[field] = "none"
    raise AssertionError("both positions are 'none', and one still acts nowhere")
