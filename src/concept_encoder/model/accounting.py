"""What a model costs, counted on the modules themselves without building weights (on torch's `meta` device)."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from concept_encoder.model.config import ConceptEncoderConfig
from concept_encoder.model.heads import ConceptEncoderForMaskedLM


@dataclass(frozen=True)
class Cost:
    """Cost of one pretraining step on one text.

    Attributes:
        length: N.
        concepts: C at that length; 0 without concepts.
        flops_per_token: of a forward pass, two a multiply-add; a step with backward costs about three times as many.
        encoder_flops_per_token: of these, without the decoder and the head.
        activation_bytes: what the forward pass keeps for the backward pass, fp32, one text; attention weights are
            not kept, as fused kernels keep none.
    """

    length: int
    concepts: int
    flops_per_token: float
    encoder_flops_per_token: float
    activation_bytes: int


def build_without_weights(config: ConceptEncoderConfig) -> ConceptEncoderForMaskedLM:
    """The model with shapes only: no memory, no time."""
    with torch.device("meta"):
        return ConceptEncoderForMaskedLM(copy.deepcopy(config))  # a model writes its kernel into its configuration


def parameters_by_part(model: ConceptEncoderForMaskedLM) -> dict[str, int]:
    """Parameters of the parts; each is counted once, and the parts sum to the whole."""
    base = model.model
    parts = {
        "word embeddings (tied with the head)": base.embeddings.word,
        "other embeddings": base.embeddings,
        "concept source": base.source,
        **{f"moves: {name}": moves for name, moves in _moves_by_name(model).items()},
        "decoder": base.decoder,
        "head": model.head,
    }
    seen: set[int] = set()
    counts = {}
    for part, module in parts.items():
        own = {id(parameter): parameter.numel() for parameter in module.parameters()}
        counts[part] = sum(count for key, count in own.items() if key not in seen)
        seen |= own.keys()
    assert sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    return {part: count for part, count in counts.items() if count}


def _moves_by_name(model: ConceptEncoderForMaskedLM) -> dict[str, nn.ModuleList]:
    names: dict[str, nn.ModuleList] = {}
    for move in model.model.groups.values():
        names.setdefault(move.name, nn.ModuleList()).append(move)
    return names


def cost(config: ConceptEncoderConfig, length: int, mask_rate: float = 0.15) -> Cost:
    """Count a forward pass on a text of `length` tokens, logits at `mask_rate` of them."""
    if length > config.max_position_embeddings:
        config = ConceptEncoderConfig(**{**config.to_dict(), "max_position_embeddings": length})
    model = build_without_weights(config)
    model.set_attn_implementation(_COUNTED)
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    hidden = max(round(mask_rate * length), 1)
    asked = torch.zeros(1, hidden, dtype=torch.long, device="meta")
    parameters = {id(parameter) for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor if tensor._base is None else tensor._base
        if id(storage) not in parameters:
            kept[id(storage)] = storage.numel() * storage.element_size()
            alive.append(storage)  # an id is unique only while its tensor lives
        return tensor

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoder = FlopCounterMode(display=False)
        with encoder:
            streams = model.model.encode(ids)
        rest = FlopCounterMode(display=False)
        with rest:
            model.head(model.model.decode(streams, asked))
    total = encoder.get_total_flops() + rest.get_total_flops()
    return Cost(
        length, config.concepts_at(length), total / length, encoder.get_total_flops() / length, sum(kept.values())
    )


class _CountedAttention(torch.autograd.Function):
    """A fused kernel as the counters should see it: two products, and only inputs and output kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attended = (query @ key.mT) @ value
        ctx.save_for_backward(query, key, value, attended)
        return attended


def _counted_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    return _CountedAttention.apply(query, key, value).transpose(1, 2), None


_COUNTED = "counted"  # on the meta device torch's own kernel falls apart into plain products that keep the weights
ALL_ATTENTION_FUNCTIONS.register(_COUNTED, _counted_attention)


def matched_layers(config: ConceptEncoderConfig, length: int, on: str = "compute") -> int:
    """The number of `bert` layers whose twin comes nearest to this model on `parameters` or `compute`."""
    from concept_encoder.model.presets import twin_config

    def size(candidate: ConceptEncoderConfig) -> float:
        if on == "parameters":
            return sum(parameter.numel() for parameter in build_without_weights(candidate).parameters())
        return cost(candidate, length).flops_per_token

    goal = size(config)
    one, two = (size(twin_config(config, layers)) for layers in (1, 2))
    return max(1, math.floor((goal - one) / (two - one) + 1.5))
