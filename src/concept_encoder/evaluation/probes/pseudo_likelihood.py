"""Pseudo-log-likelihood: how likely a masked language model finds a text, each of its tokens hidden in turn.

Source: Salazar et al. 2020, "Masked Language Model Scoring" (arXiv:1910.14659), equation 2.

Shapes: S texts of a batch, N tokens, K tokens of a text that are hidden in turn, P of these in a batch, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from concept_encoder.data.tokenizer import longest_text
from concept_encoder.errors import UserError
from concept_encoder.evaluation.controls import Control, intervention
from concept_encoder.model import ConceptEncoderForMaskedLM
from concept_encoder.model.streams import Intervention

Progress = Callable[[str, int, int], None]  # what is being done, how much is done, of how much

TOKENS = 8192  # of a batch, by default: more is no faster on a CPU


@dataclass(frozen=True)
class Likelihood:
    """How likely one text is.

    Attributes:
        log: the sum of log p over the tokens, in nats.
        ids: the tokens that were asked; special tokens never are.
        characters: the text up to here was read; less than the whole text when it was cut.
    """

    log: float
    ids: tuple[int, ...]
    characters: int

    @property
    def tokens(self) -> int:
        return len(self.ids)


def different(scored: Sequence[Likelihood]) -> int:
    """How many different texts these are, to the tokenizer; those without a token do not count."""
    return len({each.ids for each in scored if each.ids})


def pseudo_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    control: Control | None = None,
    tokens_at_once: int = TOKENS,
    progress: Progress | None = None,
) -> list[Likelihood]:
    """The likelihood of each text, which depends on no other text of the list (to 1e-5).

    Texts of one length are batched together, so that hardly anything is padded; equal texts get equal numbers.

    Args:
        model: one of ours, or of `transformers`, with a masked-LM head.
        max_length: texts are cut there, special tokens included; None is what the model takes.
        control: give tokens the concepts of another text of like length ("shuffled"), or zeros ("zeroed").

    Raises:
        UserError: a tokenizer without a mask token, a `max_length` beyond the model's, a control of a model without
            concepts or of a single text, or probabilities that are not finite.
    """
    if tokenizer.mask_token_id is None:
        raise UserError("tokenizer: has no mask token; a masked language model is asked with one")
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=length_of(tokenizer, model, max_length),
        split_special_tokens=True,  # "[SEP]" written in a text is plain text
        return_special_tokens_mask=True,
        return_offsets_mapping=True,
    )
    rows = [tuple(ids) for ids in encoded["input_ids"]]
    asked = {ids: np.flatnonzero(np.array(special) == 0) for ids, special in zip(rows, encoded["special_tokens_mask"])}
    open_ones = {ids: places for ids, places in asked.items() if len(places)}
    change = intervention(model, control, len(open_ones))
    logs = _scores(model.eval(), open_ones, tokenizer, change, tokens_at_once, progress)
    ends = [max((end for _, end in offsets), default=0) for offsets in encoded["offset_mapping"]]
    return [
        Likelihood(logs.get(ids, 0.0), tuple(ids[place] for place in asked[ids]), end) for ids, end in zip(rows, ends)
    ]


def length_of(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, asked: int | None) -> int:
    """Tokens at which texts are cut: what was asked for, or what the model takes. Raises `UserError` for more."""
    limit = longest_text(tokenizer, model.config)
    if asked is not None and asked > limit:
        raise UserError(f"max_length: {asked} is more than the model's {limit}; use at most that")
    return asked or limit


@torch.inference_mode()
def _scores(
    model: PreTrainedModel,
    asked: dict[tuple[int, ...], np.ndarray],
    tokenizer: PreTrainedTokenizerBase,
    change: Intervention | None,
    tokens_at_once: int,
    progress: Progress | None,
) -> dict[tuple[int, ...], float]:
    """Log-likelihoods by token ids; `asked` says which tokens of each are hidden in turn."""
    rows, logs = list(asked), {}
    for chosen in _groups([len(ids) for ids in rows], tokens_at_once):
        texts = [rows[i] for i in chosen]
        found_S = _chunk(model, texts, [asked[ids] for ids in texts], tokenizer, change, tokens_at_once)
        logs |= zip(texts, found_S.tolist())
        if progress:
            progress("hiding each token in turn", len(logs), len(rows))
    if bad := next((ids for ids, log in logs.items() if not np.isfinite(log)), None):
        text = tokenizer.decode(bad, skip_special_tokens=True)
        raise UserError(f"log-likelihood of {text[:60]!r} is {logs[bad]}; has training diverged?")
    return logs


def _groups(lengths: Sequence[int], tokens_at_once: int) -> Iterator[np.ndarray]:
    """Texts of one length, in random order (the same every time); one of a length of its own joins the next.

    So there are two at least, and a shuffled text has another to hear.
    """
    anyhow = np.random.default_rng(0).permutation(len(lengths))
    order = anyhow[np.argsort(np.array(lengths)[anyhow], kind="stable")]
    sorted_lengths = np.array(lengths)[order]
    groups: list[np.ndarray] = []
    for length in np.unique(sorted_lengths):
        group = order[sorted_lengths == length]
        if groups and (len(groups[-1]) == 1 or (len(group) == 1 and length == sorted_lengths[-1])):
            groups[-1] = np.concatenate([groups[-1], group])
        else:
            groups.append(group)
    for group in groups:
        most = max(tokens_at_once // max(lengths[i] for i in group), 2)
        yield from np.array_split(group, max(min(-(-len(group) // most), len(group) // 2), 1))


def _chunk(
    model: PreTrainedModel,
    texts: Sequence[tuple[int, ...]],
    places: Sequence[np.ndarray],
    tokenizer: PreTrainedTokenizerBase,
    change: Intervention | None,
    tokens_at_once: int,
) -> np.ndarray:
    """Log-likelihoods `[S]`. A batch holds some places of every text, all texts side by side for each place.

    So the next row is another text, from which `shuffled` takes the concepts. A text with fewer places than another is
    asked some of them again and not counted.
    """
    device, most = model.device, max(map(len, places))
    ids_SN = _padded(texts, tokenizer.pad_token_id or 0).to(device)
    mask_SN = _padded([[1] * len(ids) for ids in texts], 0).to(device)
    places_SK = torch.from_numpy(np.stack([np.resize(own, most) for own in places])).to(device)
    counts_SK = torch.arange(most) < torch.tensor([[len(own)] for own in places])
    whole = bool(mask_SN.all())
    total_S = torch.zeros(len(texts), dtype=torch.float64)
    step = max(tokens_at_once // ids_SN.numel(), 1)
    for start in range(0, most, step):
        place_PS = places_SK[:, start : start + step].T
        ids_PSN = ids_SN.expand(len(place_PS), -1, -1).clone()
        answer_PS1 = ids_PSN.gather(2, place_PS[..., None])
        ids_PSN.scatter_(2, place_PS[..., None], tokenizer.mask_token_id)
        mask_PSN = None if whole else mask_SN.expand_as(ids_PSN).flatten(0, 1)
        logits_PSV = _logits_at(model, ids_PSN.flatten(0, 1), mask_PSN, place_PS.reshape(-1, 1), change)
        logits_PSV = logits_PSV.float().view(*place_PS.shape, -1)
        log_PS = logits_PSV.gather(2, answer_PS1)[..., 0] - logits_PSV.logsumexp(-1)
        total_S += torch.where(counts_SK[:, start : start + step].T, log_PS.double().cpu(), 0.0).sum(0)
    return total_S.numpy()


def _logits_at(
    model: PreTrainedModel, ids_BN: Tensor, mask_BN: Tensor | None, place_B1: Tensor, change: Intervention | None
) -> Tensor:
    """Logits `[B, V]` at one token of each row."""
    if isinstance(model, ConceptEncoderForMaskedLM):
        return model(ids_BN, mask_BN, label_index=place_B1, concept_intervention=change).logits[:, 0]
    mask_BN = torch.ones_like(ids_BN) if mask_BN is None else mask_BN
    logits_BNV = model(input_ids=ids_BN, attention_mask=mask_BN).logits
    return logits_BNV[torch.arange(len(ids_BN), device=ids_BN.device), place_B1[:, 0]]


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.long)
