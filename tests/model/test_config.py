"""What the configuration accepts, and how it says no."""

import pytest
from cases import SMALL, small
from hypothesis import given
from hypothesis import strategies as st

from concept_encoder.model import PRESETS, ConceptEncoderForMaskedLM, preset_config, twin_config
from concept_encoder.model.decoders import DECODERS, UpsampleDecoder
from concept_encoder.model.layout import format_layout, parse_layout
from concept_encoder.model.moves import MOVES, Move, Pool
from concept_encoder.model.positions import POSITIONS, Position
from concept_encoder.model.registry import Registry


def test_layout_examples():
    assert parse_layout("mix_local*2 (read think)*2")[0] == ["mix_local", "mix_local", "read", "think", "read", "think"]
    assert parse_layout("mix*2 (read think)^2") == (
        ["mix", "mix", "read", "think", "read", "think"],
        [0, 1, 2, 3, 2, 3],
    )
    assert parse_layout("((read think)^2 mix)*2")[1] == [0, 1, 0, 1, 2, 3, 4, 3, 4, 5]
    assert parse_layout("read*0 mix") == (["mix"], [0])


@given(st.lists(st.sampled_from(["mix", "read", "think"]), min_size=1, max_size=8))
def test_layouts_round_trip(layers):
    assert parse_layout(format_layout(layers))[0] == layers


