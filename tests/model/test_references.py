"""Our modules against outside references: transformers and torch."""

from functools import partial

import pytest
import torch
from cases import SMALL, small
from torch import nn
from transformers import RobertaPreLayerNormConfig, RobertaPreLayerNormModel
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaRotaryEmbedding, apply_rotary_pos_emb

from concept_encoder.model import ConceptEncoderForMaskedLM, ConceptEncoderModel, preset_config
from concept_encoder.model.attention import Attention, WindowedAttention
from concept_encoder.model.encoder import read_runs
from concept_encoder.model.loading import load_checkpoint
from concept_encoder.model.moves import MOVES
from concept_encoder.model.positions import POSITIONS, NoPosition
from concept_encoder.model.sources import SOURCES
from concept_encoder.model.streams import Streams

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def test_bert_twin_equals_a_pre_norm_bert_of_transformers():
    config = preset_config("bert", 3, **SMALL)
    torch.manual_seed(0)
    ours = ConceptEncoderModel(config).eval()
    reference = RobertaPreLayerNormModel(
        RobertaPreLayerNormConfig(
            vocab_size=config.vocab_size,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=config.max_position_embeddings + 1,
            pad_token_id=0,
            type_vocab_size=2,
            layer_norm_eps=config.layer_norm_eps,
        ),
        add_pooling_layer=False,
    ).eval()
    copy_bert(ours, reference)
    ids = torch.randint(5, 320, (3, 30))
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    ids[1, 20:] = 0
    expected = reference(ids, attention_mask=mask).last_hidden_state
    found = ours(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], **CLOSE)


@torch.no_grad()
def copy_bert(ours: ConceptEncoderModel, reference: RobertaPreLayerNormModel) -> None:
    for name, parameter in reference.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    table = reference.embeddings
    table.word_embeddings.weight.copy_(ours.embeddings.word.weight)
    table.position_embeddings.weight[1:].copy_(ours.embeddings.position.table.weight)
    table.token_type_embeddings.weight.copy_(ours.embeddings.segment.weight)
    table.LayerNorm.weight.copy_(ours.embeddings.norm.weight)
    for layer, move in zip(reference.encoder.layer, ours.groups.values()):
        key, value = move.attention.key_value.weight.chunk(2)
        layer.attention.LayerNorm.weight.copy_(move.norm.weight)
        layer.attention.self.query.weight.copy_(move.attention.query.weight)
        layer.attention.self.key.weight.copy_(key)
        layer.attention.self.value.weight.copy_(value)
        layer.attention.output.dense.weight.copy_(move.attention.out.weight)
        layer.intermediate.LayerNorm.weight.copy_(move.feed_forward.norm.weight)
        layer.intermediate.dense.weight.copy_(move.feed_forward.widen.weight)
        layer.output.dense.weight.copy_(move.feed_forward.out.weight)
    reference.LayerNorm.weight.copy_(ours.decoder.norm.weight)


def reference_attention(attention: Attention) -> nn.MultiheadAttention:
    """torch's attention with the same weights, scaled up so that the softmax is far from uniform."""
    reference = nn.MultiheadAttention(32, 4, bias=False, batch_first=True)
    with torch.no_grad():
        for weight in (attention.query.weight, attention.key_value.weight, attention.out.weight):
            weight.normal_(std=0.3)
        reference.in_proj_weight.copy_(torch.cat([attention.query.weight, attention.key_value.weight]))
        reference.out_proj.weight.copy_(attention.out.weight)
    return reference


def streams(length: int = 21, concepts: int = 6, padded: bool = True) -> Streams:
    torch.manual_seed(3)
    mask = torch.arange(length)[None] < torch.tensor([[length], [length - 9]]) if padded else None
    return Streams(
        torch.randn(2, length, 32),
        torch.arange(length)[None],
        mask,
        torch.randn(2, concepts, 32),
        torch.arange(concepts)[None],
    )


def test_read_equals_multihead_attention():
    move, s = MOVES["read"](small()).eval(), streams()
    reference = reference_attention(move.attention)
    queries, keys = move.concept_norm(s.z_BCD), move.token_norm(s.x_BND)
    expected = s.z_BCD + reference(queries, keys, keys, key_padding_mask=~s.x_mask_BN)[0]
    torch.testing.assert_close(move(s).z_BCD, expected, **CLOSE)


def test_write_equals_multihead_attention():
    move, s = MOVES["write"](small()).eval(), streams()
    keys = move.concept_norm(s.z_BCD)
    x_BND = s.x_BND + reference_attention(move.attention)(move.token_norm(s.x_BND), keys, keys)[0]
    torch.testing.assert_close(move(s).x_BND, x_BND + move.feed_forward(x_BND), **CLOSE)


