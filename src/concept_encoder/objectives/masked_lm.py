"""Masked language modelling: the recipe's `objective` section, and the collator that hides tokens.

Labels travel as `[B, K]` with their indices, K fixed by the masking budget: the graph is static, and the largest
product of the model is
computed for hidden tokens only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from concept_encoder.model.losses import IGNORE
from concept_encoder.objectives.concept_losses import CONCEPT_LOSSES
from concept_encoder.objectives.masking import MASKINGS, PLACE, replace_tokens
from concept_encoder.objectives.weighting import WEIGHTINGS

REPLACEMENTS = {"80-10-10": (0.1, 0.1), "mask": (0.0, 0.0)}


@dataclass(frozen=True)
class ObjectiveConfig:
    """The recipe's section `objective`.

    Attributes:
        masking: which tokens are hidden, see `objectives/masking.py`.
        mask_rate: share of the maskable tokens of a row that are hidden, exactly.
        replacement: `80-10-10` (BERT: [MASK], random, kept) or `mask` (always [MASK]; arXiv:2202.08005 finds it no
            worse).
        concept_loss: a loss on the concepts beside the masked-LM loss, see `objectives/concept_losses.py`; None for
            none.
        loss_weighting: how the two add up, see `objectives/weighting.py`.
        concept_loss_weight: of the concept loss, against 1 for the masked-LM loss.
        rank_target: with `constraint`, the effective rank below which the concept loss acts, as a share of the most
            that a text's concepts can reach.
        task_share_floor: the least share of the gradient at the concepts that the masked-LM loss should hold, in the
            mean of the last steps; 0 turns the guard off.
        on_low_task_share: what happens below the floor.
    """

    masking: str = "token"
    mask_rate: float = 0.15
    replacement: Literal["80-10-10", "mask"] = "80-10-10"
    concept_loss: str | None = None
    loss_weighting: str = "fixed"
    concept_loss_weight: float = 0.1
    rank_target: float = 0.5
    task_share_floor: float = 0.1
    on_low_task_share: Literal["warn", "stop"] = "warn"

    def __post_init__(self) -> None:
        MASKINGS.member("masking", self.masking)
        if not 0 < self.mask_rate < 1:
            raise ValueError(f"mask_rate: {self.mask_rate} is not between 0 and 1; BERT uses 0.15")
        weighting = WEIGHTINGS.member("loss_weighting", self.loss_weighting)
        if self.concept_loss is not None:
            loss = CONCEPT_LOSSES.member("concept_loss", self.concept_loss)
            if weighting.needs_nonnegative and not loss.nonnegative:
                raise ValueError(
                    f"loss_weighting: {weighting.name!r} needs a loss that is never negative, {loss.name!r} can be; "
                    "use 'fixed' or 'constraint'"
                )
        if not 0 < self.concept_loss_weight < math.inf:
            raise ValueError(f"concept_loss_weight: {self.concept_loss_weight} is not positive; 0.1 is a start")
        if not 0 < self.rank_target <= 1:
            raise ValueError(f"rank_target: {self.rank_target} is not a share above 0 and at most 1; 0.5 is a start")
        if not 0 <= self.task_share_floor < 1:
            raise ValueError(f"task_share_floor: {self.task_share_floor} is not a share below 1; 0 turns the guard off")


class MaskedLMCollator:
    """Hides tokens of each row and pads the batch.

    Args:
        tokenizer: gives the special tokens and pads.
        config: the objective.
        seed: with the row's place in the stream it decides the mask, whatever process or worker draws it.

    Returns from a call:
        `input_ids` `[B, N]`, `labels` and `label_index` `[B, K]` (labels -100 where a row has fewer than K), and
        `attention_mask` `[B, N]` only when some row is padded.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: ObjectiveConfig, seed: int):
        self.tokenizer, self.config, self.seed = tokenizer, config, seed
        self.masking = MASKINGS[config.masking]()
        self.special = np.asarray(sorted(tokenizer.all_special_ids))
        self.vocabulary = np.setdiff1d(np.arange(len(tokenizer)), self.special)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = [len(row["input_ids"]) for row in rows]
        length = max(lengths)
        input_ids_BN = np.full((len(rows), length), self.tokenizer.pad_token_id, dtype=np.int64)
        most = max(round(self.config.mask_rate * length), 1)
        labels_BK = np.full((len(rows), most), IGNORE, dtype=np.int64)
        index_BK = np.zeros((len(rows), most), dtype=np.int64)
        for i, row in enumerate(rows):
            hidden_N, index = self._hide(np.asarray(row["input_ids"], dtype=np.int64), row[PLACE])
            input_ids_BN[i, : lengths[i]] = hidden_N
            labels_BK[i, : len(index)] = np.asarray(row["input_ids"])[index]
            index_BK[i, : len(index)] = index
        batch = {"input_ids": input_ids_BN, "labels": labels_BK, "label_index": index_BK}
        if min(lengths) < length:
            batch["attention_mask"] = (np.arange(length) < np.asarray(lengths)[:, None]).astype(np.int64)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _hide(self, ids_N: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, place))
        maskable_N = ~np.isin(ids_N, self.special)
        budget = max(round(self.config.mask_rate * int(maskable_N.sum())), 1)
        index_K = self.masking.choose(maskable_N, budget, rng)
        hidden_N = ids_N.copy()
        policy = REPLACEMENTS[self.config.replacement]
        hidden_N[index_K] = replace_tokens(ids_N[index_K], policy, self.tokenizer.mask_token_id, self.vocabulary, rng)
        return hidden_N, index_K


def unigram_loss(counts_V: np.ndarray, rows: Sequence[dict[str, Any]], collator: MaskedLMCollator) -> float:
    """The held-out loss of always answering with the training frequencies (add-one smoothed): the lowest bar."""
    surprise_V = np.log(counts_V.sum() + len(counts_V)) - np.log(counts_V + 1)
    labels = [collator([row])["labels"] for row in rows]
    asked = torch.cat([label[label != IGNORE] for label in labels]).numpy()
    return float(surprise_V[asked].mean())
