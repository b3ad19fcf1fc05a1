"""Variants beyond plain attention, against naive formulas and transformers' Funnel."""

import math

import pytest
import torch
from cases import SMALL, small
from test_references import streams
from transformers import FunnelConfig
from transformers.models.funnel.modeling_funnel import FunnelAttentionStructure

from concept_encoder.model import ConceptEncoderForMaskedLM, ConceptEncoderModel, preset_config
from concept_encoder.model.moves import MOVES, Pool
from concept_encoder.model.positions import POSITIONS
from concept_encoder.model.sources import SOURCES
from concept_encoder.model.streams import Streams


def naive_cope(q: torch.Tensor, k: torch.Tensor, table: torch.Tensor, i: int, j: int, keys: range) -> float:
    """Equations 3 to 6 of CoPE for one query and one key: gates summed over `keys`, then interpolated."""
    count = sum(torch.sigmoid(q[i] @ k[t]).item() for t in keys)
    count = min(count, len(table) - 1)
    low, share = math.floor(count), count - math.floor(count)
    high = min(low + 1, len(table) - 1)
    return ((1 - share) * (q[i] @ table[low]) + share * (q[i] @ table[high])).item()


def places(queries: int, keys: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(queries)[None], torch.arange(keys)[None]


@pytest.mark.parametrize("crossed", [False, True])
def test_cope_counts_in_fp32(crossed):
    """Counts of hundreds do not fit in bf16, nor do their differences."""
    torch.manual_seed(0)
    cope = POSITIONS["cope"](small(concept_position="cope", cope_positions=600), crossed=crossed)
    torch.nn.init.normal_(cope.table.weight)
    cope.to(torch.bfloat16)
    q, k = torch.randn(2, 1, 2, 600, 8).to(torch.bfloat16)
    found = cope.bias(q, k, None, *places(600, 600))
    assert found.dtype == torch.bfloat16
    exact = cope.float().bias(q.float(), k.float(), None, *places(600, 600))
    assert (found.float() - exact).square().mean().sqrt() < 0.1 * exact.square().mean().sqrt()


def test_cope_in_self_attention_is_the_papers_formula_on_both_sides():
    config = small(concept_position="cope", cope_positions=4)
    cope = POSITIONS["cope"](config)
    torch.nn.init.normal_(cope.table.weight)
    q, k = torch.randn(2, 1, 1, 7, 8)
    bias = cope.bias(q, k, None, *places(7, 7))[0, 0]
    before, after = cope.table.weight.chunk(2)
    for i in range(7):
        for j in range(7):
            table, keys = (before, range(j, i + 1)) if j <= i else (after, range(i, j + 1))
            assert bias[i, j].item() == pytest.approx(naive_cope(q[0, 0], k[0, 0], table, i, j, keys), abs=1e-4)


def test_cope_in_read_counts_from_the_first_token_and_skips_padding():
    cope = POSITIONS["cope"](small(concept_position="cope", cope_positions=5), crossed=True)
    torch.nn.init.normal_(cope.table.weight)
    q, k = torch.randn(1, 1, 3, 8), torch.randn(1, 1, 9, 8)
    mask = torch.tensor([[True, True, False, True, True, True, True, False, False]])
    bias = cope.bias(q, k, mask, *places(3, 9))[0, 0]
    real = mask[0].nonzero()[:, 0].tolist()
    for i in range(3):
        for j in real:
            keys = [t for t in real if t <= j]
            assert bias[i, j].item() == pytest.approx(
                naive_cope(q[0, 0], k[0, 0], cope.table.weight, i, j, keys), abs=1e-4
            )


@pytest.mark.parametrize("length", [2, 7, 8, 21])
def test_pooling_equals_funnel_of_transformers(length):
    reference = FunnelAttentionStructure(FunnelConfig(separate_cls=True, truncate_seq=False, pooling_type="mean"))
    s = streams(length, padded=False)
    pooled = Pool.halve(s)
    torch.testing.assert_close(pooled.x_BND, reference.pool_tensor(s.x_BND))
    assert pooled.x_mask_BN is None
    assert pooled.x_pos_BN[0, 0] == 0
    assert pooled.x_BND.shape[1] == 1 + length // 2


def test_pooling_of_padded_texts_ignores_padding_and_keeps_the_odd_one():
    s = streams(9, padded=False)
    s = s.replace(x_mask_BN=torch.arange(9)[None] < torch.tensor([[9], [4]]))
    pooled = Pool.halve(s)
    found, positions = pooled.x_BND, pooled.x_pos_BN
    assert pooled.x_mask_BN.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    torch.testing.assert_close(found[1, 2], s.x_BND[1, 3])  # the third token's partner is padding
    torch.testing.assert_close(found[0, 2], s.x_BND[0, 3:5].mean(0))
    assert positions[0].tolist() == [0, 1.5, 3.5, 5.5, 7.5]
    assert positions[1, 2] == 3


@pytest.mark.parametrize("pools", [1, 2, 3])
@pytest.mark.parametrize("length", [2, 5, 16, 33])
def test_every_token_is_owned_by_the_concept_that_pooled_it(pools, length):
    config = small(layer_types=["pool"] * pools + ["think"], concept_source="pooled", decoder="upsample")
    source = SOURCES["pooled"]
    states = torch.eye(length)[None]  # pooling shows which tokens a concept is made of
    s = Streams(states, torch.arange(length)[None], None)
    for _ in range(pools):
        s = Pool.halve(s)
    owner, place = source.owner(config, torch.arange(length)[None])
    states = s.x_BND
    assert states.shape[1] == source.num_concepts(config, length)
    for token in range(length):
        assert states[0, owner[0, token], token] > 0
    assert place.max() < source.num_places(config)
    pairs = list(zip(owner[0].tolist(), place[0].tolist()))
    assert len(set(pairs)) == length


def test_hidden_tokens_keep_their_place_when_pooled():
    s = streams(9, padded=False)
    hidden = torch.zeros(2, 9, dtype=torch.bool)
    hidden[0, 3:5], hidden[1, 4] = True, True
    pooled = Pool.halve(s.replace(x_hidden_BN=hidden))
    assert pooled.x_pos_BN[0].tolist() == [0, 1.5, 3.5, 5.5, 7.5]
    assert pooled.x_hidden_BN[0].tolist() == [False, False, True, False, False]
    assert not pooled.x_hidden_BN[1].any()
    torch.testing.assert_close(pooled.x_BND[1, 2], s.x_BND[1, 3])  # the visible one of the pair
    assert (pooled.x_BND[0, 2] == 0).all()


def test_exchange_is_one_similarity_read_both_ways():
    move, s = MOVES["exchange"](small()).eval(), streams()
    attention = move.attention
    for weight in (attention.query.weight, attention.key_value.weight):
        torch.nn.init.normal_(weight, std=0.3)
    z, x = move.concept_norm(s.z_BCD), move.token_norm(s.x_BND)
    match_z, match_x, value_x = attention.project(z, attention.key_value(x), s.z_pos_BC, s.x_pos_BN)
    value_z = attention.split_heads(move.concept_value(z))
    similarity = match_z @ match_x.mT / 8**0.5
    seen = s.x_mask_BN[:, None, None]
    to_concepts = similarity.masked_fill(~seen, float("-inf")).softmax(-1) @ value_x
    to_tokens = similarity.mT.softmax(-1) @ value_z
    out = move(s)
    torch.testing.assert_close(
        out.z_BCD, s.z_BCD + attention.out(to_concepts.transpose(1, 2).flatten(2)), atol=1e-5, rtol=1e-5
    )
    tokens = s.x_BND + move.token_out(to_tokens.transpose(1, 2).flatten(2))
    torch.testing.assert_close(out.x_BND, tokens + move.feed_forward(tokens), atol=1e-5, rtol=1e-5)


def test_slots_compete_for_tokens():
    move, s = MOVES["slot"](small()).eval(), streams()
    torch.nn.init.normal_(move.attention.query.weight, std=0.5)
    torch.nn.init.normal_(move.attention.key_value.weight, std=0.5)
    recorded: list = []
    out = move(s.replace(attentions=recorded)).z_BCD
    weights = recorded[0][1]
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 6))
    assert (weights[1, :, :, 12:] == 0).all()
    q, k, v = move.attention.project(move.concept_norm(s.z_BCD), move.token_kv(s), s.z_pos_BC, s.x_pos_BN)
    share = (q @ k.mT / 8**0.5).softmax(dim=2) * s.x_mask_BN[:, None, None]
    naive = (share @ v) / share.sum(-1, keepdim=True)  # equations 1 and 2 of Slot Attention, without its epsilon
    torch.testing.assert_close(
        out, s.z_BCD + move.attention.out(naive.transpose(1, 2).flatten(2)), atol=1e-5, rtol=1e-5
    )


