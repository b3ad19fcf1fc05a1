"""Which tokens are hidden, and by what (`objective.masking`, `objective.replacement`). NumPy, in the data loader.

Shape suffixes: N tokens of a row, K hidden ones.
"""

import numpy as np

from concept_encoder.model.registry import Registry

MASKINGS = Registry("masking")
PLACE = "place"  # the key under which a row carries its place in the training stream: the seed of its mask


class Masking:
    """Chooses the tokens of one row that the model must recover."""

    def choose(self, maskable_N: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
        """Exactly `budget` indices of maskable tokens (all of them when there are fewer), sorted."""
        raise NotImplementedError


@MASKINGS.register("token")
class TokenMasking(Masking):
    """Single tokens, uniformly at random. Source: BERT, section 3.1 (arXiv:1810.04805)."""

    def choose(self, maskable_N: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
        candidates = np.flatnonzero(maskable_N)
        return np.sort(rng.choice(candidates, min(budget, len(candidates)), replace=False))


def replace_tokens(
    ids_K: np.ndarray, policy: tuple[float, float], mask_id: int, vocabulary: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """What the encoder sees instead of the hidden tokens.

    Args:
        ids_K: the hidden tokens.
        policy: the shares that are replaced by a random word and that are kept; the rest becomes [MASK].
        vocabulary: the ids a random word may have (no special tokens).
    """
    share_random, share_kept = policy
    draw_K = rng.random(len(ids_K))
    words_K = rng.choice(vocabulary, len(ids_K))
    return np.where(draw_K < share_random, words_K, np.where(draw_K < share_random + share_kept, ids_K, mask_id))
