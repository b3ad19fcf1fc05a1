"""What `describe` counts, against formulas written out by hand."""

import copy

import pytest
import torch

from concept_encoder.model import PRESETS, ConceptEncoderForMaskedLM, preset_config, twin_config
from concept_encoder.model.accounting import build_without_weights, cost, matched_layers, parameters_by_part

D, F, V, N, C, H, L, R = 64, 256, 1000, 96, 24, 4, 6, 4
FIELDS = {"vocab_size": V, "hidden_size": D, "num_attention_heads": H, "max_position_embeddings": N, "local_window": 16}


def config_of(preset: str):
    learned = PRESETS[preset].options["concept_source"] == "learned"
    return preset_config(preset, L, **FIELDS, **({"num_concepts": C} if learned else {}))


def test_parameters_are_those_of_the_formula():
    attention, feed_forward = 4 * D * D, 2 * D * F + D
    mix, read, think, write = (attention + D + feed_forward, attention + 2 * D, attention + D + feed_forward,
                               attention + 2 * D + feed_forward)  # fmt: skip
    embeddings, head = V * D + N * D + 2 * D + D, D * D + D + V
    expected = {
        "bert": embeddings + L * mix + D + head,
        "perceiver_mlm": embeddings + C * D + L * (read + think) + (N * D + D + write + D) + head,
        "recursive": embeddings + C * D + (read + think) + (N * D + D + write + D) + head,
        "woven": embeddings - N * D + D + L // 2 * (mix + read + think + write) + D + head,
    }
    for preset, count in expected.items():
        parts = parameters_by_part(build_without_weights(config_of(preset)))
        assert sum(parts.values()) == count, preset


def test_flops_are_those_of_the_formula():
    hidden = round(0.15 * N)
    head = 2 * hidden * D * (D + V)
    think = 2 * C * (4 * D * D + 2 * D * F) + 4 * C * C * D
    read = 2 * (2 * C * D * D + 2 * N * D * D) + 4 * C * N * D
    answer = 2 * (2 * hidden * D * D + 2 * C * D * D + hidden * 2 * D * F) + 4 * hidden * C * D
    bert = L * (2 * N * (4 * D * D + 2 * D * F) + 4 * N * N * D)
    assert cost(config_of("bert"), N).flops_per_token == pytest.approx((bert + head) / N)
    found = cost(config_of("perceiver_mlm"), N)
    assert found.encoder_flops_per_token == pytest.approx(L * (read + think) / N)
    assert found.flops_per_token == pytest.approx((L * (read + think) + answer + head) / N)


@pytest.mark.parametrize("preset", [name for name, p in PRESETS.items() if p.options["concept_source"] == "learned"])
def test_cost_is_linear_in_the_length_with_a_fixed_number_of_concepts(preset):
    config = config_of(preset)
    one, two = (cost(config, length).flops_per_token for length in (2048, 4096))
    assert two <= one * 1.01


@pytest.mark.parametrize("preset", ["woven", "perceiver_mlm", "anchored"])
@pytest.mark.parametrize("on", ["compute", "parameters"])
def test_the_twin_is_matched(preset, on):
    """One layer more or less is farther from the goal."""

    def size(config) -> float:
        if on == "compute":
            return cost(config, N).flops_per_token
        return sum(parameters_by_part(build_without_weights(config)).values())

    config = config_of(preset)
    layers = matched_layers(config, N, on)
    below, at, above = (abs(size(twin_config(config, n)) - size(config)) for n in range(layers - 1, layers + 2))
    assert at < below
    assert at < above


def test_the_twin_of_bert_is_itself():
    assert matched_layers(config_of("bert"), N, "compute") == L
    assert matched_layers(config_of("bert"), N, "parameters") == L


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_activations_are_what_autograd_keeps(preset):
    """Against the tensors that a real forward pass hands to autograd, with torch's own fused kernel."""
    config = config_of(preset)
    model = ConceptEncoderForMaskedLM(copy.deepcopy(config))
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    ids = torch.randint(5, V, (1, N))
    asked = torch.arange(round(0.15 * N))[None]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.head(model.model.decode(model.model.encode(ids), asked))
    real = sum(storage.nbytes() for storage in kept.values())
    assert cost(config, N).activation_bytes == pytest.approx(real, rel=0.1)