def test_pool_asks_with_pooled_tokens_and_hears_the_unpooled_ones():
    move, s = MOVES["pool"](small()).eval(), streams()
    pooled_BMD, keys = move.halve(s).x_BND, move.norm(s.x_BND)
    attention = reference_attention(move.attention)
    x_BMD = pooled_BMD + attention(move.norm(pooled_BMD), keys, keys, key_padding_mask=~s.x_mask_BN)[0]
    torch.testing.assert_close(move(s).x_BND, x_BMD + move.feed_forward(x_BMD), **CLOSE)


def test_think_equals_a_pre_norm_transformer_layer():
    move, s = MOVES["think"](small()).eval(), streams()
    attention = reference_attention(move.attention)
    reference = nn.TransformerEncoderLayer(
        32, 4, 128, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, bias=False
    )
    reference.self_attn, reference.norm1, reference.norm2 = attention, move.norm, move.feed_forward.norm
    reference.linear1, reference.linear2 = move.feed_forward.widen, move.feed_forward.out
    torch.testing.assert_close(move(s).z_BCD, reference(s.z_BCD), **CLOSE)


def test_rope_equals_transformers():
    config = small()
    rotary = LlamaRotaryEmbedding(LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=48))
    q, k = torch.randn(2, 2, 4, 21, 8)
    cos, sin = rotary(q, torch.arange(21)[None])
    expected = apply_rotary_pos_emb(q, k, cos, sin)
    rope = POSITIONS["rope"](config)
    for ours, theirs in zip((rope.rotate(q, torch.arange(21)[None]), rope.rotate(k, torch.arange(21)[None])), expected):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize(("name", "asks", "answers"), [("read", "z", "x"), ("think", "z", "z"), ("write", "x", "z")])
def test_anchored_concepts_turn_by_the_place_they_own(name, asks, answers):
    rope = {"token_position": "rope", "concept_position": "rope"}
    config = small(layer_types="read think write", concept_source="anchored", decoder="token_stream", **rope)
    recorded: list = []
    s = SOURCES["anchored"](config)(streams(padded=False)).replace(attentions=recorded)
    assert s.z_pos_BC.tolist() == [[1.5, 5.5, 9.5, 13.5, 17.5, 20.0]]  # the mean place of each chunk of 4
    move = MOVES[name](config).eval()
    attention = move.attention
    for weight in (attention.query.weight, attention.key_value.weight):
        nn.init.normal_(weight, std=0.3)
    rotary = LlamaRotaryEmbedding(LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=48))
    norms = {"z": move.norm} if name == "think" else {"z": move.concept_norm, "x": move.token_norm}
    sides = {"z": (s.z_BCD, s.z_pos_BC), "x": (s.x_BND, s.x_pos_BN)}

    def turned(side: str, project: nn.Linear) -> torch.Tensor:
        states, places = sides[side]
        heads = attention.split_heads(project(norms[side](states))[..., :32])
        return apply_rotary_pos_emb(heads, heads, *rotary(heads, places))[0]

    logits = turned(asks, attention.query) @ turned(answers, attention.key_value).mT / 8**0.5
    move(s)
    torch.testing.assert_close(recorded[0][1], logits.softmax(-1), **CLOSE)


