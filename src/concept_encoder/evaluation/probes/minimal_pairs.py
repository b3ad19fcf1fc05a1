"""Does a model find the acceptable sentence of a minimal pair more likely? BLiMP, and pairs of your own.

Source: Warstadt et al. 2020, "BLiMP: The Benchmark of Linguistic Minimal Pairs for English" (arXiv:1912.00582).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from concept_encoder.data.tasks.minimal_pairs import Pair
from concept_encoder.evaluation.controls import Control
from concept_encoder.evaluation.probes.pseudo_likelihood import Likelihood, Progress, different, pseudo_log_likelihoods
from concept_encoder.model.interventions import controls_of

CHANCE = 0.5
TIE = 1e-4  # nats; differences of this size come from the order of summation, and a tie is wrong


def score_minimal_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    paradigms: Mapping[str, Sequence[Pair]],
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Accuracy: the share of pairs whose good sentence has the higher pseudo-log-likelihood; a tie is wrong.

    Returns (JSON-able) `accuracy`, the mean over paradigms, with its `standard_error` over pairs, beside `chance`; the
    same of each of `paradigms`, with its `ties`; how many sentences were `cut` to the model's length; and the accuracy
    after the concepts were `shuffled` between sentences and `zeroed`.
    """
    # all paradigms at once: more sentences of each length, fuller batches
    sentences = [sentence for pairs in paradigms.values() for pair in pairs for sentence in pair]

    def scored(control: Control | None) -> list[Likelihood]:
        return pseudo_log_likelihoods(model, tokenizer, sentences, control=control, progress=progress)

    plain = scored(None)
    found = _accuracies(paradigms, plain)
    found["cut"] = sum(bool(text[each.characters :].strip()) for text, each in zip(sentences, plain))
    for control in controls_of(model, different(plain)):
        changed = _accuracies(paradigms, scored(control))
        found[control] = {name: changed[name] for name in ("accuracy", "standard_error", "ties")}
    return found


def _accuracies(paradigms: Mapping[str, Sequence[Pair]], scored: Sequence[Likelihood]) -> dict[str, Any]:
    ahead = np.array([good.log - bad.log for good, bad in zip(scored[::2], scored[1::2])])
    parts = np.split(ahead, np.cumsum([len(pairs) for pairs in paradigms.values()])[:-1])
    each = {name: _accuracy(part) for name, part in zip(paradigms, parts)}
    errors = np.array([found["standard_error"] for found in each.values()])
    return {
        "accuracy": float(np.mean([found["accuracy"] for found in each.values()])),
        "standard_error": float(np.sqrt((errors**2).sum()) / len(errors)),
        "chance": CHANCE,
        "pairs": len(ahead),
        "ties": sum(found["ties"] for found in each.values()),
        "paradigms": each,
    }


def _accuracy(ahead: np.ndarray) -> dict[str, Any]:
    share = float((ahead > TIE).mean())
    return {
        "accuracy": share,
        "standard_error": float(np.sqrt(share * (1 - share) / len(ahead))),
        "pairs": len(ahead),
        "ties": int((np.abs(ahead) <= TIE).sum()),
    }
