"""How many directions the concepts use: effective rank, content rank, and their noise ceiling.

The primary figure is the effective rank of Roy & Vetterli (2007), "The effective rank": for singular values
s of one text's concepts, centred over the concepts,

    erank = exp(-sum_k p_k ln p_k),   p_k = s_k / sum_j s_j        (s, not s squared)

averaged over texts. It is read beside its **noise ceiling**, the value that isotropic Gaussian noise of the
same shape reaches: C concepts can never score C, because centring takes one direction and chance overlap
takes more. The **content rank** is the same after each slot's own mean over texts is taken out, so that
slots which say the same about every text score nothing.

Shapes: T texts, C concepts, D width, K = min(C, D) singular values. A mask is True where a concept exists.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

TEXTS_FOR_RANK = 1_000  # the definition asks for at least so many; fewer are averaged too, and noted
TEXTS_FOR_CONTENT = 10  # a slot's mean over fewer texts than this is mostly the text itself
TARGET_SHARE = 0.8  # MrCogito asks for "more than 80 % of the concepts"; here it is read against the noise ceiling
NEARLY_ONE_VECTOR = 0.95  # a text whose mean concept holds this share of its energy has next to nothing else

# A text whose centred states are this small beside the states themselves is rounding, not direction.
_ROUNDING = 1e-5
_CHUNK = 64


def full_mask(z_TCD: Tensor) -> Tensor:
    """A mask [T, C] that says every concept exists."""
    return torch.ones(z_TCD.shape[:2], dtype=torch.bool, device=z_TCD.device)


def slot_means(z_TCD: Tensor, mask_TC: Tensor) -> Tensor:
    """Each slot's mean over the texts in which it exists [C, D]; zero for a slot that never exists."""
    count_C = mask_TC.sum(0).clamp_min(1)
    return (z_TCD * mask_TC[..., None]).sum(0) / count_C[:, None]


def content(z_TCD: Tensor, mask_TC: Tensor | None = None) -> Tensor:
    """The states without each slot's own mean over texts [T, C, D]: what a slot says about *this* text."""
    mask_TC = full_mask(z_TCD) if mask_TC is None else mask_TC
    return (z_TCD - slot_means(z_TCD, mask_TC)) * mask_TC[..., None]


def centre_over_concepts(z_TCD: Tensor, mask_TC: Tensor) -> Tensor:
    """Take each text's mean concept out of its concepts; concepts that do not exist become zero rows."""
    weight_TC1 = mask_TC[..., None].to(z_TCD.dtype)
    mean_T1D = (z_TCD * weight_TC1).sum(1, keepdim=True) / weight_TC1.sum(1, keepdim=True).clamp_min(1)
    return (z_TCD - mean_T1D) * weight_TC1


def singular_values(m_BCD: Tensor) -> Tensor:
    """Singular values [B, K], largest first, in float64.

    From the eigenvalues of the smaller Gram matrix: ten times faster than an SVD, and what it loses (values
    below 1e-8 of the largest) is below the rounding of float32 states.
    """
    m_BCD = m_BCD.double()
    gram = m_BCD @ m_BCD.mT if m_BCD.shape[-2] <= m_BCD.shape[-1] else m_BCD.mT @ m_BCD
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().flip(-1)


def effective_rank(s_BK: Tensor) -> Tensor:
    """exp of the entropy of the singular values normalised to sum 1 (Roy & Vetterli 2007) [B].

    Known answers: k equal values give k; one value gives 1; no value above zero gives 0 (one and the same
    vector everywhere leaves nothing after centring).
    """
    total_B = s_BK.sum(-1)
    p_BK = s_BK / total_B[..., None].clamp_min(torch.finfo(s_BK.dtype).tiny)
    return torch.where(total_B > 0, torch.special.entr(p_BK).sum(-1).exp(), 0.0)


