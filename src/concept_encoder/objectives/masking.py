"""Which tokens are hidden (`objective.masking`): the rows of a batch are cut into units that are hidden together.

Everything is NumPy over a whole batch at once, in the data loader. Shape suffixes: see `masking_units.py`; W words.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from transformers import PreTrainedTokenizerFast

from concept_encoder.model.registry import Registry
from concept_encoder.objectives.masking_ngrams import load_table
from concept_encoder.objectives.masking_units import MaskableText, hash_words, longest_matches, take_units, walk
from concept_encoder.objectives.masking_words import word_starts

if TYPE_CHECKING:
    from concept_encoder.objectives.masked_lm import ObjectiveConfig

MASKINGS = Registry("masking")
PLACE = "place"  # the key under which a row carries its place in the training stream: the seed of its mask


class Masking:
    """Chooses the tokens that the model must recover."""

    options: ClassVar[tuple[str, ...]] = ()  # fields of the objective that only it reads
    channels: ClassVar[int] = 1  # random numbers a token
    whole: ClassVar[bool] = False  # units are never cut, see `take_units`

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: "ObjectiveConfig"):
        pass

    def units(self, text: MaskableText) -> np.ndarray:
        """True for the first token of every unit `[M]`."""
        raise NotImplementedError

    def choose(self, text: MaskableText, budget_B: np.ndarray) -> np.ndarray:
        """Which tokens are hidden `[M]`: `budget_B` of each row, or all where there are fewer."""
        return take_units(text, self.units(text), budget_B, self.whole)


@MASKINGS.register("token")
class TokenMasking(Masking):
    """Single tokens, uniformly at random. Source: BERT, section 3.1 (arXiv:1810.04805)."""

    def units(self, text: MaskableText) -> np.ndarray:
        return np.ones(len(text.ids_M), dtype=bool)


class _WordMasking(Masking):
    """Knows where words begin; a row's first word may be the rest of one that the row before began."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: "ObjectiveConfig"):
        self.starts_V = word_starts(tokenizer)

    def words(self, text: MaskableText) -> np.ndarray:
        return text.begins_M | self.starts_V[text.ids_M]


@MASKINGS.register("whole_word")
class WholeWordMasking(_WordMasking):
    """Whole words. Source: BERT, whole-word masking (github.com/google-research/bert, May 2019)."""

    whole = True

    def units(self, text: MaskableText) -> np.ndarray:
        return self.words(text)


@MASKINGS.register("span")
class SpanMasking(Masking):
    """Spans of 3 to 10 tokens, every length equally likely. Source: MrCogito, plan 3.4.

    Texts are cut into spans from their first token on, and spans are taken until the budget is spent. Only the end of
    a text and the end of the budget cut a span.
    """

    channels = 2
    shortest, longest = 3, 10

    def units(self, text: MaskableText) -> np.ndarray:
        lengths_M = self.shortest + (text.draws_CM[1] * (self.longest - self.shortest + 1)).astype(np.int64)
        return walk(text.begins_M, lengths_M)


@MASKINGS.register("span_geometric")
class GeometricSpanMasking(_WordMasking):
    """Spans of 1 to 10 whole words, lengths geometric with p = 0.2: 3.8 in the mean.

    The end of the budget may cut the last word of a row's last span.

    Source: SpanBERT, section 3.1 (arXiv:1907.10529).
    """

    channels = 2
    p, longest = 0.2, 10

    def units(self, text: MaskableText) -> np.ndarray:
        first_W = np.flatnonzero(self.words(text))
        tail_W = text.draws_CM[1, first_W] * (1 - (1 - self.p) ** self.longest)
        lengths_W = 1 + (np.log1p(-tail_W) / np.log1p(-self.p)).astype(np.int64)
        units_M = np.zeros(len(text.ids_M), dtype=bool)
        units_M[first_W] = walk(text.begins_M[first_W], np.minimum(lengths_W, self.longest))
        return units_M


@MASKINGS.register("pmi")
class PMIMasking(_WordMasking):
    """Collocations of 2 to 5 words as units, other words whole; longer ones win, of equal ones that overlap either.

    `objective.ngrams` names the file of collocations, written by `concept-encoder data pmi`.

    Source: PMI-Masking, Levine et al., ICLR 2021 (arXiv:2010.01825).
    """

    options = ("ngrams",)
    channels = 2
    whole = True

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: "ObjectiveConfig"):
        super().__init__(tokenizer, config)
        self.table = load_table(config.ngrams, tokenizer)

    def units(self, text: MaskableText) -> np.ndarray:
        words_M = self.words(text)
        first_W = np.flatnonzero(words_M)
        found = self.table.find(hash_words(text.ids_M, words_M), text.begins_M[first_W])
        words_M[first_W] = longest_matches(found, text.draws_CM[1, first_W])
        return words_M
