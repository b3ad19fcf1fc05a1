"""What a tokenizer makes of texts: into how many tokens it cuts them, and what it does not know."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from concept_encoder.data.encoding import encoder, plain_tokenizer
from concept_encoder.data.tokenizer import padded_vocab_size
from concept_encoder.errors import UserError


@dataclass(frozen=True)
class Fertility:
    """A tokenizer on some texts.

    Attributes:
        vocabulary: entries, specials included.
        embedding_rows: the same, rounded up to a multiple of 64, as a model has them.
        tokens_per_word: tokens by words between white space (Rust et al., 2021, arXiv:2012.15613); 1 is the least.
        bytes_per_token: UTF-8 bytes of text by tokens; more is a shorter input.
        unk_share: share of tokens that stand for text the vocabulary cannot spell.
        used_share: share of the vocabulary, specials aside, that occurs.
    """

    vocabulary: int
    embedding_rows: int
    tokens_per_word: float
    bytes_per_token: float
    unk_share: float
    used_share: float


def fertility(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Fertility:
    """Tokenise `texts` and count. Raises `UserError` when they hold no word."""
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    words = size = 0
    with encoder(plain_tokenizer(tokenizer)) as encode:
        for _, text, ids in encode((False, text) for text in texts):
            counts += np.bincount(ids, minlength=len(counts))
            words += len(text.split())
            size += len(text.encode())
    if not words or not counts.sum():
        raise UserError("texts: hold no word to measure a tokenizer on; give some sentences")
    unknown = 0 if tokenizer.unk_token_id is None else counts[tokenizer.unk_token_id]
    ordinary = np.setdiff1d(np.arange(len(counts)), tokenizer.all_special_ids)
    return Fertility(
        vocabulary=len(tokenizer),
        embedding_rows=padded_vocab_size(tokenizer),
        tokens_per_word=float(counts.sum() / words),
        bytes_per_token=float(size / counts.sum()),
        unk_share=float(unknown / counts.sum()),
        used_share=float((counts[ordinary] > 0).mean()),
    )
