"""What the encoder sees of hidden tokens, and which tokens are asked (`objective.replacement`).

Shape suffixes: N tokens of a row, K asked ones, H hidden ones of the whole batch.
"""

from typing import ClassVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from concept_encoder.model import ConceptEncoderConfig
from concept_encoder.model.decoders import DECODERS
from concept_encoder.model.losses import IGNORE
from concept_encoder.model.moves import MOVES
from concept_encoder.model.registry import Registry

REPLACEMENTS = Registry("replacement")


class Replacement:
    """Puts other tokens in the place of the hidden ones, and asks for the hidden ones alone."""

    asks_all: ClassVar[bool] = False  # every token, hidden or not
    random: ClassVar[float] = 0.0  # share of hidden tokens that become a random word
    kept: ClassVar[float] = 0.0  # share that stays as it is; the rest becomes [MASK]

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.mask_id, self.pad_id = tokenizer.mask_token_id, tokenizer.pad_token_id
        self.vocabulary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)

    @classmethod
    def check(cls, config: ConceptEncoderConfig) -> None:
        """Refuse a model that cannot answer. Raises `ValueError`."""

    def encoder_input(
        self, ids_BN: np.ndarray, present_BN: np.ndarray, hidden_BN: np.ndarray, draws_2H: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the encoder reads in place of `ids_BN`, and which of it is no padding, `[B, N]` each.

        Args:
            present_BN: False for padding.
            draws_2H: uniform in [0, 1), two for each hidden token: what happens to it, and which random word.
        """
        ids_H = ids_BN[hidden_BN]
        words_H = self.vocabulary[(draws_2H[1] * len(self.vocabulary)).astype(np.int64)]
        kept_H = np.where(draws_2H[0] < self.random + self.kept, ids_H, self.mask_id)
        read_BN = ids_BN.copy()
        read_BN[hidden_BN] = np.where(draws_2H[0] < self.random, words_H, kept_H)
        return read_BN, present_BN


@REPLACEMENTS.register("80-10-10")
class EightyTenTen(Replacement):
    """80 % become [MASK], 10 % a random word, 10 % stay. Source: BERT, section 3.1 (arXiv:1810.04805)."""

    random, kept = 0.1, 0.1


@REPLACEMENTS.register("mask")
class AlwaysMask(Replacement):
    """All become [MASK]: found no worse. Source: Wettig et al. 2023 (arXiv:2202.08005)."""


@REPLACEMENTS.register("delete")
class Delete(Replacement):
    """Hidden tokens are removed and the rest moves together; the decoder answers every token of the original.

    The encoder reads a shorter text, padded to the old length so that shapes stay the same. Only decoders that ask
    with a position alone can answer for tokens that are not there. The paper deletes 60 %.

    Source: TSDAE (arXiv:2104.06979).
    """

    asks_all = True

    @classmethod
    def check(cls, config: ConceptEncoderConfig) -> None:
        decoder = DECODERS[config.decoder]
        mixing = next((name for name in config.decoder_layer_types if not MOVES[name].pointwise), None)
        if not decoder.strict or decoder.needs_owned_positions:
            raise ValueError(
                f"replacement: 'delete' removes tokens that decoder {config.decoder!r} would start from; use the "
                "decoder query_position (or weighted), or replacement mask"
            )
        if mixing is not None:
            raise ValueError(
                f"replacement: 'delete' removes tokens, and {mixing!r} in model.decoder_layer_types would mix those "
                "that are left; use write alone"
            )

    def encoder_input(
        self, ids_BN: np.ndarray, present_BN: np.ndarray, hidden_BN: np.ndarray, draws_2H: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        left_BN = present_BN & ~hidden_BN
        read_BN = np.full_like(ids_BN, self.pad_id)
        moved_BN = np.arange(ids_BN.shape[1]) < left_BN.sum(1)[:, None]
        read_BN[moved_BN] = ids_BN[left_BN]
        return read_BN, moved_BN


def asked_tokens(ids_BN: np.ndarray, asked_BN: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and their indices, `[B, most]` each; labels -100 where a row asks fewer."""
    rows, index = np.nonzero(asked_BN)
    count_B = asked_BN.sum(1)
    place = np.arange(len(rows)) - (np.cumsum(count_B) - count_B)[rows]
    labels_BK = np.full((len(ids_BN), most), IGNORE, dtype=np.int64)
    index_BK = np.zeros((len(ids_BN), most), dtype=np.int64)
    labels_BK[rows, place] = ids_BN[rows, index]
    index_BK[rows, place] = index
    return labels_BK, index_BK