def ranks_per_text(
    z_TCD: Tensor, mask_TC: Tensor | None = None, *, scale_T: Tensor | None = None, centre: bool = True
) -> tuple[Tensor, Tensor]:
    """Effective rank of each text's own C x D matrix, and the mean normalised spectrum.

    Args:
        scale_T: the size below which a text's matrix counts as rounding is relative to this; the norm of the
            given states when absent. Content states pass the norm of the states they come from.
    Returns:
        rank_T: NaN for a text with fewer than two concepts.
        spectrum_K: s_k / sum(s), mean over the texts that have a rank.
    """
    mask_TC = full_mask(z_TCD) if mask_TC is None else mask_TC
    scale_T = state_norms(z_TCD, mask_TC) if scale_T is None else scale_T
    ranks, spectrum_K, counted = [], 0.0, 0
    for z_BCD, mask_BC, scale_B in zip(*(part.split(_CHUNK) for part in (z_TCD, mask_TC, scale_T))):
        m_BCD = centre_over_concepts(z_BCD.double(), mask_BC) if centre else z_BCD * mask_BC[..., None]
        s_BK = singular_values(m_BCD)
        s_BK = torch.where((s_BK.norm(dim=-1) > _ROUNDING * scale_B)[:, None], s_BK, 0.0)
        has_rank_B = mask_BC.sum(1) >= 2
        ranks.append(effective_rank(s_BK).masked_fill(~has_rank_B, torch.nan))
        p_BK = s_BK / s_BK.sum(-1, keepdim=True).clamp_min(torch.finfo(s_BK.dtype).tiny)
        spectrum_K = spectrum_K + p_BK[has_rank_B].sum(0)
        counted += int(has_rank_B.sum())
    return torch.cat(ranks), spectrum_K / max(counted, 1)


def state_norms(z_TCD: Tensor, mask_TC: Tensor) -> Tensor:
    """Frobenius norm of each text's existing concepts [T]."""
    return (z_TCD * mask_TC[..., None]).double().flatten(1).norm(dim=-1)


@lru_cache(maxsize=1024)
def noise_ceiling(concepts: int, width: int, draws: int = 16, seed: int = 0) -> tuple[float, tuple[float, ...]]:
    """Effective rank and spectrum of Gaussian noise [concepts, width], by the same definition."""
    generator = torch.Generator().manual_seed(seed)
    noise_BCD = torch.randn(draws, concepts, width, generator=generator)
    rank_B, spectrum_K = ranks_per_text(noise_BCD)
    return float(rank_B.mean()), tuple(spectrum_K.tolist())


def mean_noise_ceiling(count_T: Tensor, width: int, seed: int = 0) -> float:
    """The ceiling averaged over texts with their own numbers of concepts (two at least).

    The ceiling is smooth in the number of concepts, so twelve lengths are drawn and the rest interpolated.
    """
    counts = np.unique(count_T.numpy())
    if len(counts) > 12:
        counts = np.unique(np.linspace(counts[0], counts[-1], 12).round().astype(int))
    ceilings = [noise_ceiling(int(count), width, seed=seed)[0] for count in counts]
    return float(np.interp(count_T.numpy(), counts, ceilings).mean())


def sum_over_max(z_TCD: Tensor, mask_TC: Tensor | None = None) -> float:
    """sum(s) / max(s) of the batch-mean, *uncentred* C x D matrix: what MrCogito reports as effective rank
    ("5 of 128"; github.com/ksopyla/MrCogito).

    Kept for comparison only. One mean vector that all concepts share drives it to 1.6 on full-rank noise, and
    slots that ignore the text score high.
    """
    mask_TC = full_mask(z_TCD) if mask_TC is None else mask_TC
    s_K = singular_values(slot_means(z_TCD, mask_TC))
    return float(s_K.sum() / s_K[0]) if s_K[0] > 0 else 0.0


def common_share(z_TCD: Tensor, mask_TC: Tensor | None = None) -> float:
    """Share of a text's energy (sum of squares) that lies in its mean concept, averaged over texts.

    Near 1 all concepts of a text are almost one vector. Centring takes that vector out, and a rank says nothing
    of size: read the ranks of such a model as the ranks of what little is left.
    """
    mask_TC = full_mask(z_TCD) if mask_TC is None else mask_TC
    size_T = state_norms(z_TCD, mask_TC).square()
    rest_T = centre_over_concepts(z_TCD.double(), mask_TC).flatten(1).square().sum(1)
    return float((1 - rest_T / size_T.clamp_min(torch.finfo(torch.float64).tiny)).mean())


def rankme(z_TD: Tensor, *, centre: bool = False) -> float:
    """RankMe over texts (Garrido et al. 2023): effective rank of the T x D matrix, eps 1e-7 as published.

    It needs more texts than dimensions, or it counts the texts.
    """
    z_TD = z_TD.double() - z_TD.double().mean(0) if centre else z_TD.double()
    s_K = singular_values(z_TD)
    p_K = s_K / s_K.sum() + 1e-7
    return float(torch.exp(-(p_K * p_K.log()).sum()))


