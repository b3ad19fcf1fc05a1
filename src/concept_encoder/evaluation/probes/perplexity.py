"""Pseudo-perplexity: how well a masked language model guesses each token of texts, per token, word and byte.

Source: Salazar et al. 2020 (arXiv:1910.14659), section 3.1.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from concept_encoder.errors import UserError
from concept_encoder.evaluation.probes.pseudo_likelihood import Likelihood, Progress, different, pseudo_log_likelihoods
from concept_encoder.model.interventions import controls_of


def pseudo_perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Pseudo-perplexity of texts (JSON-able), beside guessing by frequency and beside the controls.

    `per_token` depends on the tokenizer; `per_word` (of whitespace) and `bits_per_byte` can be compared across
    tokenizers that share few unknown tokens (`unknown`, their share). Words of several tokens look likely, as the rest
    of the word stays in sight (Kauf & Ivanova 2023, arXiv:2305.10588). `unigram` guesses each token by its
    frequency in these very texts, which no model that ignores the context can beat.

    Args:
        max_length: texts are cut there; each costs as many passes as it has tokens.
    """
    how = {"max_length": max_length, "progress": progress}
    scored = pseudo_log_likelihoods(model, tokenizer, texts, **how)
    if not any(found.tokens for found in scored):
        raise UserError("texts: hold no token to ask for; give a file or folder that holds some")
    ids = [id for found in scored for id in found.ids]
    counts = np.array(list(Counter(ids).values()))
    unigram = float((counts * np.log(counts / len(ids))).sum())
    report = {
        "texts": len(texts),
        "cut": sum(bool(text[found.characters :].strip()) for text, found in zip(texts, scored)),
        "tokens": len(ids),
        "unknown": ids.count(tokenizer.unk_token_id) / len(ids),
        **_per(sum(found.log for found in scored), texts, scored),
        "unigram": _per(unigram, texts, scored),
    }
    for control in controls_of(model, different(scored)):
        changed = pseudo_log_likelihoods(model, tokenizer, texts, control=control, **how)
        report[control] = _per(sum(found.log for found in changed), texts, scored)
    return report


def _per(log: float, texts: Sequence[str], scored: Sequence[Likelihood]) -> dict[str, float]:
    read = [text[: found.characters] for text, found in zip(texts, scored)]
    words, size = sum(len(text.split()) for text in read), sum(len(text.encode()) for text in read)
    return {
        "per_token": float(np.exp(-log / sum(len(found.ids) for found in scored))),
        "per_word": float(np.exp(-log / words)),
        "bits_per_byte": float(-log / np.log(2) / size),
    }