@pytest.mark.parametrize("text", ["(read", "read)", "*2", "read think*", "read & think", "READ"])
def test_unreadable_layouts(text):
    with pytest.raises(ValueError, match="layer_types: "):
        small(layer_types=text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 5}, "num_attention_heads: hidden_size 32 is not divisible by 5 heads; use 4 or 8"),
        ({"hidden_size": 36, "num_attention_heads": 4, "token_position": "rope"}, "token_position: rope turns pairs"),
        ({"num_concepts": 4, "concept_ratio": 4}, "num_concepts: given together with concept_ratio"),
        ({"concept_source": "anchored", "num_concepts": 4}, "num_concepts: 'anchored' concepts follow the length"),
        (
            {"concept_source": "none", "decoder": "token_stream"},
            "concept_source: 'none', but the move 'read' needs concepts",
        ),
        ({"layer_types": "mix", "concept_source": "none"}, "decoder: 'query_input' reads concepts"),
        ({"decoder": "upsample"}, "decoder: 'upsample' needs concepts that own positions"),
        ({"decoder": "weighted", "concept_ratio": 4}, "decoder: 'weighted' has one weight a concept"),
        ({"layer_types": "read thnik"}, r"layer_types\[1\]: no move is called 'thnik'; did you mean 'think'"),
        ({"decoder": "query_pos"}, "decoder: no decoder is called 'query_pos'; did you mean 'query_position'"),
        ({"layer_types": "read think mix"}, r"layer_types\[2\]: nothing reads the tokens that 'mix' leaves"),
        ({"layer_types": "think"}, "layer_types: the concepts never read the tokens"),
        ({"layer_types": ""}, "layer_types: empty"),
        ({"layer_types": ["read", "think"], "layer_groups": [0, 0]}, "layer_groups: group 0 holds 'read' and 'think'"),
        ({"layer_types": ["read", "think"], "layer_groups": [0]}, "layer_groups: 1 numbers for 2 moves"),
        ({"num_concept": 4}, "num_concept: no such field of the model; nearest: num_concepts"),
        ({"num_concepts": 0}, "num_concepts: 0 is not positive"),
        ({"vocab_size": 0}, "vocab_size: 0 is not positive"),
        ({"concept_source": "pooled", "decoder": "upsample"}, "concept_source: 'pooled' needs a 'pool'"),
        (
            {"layer_types": "pool think", "concept_source": "pooled", "decoder": "upsample", "concept_ratio": 2},
            "concept_ratio: the number of 'pooled' concepts follows",
        ),
        (
            {"layer_types": "pool think pool", "concept_source": "pooled", "decoder": "upsample"},
            "layer_types: the 'pooled' concepts begin at 'think'; put every 'pool' before it",
        ),
        (
            {"layer_types": "pool read", "concept_source": "anchored"},
            "concept_source: 'anchored' owns chunks of the unpooled",
        ),
        (
            {"layer_types": "pool think", "concept_source": "pooled", "decoder": "token_stream"},
            "decoder: 'token_stream' answers at full length",
        ),
        (
            {"layer_types": "mix", "concept_source": "none", "decoder": "token_stream", "num_concepts": 4},
            "num_concepts: given, but concept_source is 'none'",
        ),
        (
            {"concept_position": "learned", "num_concepts": 60},
            "num_concepts: 60 exceeds the position table; raise max_position_embeddings",
        ),
        ({"decoder_layer_types": "write pool"}, "decoder_layer_types: 'pool' would shorten"),
        (
            {"layer_types": "mix_local read", "token_position": "cope"},
            "token_position: 'cope' counts over the whole text",
        ),
        ({"layer_types": "pool read", "token_position": "cope"}, "token_position: 'cope' counts over the whole text"),
        ({"hidden_size": 33, "num_attention_heads": 3, "token_position": "sinusoidal"}, "hidden_size: 33 is odd"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob: 1.5 is not a share"),
        ({"mask_free": True, "mask_token_id": None}, "mask_free: hides .MASK., but mask_token_id is not set"),
        ({"hidden_size": 2**25}, "hidden_size: 33,554,432 is too large; use at most 16,777,216"),
        ({"vocab_size": 10**12}, "vocab_size: 1,000,000,000,000 is too large"),
        ({"num_concepts": 10**12}, "num_concepts: 1,000,000,000,000 is too large"),
        ({"token_dim": 1}, "token_dim: 1 is at most a sign after normalisation; use at least 3"),
        ({"token_dim": 2}, "token_dim: 2 is at most a sign after normalisation; use at least 3"),
        ({"num_concepts": 1}, "num_concepts: 1 leaves nothing to choose between; use at least 2"),
        ({"concept_ratio": 48}, "concept_ratio: 48 makes one concept of the longest text"),
        ({"concept_source": "anchored", "concept_ratio": 99}, "concept_ratio: 99 makes one concept of the longest"),
        ({"cope_positions": 1}, "cope_positions: 1 tells no counts apart; use at least 2"),
        ({"max_position_embeddings": 1}, "max_position_embeddings: 1 leaves nothing to attend to"),
        ({"vocab_size": 1}, "vocab_size: 1 leaves nothing to choose between"),
        (
            {"layer_types": "pool*7 think", "concept_source": "pooled", "decoder": "upsample"},
            "layer_types: after 6 'pool' the longest text has 2 tokens, and another shortens nothing; drop some",
        ),
        ({"token_dim": 1.5}, "token_dim: expected a whole number, found 1.5"),
        ({"hidden_size": True}, "hidden_size: expected a whole number, found True"),
        ({"rope_theta": "wide"}, "rope_theta: expected a number, found 'wide'"),
        ({"rope_theta": float("inf")}, "rope_theta: inf is not a positive, finite number"),
        ({"rope_theta": 10**400}, "rope_theta: inf is not a positive, finite number"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps: nan is not a positive, finite number"),
        ({"initializer_range": 0}, "initializer_range: 0.0 is not a positive, finite number"),
        ({"layer_types": [1]}, r"layer_types: expected a list of names or text, found \[1\]"),
        ({"classifier_head": "cls"}, "classifier_head: no classifier head is called 'cls'"),
        ({"dtype": "foo"}, "dtype: no type of numbers is called 'foo'"),
        ({"id2label": 3}, "id2label: expected the name of each class by its number, found 3"),
        ({"id2label": {"cat": "0"}}, "id2label: expected the name of each class by its number"),
        ({"layer_types": "(read think)*999999999"}, "layer_types: 1,999,999,998 moves are too many; use at most 1,000"),
        ({"layer_types": "(read think)^999999999"}, "layer_types: 1,999,999,998 moves are too many"),
        ({"layer_types": "((read*900)*900)*900 think"}, "layer_types: 810,000 moves are too many"),
        ({"layer_types": "()*999999999"}, "layer_types: 999,999,999 moves are too many"),
        ({"layer_types": "read*999 think*999"}, "layer_types: 1,998 moves are too many"),
        ({"decoder_layer_types": "write*9999999999"}, "decoder_layer_types: 9,999,999,999 moves are too many"),
        ({"local_window": 1}, "local_window: 1 leaves no neighbour"),
        (
            {"token_position": "rope"},
            "token_position: 'rope' acts nowhere, as no move attends from tokens to tokens, and across both fields "
            "must be it, for concepts that own positions; add a 'mix', or use 'learned', 'sinusoidal' or 'none'$",
        ),
        ({"token_position": "rope", "concept_position": "rope"}, "token_position: 'rope' acts nowhere"),
        ({"token_position": "cope"}, "token_position: 'cope' acts nowhere"),
        (
            {"layer_types": "mix read", "token_position": "rope", "concept_position": "rope"},
            "concept_position: 'rope' acts nowhere, as no move attends from concepts to concepts",
        ),
        (
            {"layer_types": "mix", "concept_source": "none", "decoder": "token_stream", "concept_position": "learned"},
            "concept_position: 'learned' acts nowhere, as concept_source is 'none'; use 'none'",
        ),
        ({"token_position": "ropes"}, "token_position: no position encoding is called 'ropes'"),
    ],
)
def test_bad_configurations(fields, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        small(**fields)


def test_whole_numbers_are_numbers():
    config = small(rope_theta=10_000, hidden_dropout_prob=0)
    assert (type(config.rope_theta), type(config.hidden_dropout_prob)) == (float, float)


@given(size=st.integers(3, 5000), heads=st.integers(1, 6000))
def test_the_nearest_divisors_are_named(size, heads):
    fitting = sorted((n for n in range(1, size + 1) if size % n == 0), key=lambda n: (abs(n - heads), -n))
    if heads in fitting:
        return
    with pytest.raises(ValueError, match=f"use {' or '.join(map(str, sorted(fitting[:2])))}$"):
        small(hidden_size=size, num_attention_heads=heads)


@pytest.mark.parametrize("num_layers", [1.5, True, "3", [], float("nan"), 0, 10**9])
def test_layers_are_a_whole_number(num_layers):
    with pytest.raises(ValueError, match=r"^num_layers: "):
        preset_config("bert", num_layers, **SMALL)


def test_presets_count_layers():
    with pytest.raises(ValueError, match=r"^num_layers: counts the layers of the preset's layout"):
        preset_config("bert", 2, layer_types="mix", **SMALL)
    assert preset_config("bert", layer_types="mix", **SMALL).num_hidden_layers == 1
    with pytest.raises(ValueError, match="use 4"):
        preset_config("woven", 3, **SMALL)
    with pytest.raises(ValueError, match="needs at least 3 layers"):
        preset_config("anchored", 2, **SMALL)
    with pytest.raises(
        ValueError, match=r"^preset: no preset is called 'brt'; did you mean 'bert'.* valid: weighted_mlm"
    ):
        preset_config("brt", 2)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_twins_keep_everything_but_the_concepts(preset):
    config = preset_config(preset, 6, **SMALL)
    twin = twin_config(config, 3)
    assert twin.layer_types == ["mix"] * 3
    for name in ("vocab_size", "hidden_size", "token_position", "max_position_embeddings", "mask_token_id"):
        assert getattr(twin, name) == getattr(config, name)


@pytest.mark.parametrize(
    "fields",
    [
        {"layer_types": "read", "concept_source": "anchored", "token_position": "rope", "concept_position": "rope"},
        {"layer_types": "read", "concept_position": "cope"},
        {"decoder_layer_types": "write mix", "token_position": "rope"},
        {"concept_position": "rope"},
    ],
)
def test_positions_that_act_in_one_place_are_accepted(fields):
    model = ConceptEncoderForMaskedLM(small(**fields))
    acting = [m for m in model.modules() if isinstance(m, Position) and m.acts_in_attention]
    assert acting


def test_a_position_bias_is_refused_where_a_move_cannot_show_it_the_text(monkeypatch):
    bias = {"bias": lambda self, q, k, mask, q_pos, k_pos: None, "acts_in_attention": True}
    for name, own in (("whole", {}), ("pairs", {"bias_by_pair": True})):
        monkeypatch.setitem(POSITIONS._members, name, type(name, (Position,), {"name": name, **bias, **own}))
    for layout in ("mix_local read", "pool read"):
        with pytest.raises(ValueError, match=r"^token_position: 'whole' counts over the whole text"):
            small(layer_types=layout, token_position="whole")
        assert small(layer_types=layout, token_position="pairs").token_position == "pairs"


def test_a_new_member_is_refused_for_what_its_class_says(monkeypatch):
    for registry, base, name in ((MOVES, Pool, "shrink"), (DECODERS, UpsampleDecoder, "grow")):
        monkeypatch.setitem(registry._members, name, type(name, (base,), {"name": name}))
    tokens = frozenset({"tokens"})
    blur = type("blur", (Move,), {"name": "blur", "uses": tokens, "updates": tokens})  # attends to nothing
    monkeypatch.setitem(MOVES._members, "blur", blur)
    assert small(layer_types="blur read", num_concepts=4).layer_types[0] == "blur"
    assert small(layer_types="shrink read", num_concepts=4, decoder="query_position").layer_types[0] == "shrink"
    pooled = small(layer_types="mix shrink*2 think", concept_source="pooled", decoder="grow")
    assert pooled.concepts_at(48) == 13
    for fields, message in (
        ({"decoder": "grow"}, "decoder: 'grow' needs concepts that own positions, not 'learned'"),
        (
            {"layer_types": "shrink read write", "decoder": "token_stream"},
            "decoder: 'token_stream' .* 'shrink' shortens",
        ),
        ({"layer_types": "shrink read", "token_position": "cope"}, "token_position: 'cope' .* and 'shrink' does not"),
        ({"decoder_layer_types": "write shrink"}, "decoder_layer_types: 'shrink' would shorten"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            small(**fields)


def test_registry_refuses_an_undocumented_member():
    registry = Registry("thing")
    with pytest.raises(AssertionError, match="docstring"):
        registry.register("x")(type("X", (), {}))


def test_moves_after_a_pool_are_read_by_somebody():
    """`upsample_residual` takes the tokens from before the `pool`: what comes after it must reach the concepts."""
    with pytest.raises(ValueError, match=r"layer_types\[4\]: nothing reads the tokens that 'mix' leaves"):
        small(
            layer_types="mix pool think write mix",
            concept_source="pooled",
            decoder="upsample_residual",
            decoder_layer_types="mix",
        )