def variance_shares(z_TCD: Tensor, mask_TC: Tensor | None = None) -> dict[str, float]:
    """Where the variance about the grand mean lies; the three shares sum to 1.

    slot: fixed differences between concepts, the same in every text. text: what all concepts of a text share.
    interaction: what one concept says about one text and the others do not. `between_texts` = text +
    interaction.
    """
    mask_TC = full_mask(z_TCD) if mask_TC is None else mask_TC
    z_TCD = z_TCD.double() * mask_TC[..., None]
    grand_D = z_TCD.sum((0, 1)) / mask_TC.sum()
    content_TCD = content(z_TCD, mask_TC)
    total = ((z_TCD - grand_D) * mask_TC[..., None]).square().sum()
    inside = content_TCD.square().sum()
    interaction = centre_over_concepts(content_TCD, mask_TC).square().sum()
    if total <= _ROUNDING**2 * z_TCD.square().sum():
        return {"slot": 0.0, "text": 0.0, "interaction": 0.0, "between_texts": 0.0}
    return {
        "slot": float(1 - inside / total),
        "text": float((inside - interaction) / total),
        "interaction": float(interaction / total),
        "between_texts": float(inside / total),
    }


def rank_report(z_TCD: Tensor, mask_TC: Tensor | None = None, *, seed: int = 0) -> dict:
    """Every figure of this file, JSON-able; one that lacks texts is None and noted."""
    mask_TC = full_mask(z_TCD) if mask_TC is None else mask_TC
    texts, _, width = z_TCD.shape
    count_T, scale_T = mask_TC.sum(1), state_norms(z_TCD, mask_TC)
    rank_T, spectrum_K = ranks_per_text(z_TCD, mask_TC)
    measured_T = ~rank_T.isnan()
    notes: list[str] = []
    report: dict = {"texts": int(measured_T.sum()), "target_share": TARGET_SHARE, "notes": notes}
    if not measured_T.any():
        notes.append("effective rank needs texts with at least two concepts; none has")
        return report
    ceiling = mean_noise_ceiling(count_T[measured_T], width, seed)
    report |= {
        "effective_rank": _rounded(rank_T[measured_T].mean()),
        "effective_rank_spread": _rounded(rank_T[measured_T].std(correction=0)),
        "noise_ceiling": _rounded(ceiling),
        "share_of_ceiling": _rounded(rank_T[measured_T].mean() / ceiling),
        "concepts_per_text": _rounded(count_T.double().mean()),
        "effective_rank_uncentred": _rounded(ranks_per_text(z_TCD, mask_TC, centre=False)[0].nanmean()),
        "common_share": _rounded(common_share(z_TCD, mask_TC)),
        "sum_over_max": _rounded(sum_over_max(z_TCD, mask_TC)),
        "spectrum": _rounded(spectrum_K),
        "noise_spectrum": _rounded(torch.tensor(noise_ceiling(int(count_T.median()), width, seed=seed)[1])),
    }
    if report["common_share"] > NEARLY_ONE_VECTOR:
        share = f"{100 * (1 - common_share(z_TCD, mask_TC)):.1g} %"
        almost = f"a text's concepts are almost one vector: the ranks describe the {share} in which they differ"
        notes.append(f"{almost}, and meet no target")
    if int(measured_T.sum()) < TEXTS_FOR_RANK:
        got = int(measured_T.sum())
        notes.append(f"ranks are averaged over {got} texts; the definition asks for {TEXTS_FOR_RANK:,}")
    if texts < TEXTS_FOR_CONTENT:
        notes.append(f"content rank and variance shares need at least {TEXTS_FOR_CONTENT} texts, got {texts}")
        report |= {"content_rank": None, "content_share_of_ceiling": None, "variance": None}
    else:
        content_T, content_K = ranks_per_text(content(z_TCD, mask_TC), mask_TC, scale_T=scale_T)
        report |= {
            "content_rank": _rounded(content_T.nanmean()),
            "content_share_of_ceiling": _rounded(content_T.nanmean() / ceiling),
            "content_spectrum": _rounded(content_K),
            "variance": {name: round(share, 5) for name, share in variance_shares(z_TCD, mask_TC).items()},
        }
    return report | _rankme_over_texts(z_TCD, mask_TC, notes)


def _rankme_over_texts(z_TCD: Tensor, mask_TC: Tensor, notes: list[str]) -> dict:
    texts, _, width = z_TCD.shape
    if texts <= width:
        notes.append(f"RankMe over texts needs more texts than dimensions: at least {width + 1}, got {texts}")
        return {"rankme": None, "rankme_centred": None, "width": width}
    pooled_TD = (z_TCD * mask_TC[..., None]).sum(1) / mask_TC.sum(1, keepdim=True).clamp_min(1)
    centred = _rounded(rankme(pooled_TD, centre=True))
    return {"rankme": _rounded(rankme(pooled_TD)), "rankme_centred": centred, "width": width}


def _rounded(value):
    """Five decimals: enough to compare, few enough that the JSON stays readable."""
    if isinstance(value, Tensor) and value.ndim:
        return [round(float(item), 6) for item in value]
    return round(float(value), 5)
