"""Do concepts say different things, and do they use the width they have?

Two correlations between concepts c and c', both Pearson over all (text, dimension) numbers:

* **raw**: of the states as they are. A vector that all concepts share counts as agreement. This is the one
  the target (mean below 0.3) speaks of.
* **content**: after each slot's own mean over texts is taken out: do the two change together from text to
  text?

Shapes: T texts, C concepts, D width. A mask is True where a concept exists.
"""

import torch
from torch import Tensor

from concept_encoder.analysis.rank import TEXTS_FOR_CONTENT, content, full_mask

TARGET_MEAN = 0.3  # MrCogito (github.com/ksopyla/MrCogito): "mean correlation < 0.3 is good"
DUPLICATE = 0.95  # |r| from here on: the second concept adds less than a tenth of its variance
DEAD_SHARE = 1e-3  # a concept is dead when its variance over texts is below this share of the states' mean square
VARIANCE_FLOOR = 0.01  # a dimension is in use when its variance is above this share of the mean variance
_CHUNK = 64


def correlation(z_TCD: Tensor, mask_TC: Tensor | None = None) -> Tensor:
    """Pearson correlation between concepts over all texts and dimensions [C, C].

    Pairs are compared on the texts where both exist; NaN where these are fewer than 10 (of fewer than 10 in all:
    fewer than all), as long texts alone have the last concepts, or where a concept never varies.
    """
    mask_TC = full_mask(z_TCD) if mask_TC is None else mask_TC
    mask_TC1 = mask_TC[..., None].double()
    mean_C = (z_TCD.double() * mask_TC1).sum((0, 2)) / (mask_TC1.sum((0, 2)) * z_TCD.shape[-1]).clamp_min(1)
    concepts = z_TCD.shape[1]
    product_CC = torch.zeros(concepts, concepts, dtype=torch.float64)
    square_CC = torch.zeros_like(product_CC)  # [c, c']: energy of c on the texts where c' exists too
    size_C = torch.zeros(concepts, dtype=torch.float64)
    for z_BCD, mask_BC in zip(z_TCD.split(_CHUNK), mask_TC.split(_CHUNK)):
        x_BCD = (z_BCD.double() - mean_C[:, None]) * mask_BC[..., None]
        x_CX = x_BCD.transpose(0, 1).flatten(1)
        product_CC += x_CX @ x_CX.T
        square_CC += x_BCD.square().sum(-1).T @ mask_BC.double()
        size_C += (z_BCD.double().square().sum(-1) * mask_BC).sum(0)
    scale_CC = (square_CC * square_CC.T).sqrt()
    # What is left of a constant concept after centring is rounding: it has no correlation, rather than a random one.
    varies_C = square_CC.diagonal() > 1e-10 * size_C
    enough_CC = mask_TC.double().T @ mask_TC.double() >= min(TEXTS_FOR_CONTENT, len(z_TCD))
    known_CC = (scale_CC > 0) & varies_C[:, None] & varies_C & enough_CC
    r_CC = product_CC / scale_CC.clamp_min(torch.finfo(torch.float64).tiny)
    return r_CC.clamp(-1, 1).masked_fill(~known_CC, torch.nan)


def off_diagonal(r_CC: Tensor) -> Tensor:
    """The known values above the diagonal, flat."""
    upper = r_CC[torch.triu(torch.ones_like(r_CC, dtype=torch.bool), diagonal=1)]
    return upper[~upper.isnan()]


def duplicates(r_CC: Tensor, threshold: float = DUPLICATE) -> list[tuple[int, int, float]]:
    """Pairs (c, c', r) with |r| >= threshold, the closest first. An opposite says the same."""
    rows, columns = torch.nonzero(torch.triu(r_CC.nan_to_num().abs() >= threshold, diagonal=1), as_tuple=True)
    pairs = [(int(a), int(b), round(float(r_CC[a, b]), 4)) for a, b in zip(rows, columns)]
    return sorted(pairs, key=lambda pair: (-abs(pair[2]), pair[:2]))


def variance_over_texts(z_TCD: Tensor, mask_TC: Tensor | None = None) -> Tensor:
    """How much each concept changes from text to text, as a share of the mean square of all states [C]."""
    mask_TC = full_mask(z_TCD) if mask_TC is None else mask_TC
    weight_TC = mask_TC.double()
    change_C = content(z_TCD.double(), mask_TC).square().mean(-1).sum(0) / weight_TC.sum(0).clamp_min(1)
    size = (z_TCD.double().square().mean(-1) * weight_TC).sum() / weight_TC.sum()
    return change_C / size.clamp_min(torch.finfo(torch.float64).tiny)


def dead_concepts(z_TCD: Tensor, mask_TC: Tensor | None = None) -> list[int]:
    """Concepts that exist but say the same about every text (variance share below 0.1 %)."""
    mask_TC = full_mask(z_TCD) if mask_TC is None else mask_TC
    dead_C = (variance_over_texts(z_TCD, mask_TC) < DEAD_SHARE) & (mask_TC.sum(0) >= 2)
    return torch.nonzero(dead_C).flatten().tolist()