def test_slots_drop_attention_while_they_train():
    move, s = MOVES["slot"](small(attention_probs_dropout_prob=0.5)).eval(), streams()
    sure = move(s).z_BCD
    torch.testing.assert_close(move(s).z_BCD, sure)
    assert not torch.allclose(move.train()(s).z_BCD, sure)


def test_more_concepts_for_longer_texts():
    model = ConceptEncoderModel(small(layer_types="read think", decoder="query_position", concept_ratio=4))
    assert model(torch.randint(5, 320, (1, 9))).concepts.shape[1] == 3
    assert model(torch.randint(5, 320, (1, 40))).concepts.shape[1] == 10


def test_a_read_of_the_decoder_reads_for_itself():
    """The keys and values that the reads of the encoder share are not left behind for a `read` of the decoder."""
    layers = {"layer_types": "read think read", "decoder_layer_types": "read write"}
    model = ConceptEncoderForMaskedLM(small(**layers, num_concepts=4, decoder="query_input"))
    ids = torch.randint(5, SMALL["vocab_size"], (2, 12))
    model(ids, labels=ids).loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("preset", ["woven", "bert", "bixt", "perceiver_posonly_mlm"])
def test_a_text_hidden_whole_hears_nothing_of_its_padding(preset):
    """Nothing is left to attend to: every kernel must give zeros, not a mean over the padding."""
    fields = {**SMALL, "mask_token_id": 4}
    model = ConceptEncoderModel(preset_config(preset, 2, **fields, mask_free=True)).eval()
    ids = torch.full((1, 8), 4)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0]])
    for kernel in ("sdpa", "eager"):
        model.set_attn_implementation(kernel)
        alone, padded = model.encode(ids[:, :3]), model.encode(ids, mask)
        torch.testing.assert_close(padded.x_BND[:, :3], alone.x_BND, rtol=0, atol=1e-5)
        if alone.z_BCD is not None:
            torch.testing.assert_close(padded.heard_BCD[:, :1], alone.heard_BCD[:, :1], rtol=0, atol=1e-5)
