"""Which moves, source, decoder and positions make sense together: the reasons for which a configuration is refused."""

from typing import TYPE_CHECKING

from concept_encoder.model.decoders import DECODERS
from concept_encoder.model.moves import MOVES
from concept_encoder.model.positions import POSITIONS
from concept_encoder.model.sources import SOURCES

if TYPE_CHECKING:
    from concept_encoder.model.config import ConceptEncoderConfig


def check_layout(config: "ConceptEncoderConfig") -> None:
    """Refuse combinations of moves, source and decoder that make no sense, with the reason."""
    layers = [MOVES.member(f"layer_types[{i}]", name) for i, name in enumerate(config.layer_types)]
    answers = [MOVES.member(f"decoder_layer_types[{i}]", n) for i, n in enumerate(config.decoder_layer_types)]
    if not layers:
        raise ValueError("layer_types: empty; give at least one move")
    if len(config.layer_groups) != len(layers):
        raise ValueError(f"layer_groups: {len(config.layer_groups)} numbers for {len(layers)} moves; give one a move")
    shared: dict[int, str] = {}
    for name, group in zip(config.layer_types, config.layer_groups):
        if shared.setdefault(group, name) != name:
            raise ValueError(
                f"layer_groups: group {group} holds {shared[group]!r} and {name!r}; only equal moves share weights"
            )
    _check_decoder(config)
    _check_concepts(config, layers + answers)
    _check_nothing_is_wasted(config, layers, answers)


def _check_concepts(config: "ConceptEncoderConfig", layers: list[type]) -> None:
    source = SOURCES[config.concept_source]
    using = next((layer.name for layer in layers if "concepts" in layer.uses), None)
    if not source.has_concepts:
        if using:
            raise ValueError(
                f"concept_source: 'none', but the move {using!r} needs concepts; use 'learned' or 'anchored'"
            )
        for name in ("num_concepts", "concept_ratio"):
            if getattr(config, name) is not None:
                raise ValueError(f"{name}: given, but concept_source is 'none'; drop it or choose a source")
        return
    if config.num_concepts is not None and config.concept_ratio is not None:
        raise ValueError("num_concepts: given together with concept_ratio; give one of them")
    for name in ("num_concepts", "concept_ratio"):
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise ValueError(f"{name}: {getattr(config, name)} is not positive")
    if config.concept_source == "anchored" and config.num_concepts is not None:
        raise ValueError("num_concepts: 'anchored' concepts follow the length; give concept_ratio instead")
    _check_pooling(config)
    longest = config.concepts_at(config.max_position_embeddings)
    if config.concept_position == "learned" and longest > config.max_position_embeddings:
        raise ValueError(f"num_concepts: {longest} exceeds the position table; raise max_position_embeddings")


def _check_pooling(config: "ConceptEncoderConfig") -> None:
    pools = "pool" in config.layer_types
    if config.concept_source == "pooled":
        if not pools:
            raise ValueError("concept_source: 'pooled' needs a 'pool' in layer_types; add one or use 'anchored'")
        for name in ("num_concepts", "concept_ratio"):
            if getattr(config, name) is not None:
                raise ValueError(f"{name}: the number of 'pooled' concepts follows from the 'pool' moves; drop it")
        first = next((i for i, name in enumerate(config.layer_types) if "concepts" in MOVES[name].uses), None)
        if first is not None and "pool" in config.layer_types[first:]:
            raise ValueError(
                f"layer_types: the 'pooled' concepts begin at {config.layer_types[first]!r}; put every 'pool' before it"
            )
    elif pools and config.concept_source == "anchored":
        raise ValueError("concept_source: 'anchored' owns chunks of the unpooled text; with 'pool' use 'pooled'")
    if "pool" in config.decoder_layer_types:
        raise ValueError("decoder_layer_types: 'pool' would shorten the answer; it belongs to layer_types")


def _check_decoder(config: "ConceptEncoderConfig") -> None:
    has_concepts = SOURCES[config.concept_source].has_concepts
    if not has_concepts and config.decoder != "token_stream":
        raise ValueError(
            f"decoder: {config.decoder!r} reads concepts, but concept_source is 'none'; use 'token_stream'"
        )
    if config.decoder == "weighted" and config.num_concepts is None:
        raise ValueError("decoder: 'weighted' has one weight a concept and needs a fixed num_concepts")
    if config.decoder.startswith("upsample") and not config.concepts_own_positions:
        raise ValueError(
            f"decoder: {config.decoder!r} needs concepts that own positions, not {config.concept_source!r}; "
            "use concept_source 'anchored' or 'pooled'"
        )
    if config.decoder == "token_stream" and "pool" in config.layer_types:
        raise ValueError(
            "decoder: 'token_stream' answers at full length, but 'pool' shortens the tokens; use 'upsample_residual'"
        )
    partial = next((n for n in config.layer_types + config.decoder_layer_types if n in ("mix_local", "pool")), None)
    if partial and POSITIONS[config.token_position].sees_whole_text:
        raise ValueError(
            f"token_position: {config.token_position!r} counts over the whole text, token by token, and {partial!r} "
            "does not show it that; use 'mix', or another position"
        )


def _check_nothing_is_wasted(config: "ConceptEncoderConfig", layers: list[type], answers: list[type]) -> None:
    """Walk back from the answer: a move whose result nobody reads would hold weights that never learn."""
    source = SOURCES[config.concept_source]
    live = {"tokens"}
    for i, layer in reversed(list(enumerate(answers))):
        _must_be_read(f"decoder_layer_types[{i}]", layer, live, config)
    live = (live - {"tokens"}) | DECODERS[config.decoder].reads
    begins = next((i for i, layer in enumerate(layers) if "concepts" in layer.uses), len(layers))
    for i in range(len(layers), -1, -1):
        if i < len(layers):
            _must_be_read(f"layer_types[{i}]", layers[i], live, config)
        if i == begins and source.has_concepts:  # here the concept stream starts
            if "concepts" not in live:
                raise ValueError(
                    "decoder: the answer never comes from the concepts; add a 'write' to layer_types "
                    "or to decoder_layer_types"
                )
            if source.owns_positions:
                live.add("tokens")
            elif not any({"tokens", "concepts"} <= layer.uses and "concepts" in layer.updates for layer in layers):
                raise ValueError("layer_types: the concepts never read the tokens; add a 'read'")


def _must_be_read(where: str, layer: type, live: set[str], config: "ConceptEncoderConfig") -> None:
    unread = sorted(layer.updates - live)
    if unread:
        remedy = (
            "drop the move, or add a 'write' after it"
            if unread == ["concepts"]
            else "let a 'read' follow, or drop the move"
        )
        raise ValueError(
            f"{where}: nothing reads the {' and '.join(unread)} that {layer.name!r} leaves, decoder "
            f"{config.decoder!r} with {config.decoder_layer_types or 'no layers'} neither; {remedy}"
        )
    live |= layer.uses