def overlap_report(z_TCD: Tensor, mask_TC: Tensor | None = None) -> dict:
    """Correlation between concepts, raw and content, with duplicates and dead concepts; JSON-able."""
    mask_TC = full_mask(z_TCD) if mask_TC is None else mask_TC
    report: dict = {"target_mean": TARGET_MEAN, "notes": []}
    report["raw"] = _correlation_summary(correlation(z_TCD, mask_TC))
    report["absent"] = torch.nonzero(~mask_TC.any(0)).flatten().tolist()
    if z_TCD.shape[0] < TEXTS_FOR_CONTENT:
        report |= {"content": None, "dead": None, "variance_over_texts": None}
        need = f"need at least {TEXTS_FOR_CONTENT} texts, got {z_TCD.shape[0]}"
        report["notes"].append(f"content correlation and dead concepts {need}")
        return report
    report["dead"] = dead_concepts(z_TCD, mask_TC)
    content_CC = correlation(content(z_TCD, mask_TC), mask_TC)
    content_CC[report["dead"]] = torch.nan  # what a dead concept has left is rounding
    content_CC[:, report["dead"]] = torch.nan
    report["content"] = _correlation_summary(content_CC)
    if report["content"]["mean_absolute"] is None:
        report["notes"].append("content correlation needs two concepts that change from text to text")
    report["variance_over_texts"] = [round(v, 6) for v in variance_over_texts(z_TCD, mask_TC).tolist()]
    return report


def _correlation_summary(r_CC: Tensor) -> dict:
    size_X, pairs = off_diagonal(r_CC).abs(), duplicates(r_CC)
    known = len(size_X) > 0
    return {
        "mean_absolute": round(float(size_X.mean()), 5) if known else None,
        "max_absolute": round(float(size_X.max()), 5) if known else None,
        "duplicate_pairs": len(pairs),
        "duplicates": [list(pair) for pair in pairs[:10]],
        "duplicated_concepts": len({pair[1] for pair in pairs}),
        "matrix": [[None if value != value else round(value, 4) for value in row] for row in r_CC.tolist()],
    }


def dimension_use(z_TCD: Tensor, mask_TC: Tensor | None = None) -> dict:
    """What share of the D dimensions carries information, over all concepts of all texts; JSON-able.

    participation_ratio: (sum l)^2 / sum l^2 of the eigenvalues l of the D x D covariance: D for isotropic
    states, 1 for states on a line. `share_above_floor` counts axis dimensions with more than 1 % of the mean
    variance. `directions_for_90` / `_99`: how many principal directions hold that share of the variance.
    """
    mask_TC = full_mask(z_TCD) if mask_TC is None else mask_TC
    width, samples = z_TCD.shape[-1], int(mask_TC.sum())
    covariance_DD = _covariance(z_TCD, mask_TC)
    variance_D = covariance_DD.diagonal()
    values_D = torch.linalg.eigvalsh(covariance_DD).clamp_min(0).flip(0)
    total = values_D.sum()
    report = {"width": width, "samples": samples, "variance_floor": VARIANCE_FLOOR, "notes": []}
    if samples <= width:
        need = f"{width + 1} at least, got {samples}"
        report["notes"].append(f"dimension use needs more states than dimensions: {need}")
    if total <= 0:
        return report | dict.fromkeys(("participation_ratio", "share_above_floor", "spectrum"), None)
    cumulative_D = values_D.cumsum(0) / total
    in_use_D = variance_D > VARIANCE_FLOOR * variance_D.mean()
    return report | {
        "participation_ratio": round(float(total**2 / values_D.square().sum()), 5),
        "share_above_floor": round(float(in_use_D.double().mean()), 5),
        "directions_for_90": int((cumulative_D < 0.90).sum()) + 1,
        "directions_for_99": int((cumulative_D < 0.99).sum()) + 1,
        "largest_dimension_share": round(float(variance_D.max() / variance_D.sum()), 5),
        "spectrum": [float(f"{value:.5g}") for value in (values_D / total).tolist()],
    }


def _covariance(z_TCD: Tensor, mask_TC: Tensor) -> Tensor:
    """Covariance [D, D] of all existing states about their grand mean."""
    width, samples = z_TCD.shape[-1], mask_TC.sum().clamp_min(1)
    mean_D = (z_TCD.double() * mask_TC[..., None]).sum((0, 1)) / samples
    covariance_DD = torch.zeros(width, width, dtype=torch.float64)
    for z_BCD, mask_BC in zip(z_TCD.split(_CHUNK), mask_TC.split(_CHUNK)):
        x_XD = (z_BCD.double() - mean_D)[mask_BC]
        covariance_DD += x_XD.T @ x_XD
    return covariance_DD / samples
