"""Where words begin, for every family of tokenizers, as a table over the vocabulary."""

import hashlib
import json

import numpy as np
from transformers import PreTrainedTokenizerFast

_BYTE_SPACES = ("Ġ", "Ċ", "ĉ", "č", "ċ", "Č")  # space, \n, \t, \r, \v, \f as byte-level BPE writes them
_METASPACE = "▁"


def word_starts(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """True for the tokens that begin a word `[V]`.

    - WordPiece: a token without `##`; punctuation is a word of its own (BERT's whole-word masking).
    - Byte-level BPE: a token that begins with a space (`Ġ`), as in RoBERTa; punctuation stays with the word it touches.
    - Unigram and BPE of SentencePiece: a token that begins with `▁`, with punctuation as above.

    A word at the start of a text needs no mark: nothing comes before it.

    Raises:
        ValueError: no token of the vocabulary has such a mark.
    """
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    if pipeline["model"]["type"] == "WordPiece":
        prefix = pipeline["model"]["continuing_subword_prefix"]
        return np.array([not token.startswith(prefix) for token in tokens])
    byte_level = "ByteLevel" in json.dumps([pipeline["pre_tokenizer"], pipeline["decoder"]])
    starts_V = np.array([token.startswith(_BYTE_SPACES if byte_level else _METASPACE) for token in tokens])
    if not starts_V.any():
        raise ValueError("masking: this tokenizer does not mark where words begin; use 'token' or 'span'")
    return starts_V


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """16 hexadecimal digits that change when any token or its number changes."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return hashlib.blake2b(json.dumps(tokens).encode(), digest_size=8).hexdigest()
