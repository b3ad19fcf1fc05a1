"""Masked language modelling: the recipe's `objective` section, and the collator that hides tokens.

Labels travel as `[B, K]` with their indices, K fixed by the masking budget: the graph is static, and the largest
product of the model is computed for asked tokens only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from concept_encoder.errors import UserError
from concept_encoder.model import ConceptEncoderConfig
from concept_encoder.model.losses import IGNORE
from concept_encoder.objectives.concept_losses import CONCEPT_LOSSES
from concept_encoder.objectives.masking import MASKINGS, PLACE
from concept_encoder.objectives.masking_replacement import REPLACEMENTS, asked_tokens
from concept_encoder.objectives.masking_units import MaskableText
from concept_encoder.objectives.weighting import WEIGHTINGS


@dataclass(frozen=True)
class ObjectiveConfig:
    """The recipe's section `objective`.

    Attributes:
        masking: which tokens are hidden, see `objectives/masking.py`.
        mask_rate: share of the maskable tokens of a row that are hidden, exactly.
        mask_rate_end: the share at the end of training, when it changes; `mask_rate` is where it starts.
        mask_rate_schedule: how it changes over the examples of the run.
        ngrams: with `pmi`, the file that `concept-encoder data pmi` has written.
        replacement: what the encoder sees of hidden tokens, see `objectives/masking_replacement.py`.
        eval_masking, eval_mask_rate: how held-out rows are masked, so that runs with different maskings can be
            compared; None is as in training (at its end).
        concept_loss: a loss on the concepts beside the masked-LM loss, see `objectives/concept_losses.py`; None for
            none.
        loss_weighting: how the two add up, see `objectives/weighting.py`.
        concept_loss_weight: of the concept loss, against 1 for the masked-LM loss.
        rank_target: with `constraint`, the effective rank below which the concept loss acts, as a share of the most
            that a text's concepts can reach.
        task_share_floor: the least share of the gradient at the last concepts that the masked-LM loss should hold, in
            the mean of 100 steps, unless the share is still rising; 0 turns the guard off.
        on_low_task_share: what happens below the floor.
    """

    masking: str = "token"
    mask_rate: float = 0.15
    mask_rate_end: float | None = None
    mask_rate_schedule: Literal["linear", "cosine"] = "linear"
    ngrams: Path | None = None
    replacement: str = "80-10-10"
    eval_masking: str | None = None
    eval_mask_rate: float | None = None
    concept_loss: str | None = None
    loss_weighting: str = "fixed"
    concept_loss_weight: float = 0.1
    rank_target: float = 0.5
    task_share_floor: float = 0.4
    on_low_task_share: Literal["warn", "stop"] = "warn"

    def __post_init__(self) -> None:
        self._check_masking()
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

    def _check_masking(self) -> None:
        maskings = [MASKINGS.member("masking", self.masking)]
        if self.eval_masking is not None:
            maskings.append(MASKINGS.member("eval_masking", self.eval_masking))
        REPLACEMENTS.member("replacement", self.replacement)
        for name in ("mask_rate", "mask_rate_end", "eval_mask_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < 1:
                raise ValueError(f"{name}: {rate} is not between 0 and 1; BERT uses 0.15")
        reader = next((masking.name for masking in maskings if "ngrams" in masking.options), None)
        if reader and self.ngrams is None:
            raise ValueError(f"ngrams: {reader!r} needs a file of n-grams; concept-encoder data pmi RECIPE makes it")
        if reader and not self.ngrams.is_file():
            raise ValueError(f"ngrams: there is no file {self.ngrams}; concept-encoder data pmi RECIPE makes it")
        if self.ngrams is not None and not reader:
            raise ValueError(f"ngrams: {self.masking!r} masking reads no n-grams; leave it out, or use 'pmi'")

    @property
    def asked_share(self) -> float:
        """The largest share of tokens that has labels: it sets K."""
        if REPLACEMENTS[self.replacement].asks_all:
            return 1.0
        return max(self.mask_rate, self.mask_rate_end or 0.0)

    def rate_at(self, progress: float) -> float:
        """The share that is hidden when this share of the run's examples has been read."""
        if self.mask_rate_end is None:
            return self.mask_rate
        done = progress if self.mask_rate_schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return self.mask_rate + done * (self.mask_rate_end - self.mask_rate)

    def for_evaluation(self) -> "ObjectiveConfig":
        """How held-out rows are masked."""
        masking = self.eval_masking or self.masking
        rate = self.eval_mask_rate or self.mask_rate_end or self.mask_rate
        ngrams = self.ngrams if "ngrams" in MASKINGS[masking].options else None
        return replace(
            self,
            masking=masking,
            mask_rate=rate,
            ngrams=ngrams,
            mask_rate_end=None,
            eval_masking=None,
            eval_mask_rate=None,
        )

    def check_model(self, config: ConceptEncoderConfig) -> None:
        """Refuse a model that cannot do this. Raises `UserError`."""
        try:
            REPLACEMENTS[self.replacement].check(config)
        except ValueError as error:
            raise UserError(f"objective.{error}") from None


