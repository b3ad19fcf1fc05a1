"""What an encoder makes of texts, frozen: one vector a text, the mean of its concepts, decoded tokens or tokens.

Shapes: T texts, B texts of a batch, N tokens, D width.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from concept_encoder.errors import UserError
from concept_encoder.evaluation.controls import Control, intervention
from concept_encoder.evaluation.probes.pseudo_likelihood import TOKENS, Progress, length_of
from concept_encoder.model import ConceptEncoderModel
from concept_encoder.model.pooling import CLASSIFIER_HEADS, masked_mean
from concept_encoder.model.streams import Intervention

States = Literal["concepts", "decoded", "tokens"]


def states_of(model: PreTrainedModel) -> tuple[States, ...]:
    """What can be read from a model: `concepts`; `decoded`, the answers for each token; `tokens`, the token stream."""
    if not isinstance(model, ConceptEncoderModel):
        return ("tokens",)
    return ("concepts", "decoded", "tokens") if model.config.has_concepts else ("decoded",)


@torch.inference_mode()
def embed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    control: Control | None = None,
    progress: Progress | None = None,
) -> dict[States, np.ndarray]:
    """Vectors `[T, D]` of every kind of `states_of(model)`.

    Args:
        model: an encoder without head, one of ours or of `transformers`.
        max_length: longer texts are cut; None is what the model takes.
        control: the concepts taken from another text of like length ("shuffled"), or zero ("zeroed").

    Raises:
        UserError: a `max_length` beyond the model's, a control of a model without concepts or of a single text, or
            states that are not finite.
    """
    limit = length_of(tokenizer, model, max_length)
    unique = list(dict.fromkeys(texts))
    change = intervention(model, control, len(unique))
    encoded = tokenizer(unique, truncation=True, max_length=limit, split_special_tokens=True)
    lengths, rows = np.array([len(ids) for ids in encoded["input_ids"]]), {}
    anyhow = np.random.default_rng(0).permutation(len(unique))
    order = anyhow[np.argsort(lengths[anyhow], kind="stable")]
    parts = max(min(-(-int(lengths.sum()) // TOKENS), len(unique) // 2), 1)  # two texts at least: each hears the other
    for chosen in np.array_split(order, parts):
        batch = tokenizer.pad([{"input_ids": encoded["input_ids"][i]} for i in chosen], return_tensors="pt")
        pooled = _pooled(model.eval(), batch["input_ids"], batch["attention_mask"], change)
        rows |= zip(chosen.tolist(), zip(*(vectors_BD.float().cpu().numpy() for vectors_BD in pooled)))
        if progress:
            progress("reading texts", len(rows), len(unique))
    place = {text: i for i, text in enumerate(unique)}
    found = {name: np.stack([rows[place[text]][kind] for text in texts]) for kind, name in enumerate(states_of(model))}
    if not all(np.isfinite(vectors_TD).all() for vectors_TD in found.values()):
        raise UserError("states: some are not finite; has training diverged?")
    return found


def _pooled(model: PreTrainedModel, ids_BN: Tensor, mask_BN: Tensor, change: Intervention | None) -> list[Tensor]:
    """Vectors `[B, D]` of each kind of `states_of(model)`."""
    ids_BN, mask_BN = ids_BN.to(model.device), mask_BN.to(model.device)
    if not isinstance(model, ConceptEncoderModel):
        return [masked_mean(model(input_ids=ids_BN, attention_mask=mask_BN).last_hidden_state, mask_BN)]
    s = model.encode(ids_BN, mask_BN, intervention=change)
    ways = {
        "concepts": lambda: CLASSIFIER_HEADS["concept_pool"](model.config)(model, s),
        "decoded": lambda: CLASSIFIER_HEADS["via_decoder"](model.config)(model, s),
        "tokens": lambda: masked_mean(s.x_BND, s.x_mask_BN),
    }
    return [ways[name]() for name in states_of(model)]
