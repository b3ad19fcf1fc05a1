"""How the task loss and the concept loss add up (`objective.loss_weighting`).

What can go wrong is known: with weights learned after Kendall & Gal a Perceiver of width 512 with 128 concepts
(github.com/ksopyla/MrCogito) brought its concept loss to nothing (effective rank 122 of 128) while the masked-LM loss
rose from 2.54 to 4.31; even a fixed 0.1 cost it 1.0. A loss that can come close to 0 draws a learned weight towards
infinity. Hence two rules for the members that do no harm: the task loss keeps weight 1, and the concept loss has a
weight that cannot run away.

A weighting is a module with buffers only. Its weights are constant within one optimiser step; `update` then moves them
by what was seen in the whole step, over all micro-batches and devices. So accumulation changes nothing, no optimiser
has to know about them, and its `state_dict` is all that resuming needs.

Shape suffixes: 2 the pair (task, concept); B texts, C concepts, D size of the states, K = min(C, D).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from concept_encoder.model.registry import Registry

WEIGHTINGS = Registry("loss weighting")


@dataclass(frozen=True)
class Seen:
    """What one optimiser step has shown.

    Attributes:
        loss_2: the two losses, unweighted.
        grad_2: norms of their *weighted* gradients with respect to the concepts; None when they are not measured.
        rank_share: mean of `effective_rank_share`; None unless the weighting needs it, NaN when no text has a rank.
    """

    loss_2: Tensor
    grad_2: Tensor | None = None
    rank_share: Tensor | None = None


class Weighting(nn.Module):
    """Adds two losses.

    Args:
        concept_loss_weight: the recipe's `objective.concept_loss_weight`.
        rank_target: the recipe's `objective.rank_target`.
    """

    needs_nonnegative = False  # of the concept loss
    needs_rank = False
    needs_gradients = False

    def __init__(self, concept_loss_weight: float, rank_target: float):
        super().__init__()

    def weights(self) -> Tensor:
        """The two weights, without gradient."""
        raise NotImplementedError

    def forward(self, task_loss: Tensor, concept_loss: Tensor) -> Tensor:
        task_weight, concept_weight = self.weights()
        return task_weight * task_loss + concept_weight * concept_loss

    def update(self, seen: Seen) -> None:
        """Move the weights after an optimiser step."""


@WEIGHTINGS.register("fixed")
class Fixed(Weighting):
    """Weight 1 for the task, `concept_loss_weight` for the concepts. Source: unit scalarisation with tuned weights,
    which matches learned ones when both are tuned (Kurin et al. 2022, arXiv:2201.04122).

    Formula: L = L_task + w L_concept

    Requirements: a weight that was tried; 0.1 is a start, and still cost a model of width 512 with 128 concepts
        1.0 in loss.
    Inputs: `objective.concept_loss_weight` w.
    Relations: `constraint` uses the same weight, but only while it is needed.

    Example:
        >>> Fixed(0.1, 0.5)(torch.tensor(3.0), torch.tensor(1.0)).item()
        3.0999999046325684
    """

    def __init__(self, concept_loss_weight: float, rank_target: float):
        super().__init__(concept_loss_weight, rank_target)
        self.register_buffer("weight_2", torch.tensor([1.0, concept_loss_weight]))

    def weights(self) -> Tensor:
        return self.weight_2


def descend(log_variance: Tensor, loss: Tensor, rate: float = 0.01) -> Tensor:
    """One step down  exp(-s) L + s,  whose lowest point is s = ln L.

    The gradient is clipped to 1: like Adam, and unlike plain descent, it survives a loss that jumps while exp(-s) is
    large.
    """
    return log_variance - rate * (1 - (-log_variance).exp() * loss).clamp(-1, 1)


@WEIGHTINGS.register("kendall_gal")
class KendallGal(Weighting):
    """A learned weight for the concepts that stays near `concept_loss_weight`; the task keeps weight 1. Source:
    homoscedastic uncertainty, Kendall et al. 2018 (arXiv:1705.07115, equation 7), with a guard of our own.

    Formula: L = L_task + w (exp(-s) L_concept + s),  s learned, |s| <= 1: the weight lies between w / e and w e.

    Requirements: none.
    Inputs: `objective.concept_loss_weight` w.
    Relations: `kendall_gal_original` is the paper's, without the guard. Losses below 1/e end at the upper bound, where
        this is `fixed` with e times the weight.

    Example:
        >>> KendallGal(0.1, 0.5).weights().tolist()
        [1.0, 0.10000000149011612]
    """

    BOUND = 1.0

    def __init__(self, concept_loss_weight: float, rank_target: float):
        super().__init__(concept_loss_weight, rank_target)
        self.concept_loss_weight = concept_loss_weight
        self.register_buffer("log_variance", torch.tensor(0.0))

    def weights(self) -> Tensor:
        weight = self.concept_loss_weight * (-self.log_variance).exp()
        return torch.stack([torch.ones_like(weight), weight])

    def forward(self, task_loss: Tensor, concept_loss: Tensor) -> Tensor:
        return super().forward(task_loss, concept_loss) + self.concept_loss_weight * self.log_variance

    def update(self, seen: Seen) -> None:
        self.log_variance.copy_(descend(self.log_variance, seen.loss_2[1]).clamp(-self.BOUND, self.BOUND))


@WEIGHTINGS.register("kendall_gal_original")
class KendallGalOriginal(Weighting):
    """Both weights learned, without a guard: kept to reproduce a failure of the MrCogito project, not for use.
    Source: Kendall et al. 2018 (arXiv:1705.07115, equation 7), with log-variances s.

    Formula: L = sum_i (exp(-s_i) L_i + s_i) / 2,  weights exp(-s_i) / 2, which settle at 1 / (2 L_i)

    A masked-LM loss stays above 2, so its weight falls below 1/4. A concept loss can go to 0, so its weight rises
    without bound and L falls below 0.

    Requirements: a concept loss that is never negative.
    Inputs: `objective.concept_loss_weight` is not used: both weights start at 1/2.
    Relations: `kendall_gal` is the guarded form.

    Example:
        >>> KendallGalOriginal(0.1, 0.5).weights().tolist()
        [0.5, 0.5]
    """

    needs_nonnegative = True

    def __init__(self, concept_loss_weight: float, rank_target: float):
        super().__init__(concept_loss_weight, rank_target)
        self.register_buffer("log_variance_2", torch.zeros(2))

    def weights(self) -> Tensor:
        return (-self.log_variance_2).exp() / 2

    def forward(self, task_loss: Tensor, concept_loss: Tensor) -> Tensor:
        return super().forward(task_loss, concept_loss) + self.log_variance_2.sum() / 2

    def update(self, seen: Seen) -> None:
        self.log_variance_2.copy_(descend(self.log_variance_2, seen.loss_2))


@WEIGHTINGS.register("gradnorm")
class GradNorm(Weighting):
    """Weights that make both gradients equally long, longer for the loss that lags. Source: GradNorm, Chen et al. 2018
    (arXiv:1711.02257, equations 1 and 2, algorithm 1), alpha 1.5, at the concepts, where the two losses meet.

    Formula: descend  sum_i |G_i - mean(G) r_i^1.5|,  G_i = |w_i dL_i/dz|,  r_i = (L_i / L_i(0)) / mean_j(L_j / L_j(0)),
        the target held constant; then scale the weights to sum 2. Slopes are in units of mean(G), as gradients at the
        concepts have no natural size, and clipped to 1.

    Requirements: a concept loss that is never negative; gradients that can be measured (no `training.torch_compile`).
    Inputs: `objective.concept_loss_weight` is the weight at the start, against 1 for the task.
    Relations: no guard for the task, which does not keep weight 1: gradients of equal length can spoil it. The weights
        stay between 0 and 2, and a concept loss that falls faster loses weight, unlike in `kendall_gal_original`.

    Example:
        >>> round(sum(GradNorm(0.1, 0.5).weights().tolist()), 4)
        2.0
    """

    ALPHA = 1.5
    RATE = 0.025
    LEAST = 1e-3  # a weight of 0 would hide its gradient for good

    needs_nonnegative = True
    needs_gradients = True

    def __init__(self, concept_loss_weight: float, rank_target: float):
        super().__init__(concept_loss_weight, rank_target)
        start_2 = torch.tensor([1.0, concept_loss_weight])
        self.register_buffer("weight_2", 2 * start_2 / start_2.sum())
        self.register_buffer("first_loss_2", torch.full((2,), torch.nan))

    def weights(self) -> Tensor:
        return self.weight_2

    def update(self, seen: Seen) -> None:
        self.first_loss_2.copy_(torch.where(self.first_loss_2.isnan(), seen.loss_2, self.first_loss_2))
        mean = seen.grad_2.mean()
        if not mean > 0:  # nothing to balance
            return
        ratio_2 = seen.loss_2 / self.first_loss_2.clamp_min(1e-8)
        target_2 = mean * (ratio_2 / ratio_2.mean().clamp_min(1e-8)) ** self.ALPHA
        slope_2 = (seen.grad_2 - target_2).sign() * seen.grad_2 / self.weight_2 / mean
        weight_2 = (self.weight_2 - self.RATE * slope_2.clamp(-1, 1)).clamp_min(self.LEAST)
        self.weight_2.copy_(2 * weight_2 / weight_2.sum())


@WEIGHTINGS.register("constraint")
class Constraint(Weighting):
    """The concept loss acts only while the effective rank of the concepts misses its target; the task keeps weight 1.
    Source: a penalty for a constraint, min L_task subject to rank >= target, with a force proportional to the miss.

    Formula: L = L_task + w f L_concept,  f = clamp((target - rank) / (0.1 target), 0, 1),
        rank = running mean (0.9) of the effective rank as a share of the most it can be.

    Why not dual ascent: its multiplier goes on pushing after the target is met, until it has been unlearned, and winds
    up when the target cannot be met. Why not a gate: on or off, it chatters at the target. This one fades, is zero
    at the target and w at the most.

    Requirements: texts with two concepts; a target below what noise of that shape reaches (about 0.9). The rank is of
        centred concepts: a mean vector that all share, however long, does not lower it.
    Inputs: `objective.concept_loss_weight` w, `objective.rank_target` between 0 and 1. The running mean starts at 1,
        target met, so the force fades in.
    Relations: `fixed` is the same with f = 1.

    Example:
        >>> Constraint(0.1, 0.5).weights().tolist()
        [1.0, 0.0]
    """

    FADE = 0.1
    MEMORY = 0.9

    needs_rank = True

    def __init__(self, concept_loss_weight: float, rank_target: float):
        super().__init__(concept_loss_weight, rank_target)
        self.concept_loss_weight, self.rank_target = concept_loss_weight, rank_target
        self.register_buffer("rank_share", torch.tensor(1.0))

    def weights(self) -> Tensor:
        force = ((self.rank_target - self.rank_share) / (self.FADE * self.rank_target)).clamp(0, 1)
        return torch.stack([torch.ones_like(force), self.concept_loss_weight * force])

    def update(self, seen: Seen) -> None:
        newer = self.MEMORY * self.rank_share + (1 - self.MEMORY) * seen.rank_share.to(self.rank_share)
        self.rank_share.copy_(torch.where(newer.isnan(), self.rank_share, newer))


@torch.no_grad()
def effective_rank_share(z_BCD: Tensor, mask_BC: Tensor | None = None, texts: int = 8) -> Tensor:
    """Effective rank of a text's centred concepts over the most it can be, min(n - 1, D); mean of the first `texts`.

    Effective rank: exp of the entropy of the singular values normalised to sum 1 (Roy & Vetterli 2007), here from the
    eigenvalues of the Gram matrix in fp64; 0 where the concepts are equal up to rounding. Texts with one concept have
    no rank; NaN when there are no others.
    """
    z_BCD = z_BCD[:texts].double()
    mask_BC = torch.ones(z_BCD.shape[:2], dtype=torch.bool, device=z_BCD.device) if mask_BC is None else mask_BC[:texts]
    count_B = mask_BC.sum(1)
    z_BCD = z_BCD.masked_fill(~mask_BC[..., None], 0.0)
    centred_BCD = (z_BCD - (z_BCD.sum(1) / count_B.clamp_min(1)[:, None])[:, None]) * mask_BC[..., None]
    wide = centred_BCD.shape[1] <= centred_BCD.shape[2]
    gram = centred_BCD @ centred_BCD.mT if wide else centred_BCD.mT @ centred_BCD
    s_BK = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    p_BK = s_BK / s_BK.sum(1, keepdim=True).clamp_min(1e-300)
    most_B = (count_B - 1).clamp(max=z_BCD.shape[2])
    differ_B = centred_BCD.flatten(1).norm(dim=1) > 1e-5 * z_BCD.flatten(1).norm(dim=1)
    share_B = torch.where(differ_B, torch.special.entr(p_BK).sum(1).exp(), 0.0) / most_B
    return share_B[most_B >= 1].mean()