class MaskedLMCollator:
    """Hides tokens of each row and pads the batch.

    Args:
        tokenizer: gives the special tokens and pads.
        config: the objective.
        seed: with the row's place in the stream it decides the mask, whatever process or worker draws it.
        num_examples: of the whole run; needed where the rate changes.

    Returns from a call:
        `input_ids` `[B, N]`, `labels` and `label_index` `[B, K]` (labels -100 where a row has fewer than K), and
        `attention_mask` `[B, N]` only when some row is padded.

    Raises:
        UserError: the masking cannot be had with this tokenizer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: ObjectiveConfig, seed: int, num_examples: int | None = None
    ):
        assert config.mask_rate_end is None or num_examples, "a rate that changes needs the length of the run"
        self.tokenizer, self.config, self.seed, self.num_examples = tokenizer, config, seed, num_examples
        try:
            self.masking = MASKINGS[config.masking](tokenizer, config)
        except ValueError as error:
            raise UserError(f"objective.{error}") from None
        self.replacement = REPLACEMENTS[config.replacement](tokenizer)
        self.special_V = np.isin(np.arange(len(tokenizer)), tokenizer.all_special_ids)
        self.random = _RowRandom(seed)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        length_B = np.array([len(row["input_ids"]) for row in rows])
        length = int(length_B.max())
        present_BN = np.arange(length) < length_B[:, None]
        ids_BN = np.full(present_BN.shape, self.tokenizer.pad_token_id, dtype=np.int64)
        ids_BN[present_BN] = np.concatenate([row["input_ids"] for row in rows])
        maskable_BN = present_BN & ~self.special_V[ids_BN]
        hidden_BN, draws_2H = self._hide(ids_BN, maskable_BN, [row[PLACE] for row in rows])
        read_BN, left_BN = self.replacement.encoder_input(ids_BN, present_BN, hidden_BN, draws_2H)
        asked_BN = maskable_BN if self.replacement.asks_all else hidden_BN
        labels_BK, index_BK = asked_tokens(ids_BN, asked_BN, max(round(self.config.asked_share * length), 1))
        batch = {"input_ids": read_BN, "labels": labels_BK, "label_index": index_BK}
        if not left_BN.all():
            batch["attention_mask"] = left_BN.astype(np.int64)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _hide(self, ids_BN: np.ndarray, maskable_BN: np.ndarray, places: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """The hidden tokens `[B, N]`, and two random numbers for each of them `[2, H]`."""
        count_B = maskable_BN.sum(1)
        rate_B = np.array([self.config.rate_at(place / (self.num_examples or 1)) for place in places])
        budget_B = np.maximum(np.round(rate_B * count_B), 1).astype(np.int64)
        draws_CM, draws_2R = self._draw(places, count_B, budget_B)
        before_BN = np.zeros_like(maskable_BN)
        before_BN[:, 1:] = maskable_BN[:, :-1]
        row_M = np.repeat(np.arange(len(places)), count_B)
        text = MaskableText(ids_BN[maskable_BN], row_M, ~before_BN[maskable_BN], draws_CM)
        hidden_BN = np.zeros_like(maskable_BN)
        hidden_BN[maskable_BN] = self.masking.choose(text, budget_B)
        unused_B = budget_B - hidden_BN.sum(1)
        if unused_B.any():  # whole words that reach less than the budget
            place_R = np.arange(budget_B.sum()) - np.repeat(np.cumsum(budget_B) - budget_B, budget_B)
            draws_2R = draws_2R[:, place_R < np.repeat(budget_B - unused_B, budget_B)]
        return hidden_BN, draws_2R

    def _draw(self, places: list[int], count_B: np.ndarray, budget_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Random numbers for the masking `[C, M]` and for the tokens of the budget `[2, R]`.

        A row draws for its own tokens only, in one call: what it is padded to, or beside, changes nothing.
        """
        channels, m, r = self.masking.channels, 0, 0
        draws_CM, draws_2R = np.empty((channels, count_B.sum())), np.empty((2, budget_B.sum()))
        for place, count, budget in zip(places, count_B.tolist(), budget_B.tolist()):
            drawn = self.random.draw(place, channels * count + 2 * budget)
            draws_CM[:, m : m + count] = drawn[: channels * count].reshape(channels, count)
            draws_2R[:, r : r + budget] = drawn[channels * count :].reshape(2, budget)
            m, r = m + count, r + budget
        return draws_CM, draws_2R


class _RowRandom:
    """Random numbers that follow from the seed and a row's place alone.

    Philox is a function of a key and a counter (Salmon et al. 2011), so a row costs no more than setting its key.
    """

    def __init__(self, seed: int):
        self.seed, self.bits = seed, np.random.Philox(key=0)
        self.generator, self.state = np.random.Generator(self.bits), self.bits.state

    def draw(self, place: int, count: int) -> np.ndarray:
        """`count` numbers, uniform in [0, 1)."""
        self.state["state"]["key"][:] = self.seed, place
        self.bits.state = self.state
        return self.generator.random(count)


def unigram_loss(counts_V: np.ndarray, rows: Sequence[dict[str, Any]], collator: MaskedLMCollator) -> float:
    """The held-out loss of always answering with the training frequencies (add-one smoothed): the lowest bar."""
    surprise_V = np.log(counts_V.sum() + len(counts_V)) - np.log(counts_V + 1)
    labels = [collator([row])["labels"] for row in rows]
    asked = torch.cat([label[label != IGNORE] for label in labels]).numpy()
    return float(surprise_V[asked].mean())