def test_rope_sees_distances_only():
    rope = POSITIONS["rope"](small())
    q, k = torch.randn(2, 1, 1, 1, 8)
    near = rope.rotate(q, torch.tensor([[7.5]])) @ rope.rotate(k, torch.tensor([[3.0]])).mT
    far = rope.rotate(q, torch.tensor([[107.5]])) @ rope.rotate(k, torch.tensor([[103.0]])).mT
    torch.testing.assert_close(near, far, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("length", [3, 5, 8, 9, 21, 48])
@pytest.mark.parametrize("padded", [True, False])
def test_windowed_attention_equals_dense_attention_under_a_band(length, padded):
    config = small(local_window=8)
    windowed = WindowedAttention(config, NoPosition(config))
    torch.nn.init.normal_(windowed.query.weight, std=0.3)
    torch.nn.init.normal_(windowed.key_value.weight, std=0.3)
    torch.manual_seed(4)
    x = torch.randn(2, length, 32, requires_grad=True)
    positions = torch.arange(length)[None]
    mask = positions < torch.tensor([[length], [max(length - 2, 1)]]) if padded else None
    kv = windowed.key_value(x)
    found = windowed(x, kv, mask, positions, positions)[0]
    band = (positions.mT - positions).abs() <= 4
    allowed = band[None] if mask is None else band[None] & (mask[:, None] | torch.eye(length, dtype=torch.bool))
    q, k, v = windowed.project(x, kv, positions, positions)
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None])
    expected = windowed.out(dense.transpose(1, 2).flatten(2))
    real = torch.ones(2, length, dtype=torch.bool) if mask is None else mask
    torch.testing.assert_close(found[real], expected[real], **CLOSE)
    gradients = [torch.autograd.grad(out[real].square().sum(), x, retain_graph=True)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


class FallingBias(NoPosition):
    """Logits fall with the distance, and a little more for large queries."""

    bias_by_pair = True

    def bias(self, q, k, mask, q_pos, k_pos):
        return -0.3 * (q_pos[:, None, :, None] - k_pos[:, None, None]).abs() * q.mean(-1, keepdim=True)


@pytest.mark.parametrize("length", [5, 8, 9, 21])
def test_windowed_attention_adds_the_position_bias(length):
    config = small(local_window=8)
    windowed = WindowedAttention(config, FallingBias(config))
    for weight in (windowed.query.weight, windowed.key_value.weight):
        torch.nn.init.normal_(weight, std=0.3)
    x = torch.randn(2, length, 32)
    positions = torch.arange(length)[None] * 1.5
    mask = torch.arange(length)[None] < torch.tensor([[length], [length - 2]])
    kv = windowed.key_value(x)
    found = windowed(x, kv, mask, positions, positions)[0]
    q, k, v = windowed.project(x, kv, positions, positions)
    bias = windowed.position.bias(q / 8**0.5, k, None, positions, positions)
    band = (positions.mT - positions).abs() <= 4 * 1.5
    logits = (q @ k.mT / 8**0.5 + bias).masked_fill(~(band & mask[:, None])[:, None], float("-inf"))
    expected = windowed.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(found[mask], expected[mask], **CLOSE)


def test_recursion_shares_weights_and_more_rounds_load_the_same_checkpoint(tmp_path):
    config = preset_config("recursive", 3, **SMALL, num_concepts=6)
    model = ConceptEncoderModel(config)
    assert len(model.groups) == 2
    model.save_pretrained(tmp_path)
    ids = torch.randint(5, 320, (1, 9))
    for load in (partial(load_checkpoint, ConceptEncoderModel), ConceptEncoderModel.from_pretrained):
        longer = load(tmp_path, layer_types="(read think)^5")
        assert longer.config.num_hidden_layers == 10
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, longer.get_parameter(name))
        assert not torch.equal(model.eval()(ids).concepts, longer.eval()(ids).concepts)
    with pytest.raises(ValueError, match=r"^layer_types\[1\]: no move is called 'thnik'"):
        ConceptEncoderModel.from_pretrained(tmp_path, layer_types="(read thnik)^5")


@pytest.mark.parametrize("preset", ["woven", "perceiver_mlm", "funnel"])
@pytest.mark.parametrize("padded", [True, False])
def test_flex_kernel_agrees_with_sdpa(preset, padded):
    fields = {"num_concepts": 16} if preset == "perceiver_mlm" else {}
    config = preset_config(preset, 6, **{**SMALL, "hidden_size": 64}, **fields)
    torch.manual_seed(0)
    model = ConceptEncoderModel(config).eval()
    ids = torch.randint(5, 320, (2, 32))
    mask = (torch.arange(32)[None] < torch.tensor([[32], [20]])).long() if padded else None
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).concepts
        model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(model(ids, attention_mask=mask).concepts, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "layout", ["(read think)*3", "(read think)^3", "mix_local read think slot mix_local (read think)*2"]
)
def test_one_product_for_several_reads_changes_nothing(layout, monkeypatch):
    config = small(layer_types=layout)
    ids = torch.randint(5, config.vocab_size, (2, 20))
    mask = torch.ones_like(ids)
    mask[1, 13:] = 0
    torch.manual_seed(0)
    model = ConceptEncoderForMaskedLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    assert model.model.read_runs
    found = []
    for runs in (model.model.read_runs, {}):
        model.model.read_runs = runs
        loss = model(ids, attention_mask=mask, labels=ids).loss
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for together, apart in zip(*found):
        torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-4)


def test_reads_run_together_only_while_the_tokens_stay():
    assert read_runs(small(layer_types="(read think)*3")) == {0: [0, 2, 4]}
    assert read_runs(small(layer_types="(read think)^3")) == {0: [0]}
    assert read_runs(small(layer_types="mix_local read think mix_local read think")) == {}
