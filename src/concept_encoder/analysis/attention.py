"""What a read attends to, as running sums over texts: the T x H x C x N weights are never kept.

Shapes: B texts of a batch, H heads, C concepts, N token positions (special tokens included).

**Position look-up or content look-up.** Take what a concept's attention a_t(n) (mean of heads) adds to
looking everywhere alike, d_t(n) = a_t(n) - 1/n_t. The part of its variance that is the same in every text
is a matter of position; what changes from text to text is a matter of content:

    position score = between / (between + within),   within  = mean over n of Var_t d_t(n),
                                                     between = mean over n of (mean_t d_t(n))^2 - within / T

The second term of `between` takes out what the mean over T texts keeps of `within`, so noise scores 0, not
1/T.
"""

import torch
from torch import Tensor

TEXTS_FOR_POSITION = 20  # fewer texts do not tell what stays the same from what changes
UNIFORM_ENTROPY = 0.99  # from here on a concept looks everywhere alike: neither position nor content


class ReadTally:
    """Running sums of one read's attention over texts; the first batch must be the largest."""

    def __init__(self, concepts: int, tokens: int):
        self.texts = 0
        self.count_CN = torch.zeros(concepts, tokens, dtype=torch.float64)
        self.attention_CN = torch.zeros_like(self.count_CN)
        self.excess_CN = torch.zeros_like(self.count_CN)
        self.excess_square_CN = torch.zeros_like(self.count_CN)
        self.seen_C = torch.zeros(concepts, dtype=torch.float64)
        self.entropy_C = torch.zeros_like(self.seen_C)
        self.special_C = torch.zeros_like(self.seen_C)
        self.sink = 0.0

    def update(self, a_BHCN: Tensor, mask_BC: Tensor, tokens_BN: Tensor, special_BN: Tensor) -> None:
        """Add one batch. `tokens_BN` is True at real tokens, `special_BN` at [CLS], [SEP] and the like."""
        length_B = tokens_BN.sum(1).double()
        real_B1N, exists_BC1 = tokens_BN[:, None].double(), mask_BC[..., None].double()
        entropy_BHC = torch.special.entr(a_BHCN.double()).sum(-1) / length_B.clamp_min(2).log()[:, None, None]
        a_BCN = a_BHCN.double().mean(1) * real_B1N * exists_BC1
        excess_BCN = (a_BCN - 1 / length_B[:, None, None]) * real_B1N * exists_BC1
        concepts, tokens = a_BCN.shape[1:]
        here = (slice(concepts), slice(tokens))
        self.texts += len(a_BCN)
        self.count_CN[here] += (real_B1N * exists_BC1).sum(0)
        self.attention_CN[here] += a_BCN.sum(0)
        self.excess_CN[here] += excess_BCN.sum(0)
        self.excess_square_CN[here] += excess_BCN.square().sum(0)
        self.seen_C[:concepts] += mask_BC.double().sum(0)
        self.entropy_C[:concepts] += (entropy_BHC.mean(1) * mask_BC).sum(0)
        self.special_C[:concepts] += (a_BCN * (special_BN & tokens_BN)[:, None]).sum((0, 2))
        self.sink += float((a_BCN.sum(1) / mask_BC.sum(1, keepdim=True).clamp_min(1)).amax(1).sum())

    def mean_map(self) -> Tensor:
        """Attention of each concept on each position, mean over the texts that have both [C, N]."""
        return self.attention_CN / self.count_CN.clamp_min(1)

    def entropy(self) -> Tensor:
        """Mean entropy of a head's attention as a share of ln n, the most there can be [C]."""
        return self.entropy_C / self.seen_C.clamp_min(1)

    def special_share(self) -> Tensor:
        """Share of the attention on special tokens [C]."""
        return self.special_C / self.seen_C.clamp_min(1)

    def sink_share(self) -> float:
        """Attention of all concepts on a text's most attended token, mean over texts."""
        return self.sink / max(self.texts, 1)

    def uniform(self) -> float:
        """The attention a token would get if all concepts looked everywhere alike."""
        return float(self.attention_CN.sum() / self.count_CN.sum().clamp_min(1))

    def position_score(self) -> Tensor:
        """1 for a pure position look-up, 0 for a pure content look-up [C]; NaN for too few texts, or no
        look-up at all.
        """
        known_CN = self.count_CN >= 2
        count_CN = self.count_CN.clamp_min(2)
        mean_CN = self.excess_CN / count_CN
        within_CN = (self.excess_square_CN - count_CN * mean_CN.square()).clamp_min(0) / (count_CN - 1)
        weight_CN = self.count_CN * known_CN
        between_C = (weight_CN * (mean_CN.square() - within_CN / count_CN)).sum(1).clamp_min(0)
        within_C = (weight_CN * within_CN).sum(1)
        score_C = between_C / (between_C + within_C)
        looks_C = (self.entropy() < UNIFORM_ENTROPY) & (self.seen_C >= TEXTS_FOR_POSITION)
        return score_C.masked_fill(~looks_C, torch.nan)

    def distance_profile(self, centre_C: Tensor | None = None, reach: int = 64) -> list[tuple[int, float]]:
        """Pairs (distance from a concept's own centre, mean attention there), all concepts together.

        The centre is the place that a concept owns; without one, the mean position of its average
        attention. A peak is a position look-up; a flat line means that where concepts look depends on the
        text, or that they look everywhere alike.
        """
        if centre_C is None:
            position_N, map_CN = torch.arange(self.count_CN.shape[1]), self.mean_map()
            centre_C = (map_CN * position_N).sum(1) / map_CN.sum(1).clamp_min(1e-12)
        position_N = torch.arange(self.count_CN.shape[1])
        distance_CN = (position_N - centre_C[:, None]).round().long()
        profile = []
        for distance in range(-reach, reach + 1):
            at_CN = (distance_CN == distance) & (self.count_CN > 0)
            weight = float(self.count_CN[at_CN].sum())
            if weight:
                profile.append((distance, float(self.attention_CN[at_CN].sum()) / weight))
        return profile


def attention_report(tally: ReadTally, centre_C: Tensor | None = None) -> dict:
    """One read's attention, JSON-able; `centre_C` are the places that concepts own, if they do."""
    score_C, entropy_C = tally.position_score(), tally.entropy()
    known_C = ~score_C.isnan()
    notes = []
    if tally.texts < TEXTS_FOR_POSITION:
        notes.append(f"position scores need at least {TEXTS_FOR_POSITION} texts, got {tally.texts}")
    return {
        "texts": tally.texts,
        "notes": notes,
        "entropy": _rounded(entropy_C),
        "mean_entropy": round(float(entropy_C[tally.seen_C > 0].mean()), 5),
        "position_score": _rounded(score_C),
        "position_lookups": int((score_C[known_C] >= 0.5).sum()),
        "content_lookups": int((score_C[known_C] < 0.5).sum()),
        "no_lookup": int((entropy_C[tally.seen_C > 0] >= UNIFORM_ENTROPY).sum()),
        "special_share": _rounded(tally.special_share()),
        "mean_special_share": round(float(tally.special_share()[tally.seen_C > 0].mean()), 5),
        "sink_share": round(tally.sink_share(), 5),
        "uniform": round(tally.uniform(), 6),
        "mean_map": [[float(f"{value:.4g}") for value in row] for row in tally.mean_map().tolist()],
        "distance_profile": [[distance, float(f"{value:.4g}")] for distance, value in tally.distance_profile(centre_C)],
    }


def _rounded(values: Tensor) -> list[float | None]:
    return [None if value != value else round(value, 5) for value in values.tolist()]
