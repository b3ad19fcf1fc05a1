"""Which moves, source, decoder and positions make sense together: the reasons for which a configuration is refused."""

from typing import TYPE_CHECKING

from concept_encoder.model.decoders import DECODERS
from concept_encoder.model.moves import MOVES
from concept_encoder.model.positions import POSITIONS, attention_fields
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
    _check_decoder(config, layers + answers)
    _check_shortening(config, layers, answers)
    _check_concepts(config, layers + answers)
    _check_nothing_is_wasted(config, layers, answers)
    _check_positions_act(config, layers + answers)


def _check_concepts(config: "ConceptEncoderConfig", layers: list[type]) -> None:
    source = SOURCES[config.concept_source]
    using = next((layer.name for layer in layers if "concepts" in layer.uses), None)
    if using and not source.has_concepts:
        raise ValueError(
            f"concept_source: {source.name!r}, but the move {using!r} needs concepts; use 'learned' or 'anchored'"
        )
    given = [name for name in ("num_concepts", "concept_ratio") if getattr(config, name) is not None]
    for name in given:
        if name not in source.options:
            raise ValueError(f"{name}: {source.without_options}")
    if len(given) == 2:
        raise ValueError("num_concepts: given together with concept_ratio; give one of them")
    longest = config.concepts_at(config.max_position_embeddings)
    if longest == 1:  # not of a fixed number, which is checked with the sizes
        raise ValueError(
            f"concept_ratio: {config.concept_ratio} makes one concept of the longest text, which leaves nothing to "
            f"choose between; use less than max_position_embeddings, {config.max_position_embeddings}"
        )
    if POSITIONS[config.concept_position].has_table and longest > config.max_position_embeddings:
        raise ValueError(f"num_concepts: {longest} exceeds the position table; raise max_position_embeddings")


def _check_shortening(config: "ConceptEncoderConfig", layers: list[type], answers: list[type]) -> None:
    source, decoder = SOURCES[config.concept_source], DECODERS[config.decoder]
    for layer in answers:
        if layer.shortens:
            raise ValueError(f"decoder_layer_types: {layer.name!r} would shorten the answer; it belongs to layer_types")
    short = next((layer.name for layer in layers if layer.shortens), None)
    if short is None:
        if source.takes_shortened:
            raise ValueError(
                f"concept_source: {source.name!r} needs a 'pool' in layer_types; add one or use 'anchored'"
            )
        return
    shortening = sum(layer.shortens for layer in layers)
    if 2 ** (shortening - 1) >= config.max_position_embeddings - 1:
        raise ValueError(
            f"layer_types: after {shortening - 1} {short!r} the longest text has 2 tokens, and another shortens "
            "nothing; drop some"
        )
    if decoder.needs_all_tokens:
        raise ValueError(
            f"decoder: {decoder.name!r} answers at full length, but {short!r} shortens the tokens; "
            "use 'upsample_residual'"
        )
    if source.takes_shortened:
        first = next((i for i, layer in enumerate(layers) if "concepts" in layer.uses), len(layers))
        if any(layer.shortens for layer in layers[first:]):
            raise ValueError(
                f"layer_types: the {source.name!r} concepts begin at {layers[first].name!r}; "
                f"put every {short!r} before it"
            )
    elif source.owns_positions:
        raise ValueError(
            f"concept_source: {source.name!r} owns chunks of the unpooled text; with {short!r} use 'pooled'"
        )


def _check_decoder(config: "ConceptEncoderConfig", layers: list[type]) -> None:
    source, decoder = SOURCES[config.concept_source], DECODERS[config.decoder]
    if decoder.needs_concepts and not source.has_concepts:
        raise ValueError(
            f"decoder: {decoder.name!r} reads concepts, but concept_source is {source.name!r}; use 'token_stream'"
        )
    if decoder.needs_fixed_number and config.num_concepts is None:
        raise ValueError(f"decoder: {decoder.name!r} has one weight a concept and needs a fixed num_concepts")
    if decoder.needs_owned_positions and not source.owns_positions:
        raise ValueError(
            f"decoder: {decoder.name!r} needs concepts that own positions, not {source.name!r}; "
            "use concept_source 'anchored' or 'pooled'"
        )
    partial = next((layer.name for layer in layers if layer.partial), None)
    if partial and POSITIONS[config.token_position].sees_whole_text():
        raise ValueError(
            f"token_position: {config.token_position!r} counts over the whole text, token by token, and {partial!r} "
            "does not show it that; use 'mix', or another position"
        )


def _check_positions_act(config: "ConceptEncoderConfig", layers: list[type]) -> None:
    """Collect where each field acts: on the states of a stream that exists, or in an attention."""
    acting = {field for layer in layers if layer.attends for field in attention_fields(config, *layer.attends)}
    begun = {"token_position": True, "concept_position": SOURCES[config.concept_source].has_concepts}
    added = ", ".join(repr(name) for name, member in POSITIONS.items() if member.acts_on_states)
    for field, stream, own in (("token_position", "tokens", "mix"), ("concept_position", "concepts", "think")):
        member = POSITIONS[getattr(config, field)]
        if not begun[field] and (member.acts_on_states or member.acts_in_attention):
            source = config.concept_source
            raise ValueError(f"{field}: {member.name!r} acts nowhere, as concept_source is {source!r}; use 'none'")
        if member.acts_in_attention and not member.acts_on_states and field not in acting:
            both = ", and across both fields must be it, for concepts that own positions"
            raise ValueError(
                f"{field}: {member.name!r} acts nowhere, as no move attends from {stream} to {stream}"
                f"{both if member.needs_owned_positions else ''}; add a {own!r}, or use {added} or 'none'"
            )


def _check_nothing_is_wasted(config: "ConceptEncoderConfig", layers: list[type], answers: list[type]) -> None:
    """Walk back from the answer: a move whose result nobody reads would hold weights that never learn."""
    source = SOURCES[config.concept_source]
    live = {"tokens"}
    for i, layer in reversed(list(enumerate(answers))):
        _must_be_read(f"decoder_layer_types[{i}]", layer, live, config)
    decoder = DECODERS[config.decoder]
    live = (live - {"tokens"}) | decoder.reads
    full = next((i for i, layer in enumerate(layers) if layer.shortens), None) if decoder.reads_full else None
    if full is not None:
        live.discard("tokens")  # until the walk is back where they have their full length
    begins = next((i for i, layer in enumerate(layers) if "concepts" in layer.uses), len(layers))
    for i in range(len(layers), -1, -1):
        if i < len(layers):
            _must_be_read(f"layer_types[{i}]", layers[i], live, config)
        if i == full:
            live.add("tokens")
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
