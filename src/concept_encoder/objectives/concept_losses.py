"""Losses on the concepts themselves (`objective.concept_loss`): they keep concepts from saying the same thing.

Every loss maps concept states as they leave the encoder, `z_BCD`, and `mask_BC` (True for concepts that exist; None:
all do) to a number. Whatever stands at concepts that do not exist counts for nothing. Computed in fp32, also under
autocast.

Two kinds. Losses over *pairs* compare the concepts of one text and average over texts: splitting a batch changes
nothing. Losses over *dimensions* take every concept of every text as one sample: their statistics are those of the
micro-batch, as with every loss of their family, so `training.micro_batch_size` is part of what they mean.

Shape suffixes: see `model/streams.py`; S samples (existing concepts of a batch).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from concept_encoder.model.registry import Registry

CONCEPT_LOSSES = Registry("concept loss")

_SMALL = 1e-8  # under square roots: keeps the gradient finite at a zero vector and between equal concepts
_VARIANCE_EPS = 1e-4  # VICReg's


class ConceptLoss:
    """Maps concepts to a number to be minimised. A member fills in `loss`."""

    nonnegative = True  # what learned weightings need: the logarithm of a loss must exist

    def __call__(self, z_BCD: Tensor, mask_BC: Tensor | None = None) -> Tensor:
        with torch.autocast(z_BCD.device.type, enabled=False):
            if mask_BC is None:
                mask_BC = torch.ones(z_BCD.shape[:2], dtype=torch.bool, device=z_BCD.device)
            z_BCD = z_BCD if z_BCD.dtype == torch.float64 else z_BCD.float()
            return self.loss(z_BCD.masked_fill(~mask_BC[..., None], 0.0), mask_BC)

    def loss(self, z_BCD: Tensor, mask_BC: Tensor) -> Tensor:
        """The loss of fp32 (or fp64) states that are zero where `mask_BC` is False."""
        raise NotImplementedError


@CONCEPT_LOSSES.register("orthogonality")
class Orthogonality(ConceptLoss):
    """Mean squared cosine between the concepts of a text. Source: soft orthogonality, Bansal et al. 2018
    (arXiv:1810.09102), on unit vectors and averaged over pairs.

    Formula: mean over texts of  1 / (n (n - 1)) sum_{i != j} cos(z_i, z_j)^2

    Range: 0 (orthogonal) to 1 (all on one line). n > D concepts reach no less than (n - D) / (D (n - 1)).

    Requirements: two concepts a text; a text with one counts for nothing.
    Inputs: `z_BCD` of any scale (cosines ignore it), `mask_BC`.
    Relations: looks at angles only, where `vicreg` also asks for size; does not centre, so a mean vector shared by
        all concepts is punished too.

    Example:
        >>> Orthogonality()(torch.eye(4)[None]).item()
        0.0
    """

    def loss(self, z_BCD: Tensor, mask_BC: Tensor) -> Tensor:
        cos_BCC = _unit(z_BCD) @ _unit(z_BCD).mT
        return _mean_over_texts(_pairs_mean(cos_BCC.square(), mask_BC), _count(mask_BC) >= 2)


@CONCEPT_LOSSES.register("vicreg")
class VICReg(ConceptLoss):
    """Every dimension varies, and no two vary together. Source: Bardes et al. 2022 (arXiv:2105.04906, equations 1 to
    4), without the invariance term: there is no second view.

    Formula: v + c / 25,  v = 1/D sum_j max(0, 1 - sqrt(Var_j + 1e-4)),  c = 1/D sum_{i != j} Cov_ij^2,
        over all existing concepts of the batch: the paper's weights 25 : 1, divided by 25.

    Range: 0 (unit variance, no covariance) and up; 0.99 when all concepts are equal.

    Requirements: many more concepts in a micro-batch than one; covariances of S samples carry noise of order D / S.
    Inputs: `z_BCD` at its own scale: the loss asks for a standard deviation of 1; `mask_BC`.
    Relations: `decorrelation` is the same without scale; `combined` shares v.

    Example:
        >>> round(VICReg()(torch.ones(2, 4, 8)).item(), 2)
        0.99
    """

    def loss(self, z_BCD: Tensor, mask_BC: Tensor) -> Tensor:
        cov_DD = _covariance(z_BCD, mask_BC)
        return _variance_hinge(cov_DD.diagonal()) + _off_diagonal(cov_DD).square().sum() / len(cov_DD) / 25


@CONCEPT_LOSSES.register("combined")
class Combined(ConceptLoss):
    """Every dimension varies, and concepts repel each other. Source: github.com/ksopyla/MrCogito: VICReg's variance
    term (arXiv:2105.04906, equation 1) plus the Gaussian potential of Wang & Isola (arXiv:2005.10242), no logarithm.

    Formula: 1/D sum_j max(0, 1 - sqrt(Var_j + 1e-4))  +  mean over texts of  mean_{i != j} exp(-2 |u_i - u_j|^2),
        u = z / |z|

    Range: 0 to 2; 1.99 when all concepts are equal, exp(-4) = 0.018 for orthogonal ones of unit variance.

    Requirements: two concepts a text for the potential.
    Inputs: `z_BCD` at its own scale, `mask_BC`.
    Relations: `vicreg` has v as well, `uniformity` is the logarithm of the second term. Comes so close to 0 that a
        learned weight (Kendall & Gal) runs away with it: see `weighting.py`.

    Example:
        >>> round(Combined()(torch.ones(2, 4, 8)).item(), 2)
        1.99
    """

    def loss(self, z_BCD: Tensor, mask_BC: Tensor) -> Tensor:
        potential = _mean_over_texts(_gaussian_potential(z_BCD, mask_BC), _count(mask_BC) >= 2)
        return _variance_hinge(_covariance(z_BCD, mask_BC).diagonal()) + potential


@CONCEPT_LOSSES.register("decorrelation")
class Decorrelation(ConceptLoss):
    """Dimensions are alive and uncorrelated, whatever their scale. Source: Barlow Twins, Zbontar et al. 2021
    (arXiv:2103.03230, equations 1 and 2), of a batch with itself, sums as means.

    Formula: mean_i (1 - R_ii)^2 + mean_{i != j} R_ij^2,  R_ij = Cov_ij / sqrt((Var_i + e) (Var_j + e)),  e = 1e-4,
        over all existing concepts of the batch. R_ii is 1 for a living dimension and 0 for a dead one.

    Range: 0 (uncorrelated) to 1 (all dimensions equal, or all dead, as when all concepts are equal).

    Requirements: as `vicreg`.
    Inputs: `z_BCD`, `mask_BC`.
    Relations: `vicreg` asks for unit variance, this only for more than e.

    Example:
        >>> Decorrelation()(torch.ones(2, 4, 8)).item()
        1.0
    """

    def loss(self, z_BCD: Tensor, mask_BC: Tensor) -> Tensor:
        cov_DD = _covariance(z_BCD, mask_BC)
        scale_D = (cov_DD.diagonal() + _VARIANCE_EPS).rsqrt()
        r_DD = cov_DD * scale_D[:, None] * scale_D
        pairs = max(len(r_DD) * (len(r_DD) - 1), 1)
        return (1 - r_DD.diagonal()).square().mean() + _off_diagonal(r_DD).square().sum() / pairs


@CONCEPT_LOSSES.register("uniformity")
class Uniformity(ConceptLoss):
    """Concepts of a text spread over the sphere. Source: Wang & Isola 2020 (arXiv:2005.10242, section 4.1.2), t = 2.

    Formula: mean over texts of  log mean_{i != j} exp(-2 |u_i - u_j|^2),  u = z / |z|

    Range: -4 n / (n - 1) (n concepts on a regular simplex) to 0 (all equal); -4 when orthogonal.

    Requirements: two concepts a text. Negative: `gradnorm` and `kendall_gal_original` refuse it.
    Inputs: `z_BCD` of any scale, `mask_BC`.
    Relations: `t_regs` weighs the nearest neighbour alone, this all pairs, near ones most.

    Example:
        >>> round(Uniformity()(torch.eye(4)[None]).item(), 3)
        -4.0
    """

    nonnegative = False

    def loss(self, z_BCD: Tensor, mask_BC: Tensor) -> Tensor:
        has_pair_B = _count(mask_BC) >= 2
        potential_B = _gaussian_potential(z_BCD, mask_BC).where(has_pair_B, 1.0)
        return _mean_over_texts(potential_B.log(), has_pair_B)


@CONCEPT_LOSSES.register("t_regs")
class TRegs(ConceptLoss):
    """The tree that joins the concepts of a text is long, on a soft sphere. Source: T-REGS, Mordacq et al. 2025
    (arXiv:2510.23484): length of the Euclidean minimum spanning tree (MST), both terms with weight 1.

    Formula: mean over texts of  -1/n length(MST(y)) + 1/n sum_i (|y_i| - 1)^2,  y = z / sqrt(D)
        (states of unit variance lie on the unit sphere).

    Range: above -1.92; 0 to 1 when all concepts are equal; -sqrt(2 (n - 1) / n) for a regular simplex on the sphere,
        which radius 1.7 lowers a little further.

    Requirements: two concepts a text for the tree. Negative, as `uniformity`.
    Inputs: `z_BCD` at its own scale, `mask_BC`. C - 1 small steps a batch to find the tree (Prim).
    Relations: sees a dimension collapse that pairs of angles can hide; `uniformity` is its smooth relative.

    Example:
        >>> round(TRegs()(2 * torch.eye(4)[None]).item(), 3)  # three edges of sqrt(2), four concepts
        -1.061
    """

    nonnegative = False

    def loss(self, z_BCD: Tensor, mask_BC: Tensor) -> Tensor:
        y_BCD = z_BCD / z_BCD.shape[-1] ** 0.5
        edge_BEC = minimum_spanning_tree(y_BCD, mask_BC)  # -1 and +1 at its ends, 0 everywhere for no edge
        length_B = _norm(edge_BEC @ y_BCD).mul(edge_BEC.any(-1)).sum(-1)
        off_sphere_B = (_norm(y_BCD) - 1).square().mul(mask_BC).sum(-1)
        count_B = _count(mask_BC)
        return _mean_over_texts((off_sphere_B - length_B) / count_B.clamp_min(1), count_B >= 1)


@torch.no_grad()
def minimum_spanning_tree(y_BCD: Tensor, mask_BC: Tensor) -> Tensor:
    """The edges of each text's Euclidean minimum spanning tree, `[B, C - 1, C]`: -1 and +1 at the two ends.

    Prim's algorithm on all texts at once. Rows of zeros fill up texts with fewer concepts.
    """
    concepts = mask_BC.shape[1]
    distance_BCC = torch.cdist(y_BCD, y_BCD, compute_mode="donot_use_mm_for_euclid_dist")
    outside_BC = mask_BC.clone()
    newest_B = mask_BC.int().argmax(1)  # the first that exists
    nearest_BC, parent_BC = torch.full_like(distance_BCC[:, 0], torch.inf), torch.zeros_like(mask_BC, dtype=torch.long)
    text_B = torch.arange(len(mask_BC), device=mask_BC.device)
    edges = []
    for _ in range(concepts - 1):
        outside_BC[text_B, newest_B] = False
        from_newest_BC = distance_BCC[text_B, newest_B]
        parent_BC = torch.where(from_newest_BC < nearest_BC, newest_B[:, None], parent_BC)
        nearest_BC = torch.minimum(from_newest_BC, nearest_BC)
        newest_B = nearest_BC.masked_fill(~outside_BC, torch.inf).argmin(1)
        ends_BC = F.one_hot(newest_B, concepts) - F.one_hot(parent_BC[text_B, newest_B], concepts)
        edges.append(ends_BC * outside_BC.any(1, keepdim=True))
    return torch.stack(edges, 1).to(y_BCD.dtype) if edges else y_BCD.new_zeros(len(mask_BC), 0, concepts)


def _norm(z_BCD: Tensor) -> Tensor:
    return (z_BCD.square().sum(-1) + _SMALL).sqrt()


def _unit(z_BCD: Tensor) -> Tensor:
    return z_BCD / _norm(z_BCD)[..., None]


def _count(mask_BC: Tensor) -> Tensor:
    return mask_BC.sum(1)


def _pairs_mean(values_BCC: Tensor, mask_BC: Tensor) -> Tensor:
    """Mean over the pairs of different existing concepts, a text; 0 where there is none."""
    pairs_BCC = _off_diagonal((mask_BC[:, :, None] & mask_BC[:, None, :]).to(values_BCC.dtype))
    return (values_BCC * pairs_BCC).sum((1, 2)) / pairs_BCC.sum((1, 2)).clamp_min(1)


def _mean_over_texts(values_B: Tensor, counts_B: Tensor) -> Tensor:
    """Mean over the texts where `counts_B` is True; 0, with a zero gradient, when there is none."""
    return (values_B * counts_B).sum() / counts_B.sum().clamp_min(1)


def _gaussian_potential(z_BCD: Tensor, mask_BC: Tensor) -> Tensor:
    """Mean of exp(-2 |u_i - u_j|^2) over pairs, a text. On the sphere the squared distance is 2 - 2 cos."""
    cos_BCC = _unit(z_BCD) @ _unit(z_BCD).mT
    return _pairs_mean((-4 * (1 - cos_BCC)).exp(), mask_BC)


def _covariance(z_BCD: Tensor, mask_BC: Tensor) -> Tensor:
    """Covariance `[D, D]` over all existing concepts; zero when there is only one."""
    samples = mask_BC.sum()
    mean_D = z_BCD.sum((0, 1)) / samples.clamp_min(1)
    centred_SD = ((z_BCD - mean_D) * mask_BC[..., None]).flatten(0, 1)
    return centred_SD.mT @ centred_SD / (samples - 1).clamp_min(1)


def _variance_hinge(variance_D: Tensor) -> Tensor:
    return (1 - (variance_D + _VARIANCE_EPS).sqrt()).clamp_min(0).mean()


def _off_diagonal(m: Tensor) -> Tensor:
    return m * (1 - torch.eye(m.shape[-1], dtype=m.dtype, device=m.device))
