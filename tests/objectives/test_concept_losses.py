"""Concept losses against their formulas in plain loops, on cases with known answers, and where they could break."""

import doctest
import math

import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree as scipy_tree
from torch import Tensor

from concept_encoder.objectives import concept_losses
from concept_encoder.objectives.concept_losses import CONCEPT_LOSSES, minimum_spanning_tree
from concept_encoder.objectives.weighting import effective_rank_share

every_loss = pytest.mark.parametrize("name", CONCEPT_LOSSES)


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small only lose by being shared between threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loss(name: str, z_BCD: Tensor, mask_BC: Tensor | None = None) -> Tensor:
    return CONCEPT_LOSSES[name]()(z_BCD, mask_BC)


def concepts(texts: int = 3, count: int = 5, size: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(texts, count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


def pairs(z_CD: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(a, b) for i, a in enumerate(z_CD) for j, b in enumerate(z_CD) if i != j]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def naive_covariance(z_BCD: Tensor) -> list[list[float]]:
    samples = z_BCD.flatten(0, 1)
    centre = [mean([float(s[i]) for s in samples]) for i in range(samples.shape[1])]
    return [
        [
            sum(float((s[i] - centre[i]) * (s[j] - centre[j])) for s in samples) / (len(samples) - 1)
            for j in range(len(centre))
        ]
        for i in range(len(centre))
    ]


def naive_hinge(cov: list[list[float]]) -> float:
    return mean([max(0.0, 1 - math.sqrt(cov[i][i] + 1e-4)) for i in range(len(cov))])


def naive_orthogonality(z_BCD: Tensor) -> float:
    return mean([mean([cosine(a, b) ** 2 for a, b in pairs(z)]) for z in z_BCD])


def naive_potentials(z_BCD: Tensor) -> list[float]:
    spread = [[float((a / a.norm() - b / b.norm()).norm()) for a, b in pairs(z)] for z in z_BCD]
    return [mean([math.exp(-2 * d**2) for d in text]) for text in spread]


def naive_vicreg(z_BCD: Tensor) -> float:
    cov = naive_covariance(z_BCD)
    off = sum(cov[i][j] ** 2 for i in range(len(cov)) for j in range(len(cov)) if i != j)
    return naive_hinge(cov) + off / len(cov) / 25


def naive_decorrelation(z_BCD: Tensor) -> float:
    cov = naive_covariance(z_BCD)
    size = range(len(cov))
    r = [[cov[i][j] / math.sqrt((cov[i][i] + 1e-4) * (cov[j][j] + 1e-4)) for j in size] for i in size]
    return mean([(1 - r[i][i]) ** 2 for i in size]) + mean([r[i][j] ** 2 for i in size for j in size if i != j])


def naive_t_regs(z_BCD: Tensor) -> float:
    texts = []
    for y_CD in z_BCD / z_BCD.shape[-1] ** 0.5:
        length = float(scipy_tree(torch.cdist(y_CD, y_CD).numpy()).sum())
        texts.append((sum(float(y.norm() - 1) ** 2 for y in y_CD) - length) / len(y_CD))
    return mean(texts)


NAIVE = {
    "orthogonality": naive_orthogonality,
    "vicreg": naive_vicreg,
    "combined": lambda z: naive_hinge(naive_covariance(z)) + mean(naive_potentials(z)),
    "decorrelation": naive_decorrelation,
    "uniformity": lambda z: mean([math.log(p) for p in naive_potentials(z)]),
    "t_regs": naive_t_regs,
}


@every_loss
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_equals_its_formula(name, scale):
    z_BCD = scale * concepts()
    assert float(loss(name, z_BCD)) == pytest.approx(NAIVE[name](z_BCD), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("orthogonality", 1),
        ("vicreg", 0.99),
        ("combined", 1.99),
        ("decorrelation", 1),
        ("uniformity", 0),
        ("t_regs", 0),
    ],
)
def test_identical_concepts(name, answer):
    assert float(loss(name, torch.ones(2, 4, 8))) == pytest.approx(answer, abs=2e-3)


@pytest.mark.parametrize(
    ("name", "answer"),
    [("orthogonality", 0), ("uniformity", -4), ("t_regs", -math.sqrt(2) * 7 / 8)],
)
def test_orthonormal_concepts(name, answer):
    """Eight orthogonal concepts of unit variance, turned some way."""
    turn = torch.linalg.qr(concepts(1, 8, 8)[0]).Q
    assert float(loss(name, math.sqrt(8) * turn[None])) == pytest.approx(answer, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "answer"), [("vicreg", 1 / 7 / 25), ("combined", math.exp(-4)), ("decorrelation", 1 / 49)]
)
def test_orthonormal_concepts_on_the_axes(name, answer):
    """Losses over dimensions see which way they are turned: every variance is 1 here, every covariance -1/7."""
    assert float(loss(name, math.sqrt(8) * torch.eye(8)[None])) == pytest.approx(answer, abs=2e-5)


@pytest.mark.parametrize("rank", [1, 2, 4, 8])
def test_rank_k(rank):
    """Eight concepts on k orthogonal directions: a pair is equal with p = (8 / k - 1) / 7, orthogonal otherwise."""
    z_BCD = math.sqrt(8) * torch.eye(8)[torch.arange(8) % rank][None]
    equal = (8 / rank - 1) / 7
    assert float(loss("orthogonality", z_BCD)) == pytest.approx(equal, abs=1e-6)
    potential = equal + (1 - equal) * math.exp(-4)
    assert float(loss("uniformity", z_BCD)) == pytest.approx(math.log(potential), abs=1e-6)
    assert float(loss("t_regs", z_BCD)) == pytest.approx(-math.sqrt(2) * (rank - 1) / 8, abs=1e-3)


@pytest.mark.parametrize("rank", [1, 2, 4, 8])
def test_losses_over_dimensions_at_rank_k(rank):
    """k axes, on each as many concepts on one side as on the other: mean 0, unit variance, no covariance; 8 - k axes
    are dead. With rank 8 the losses over dimensions are satisfied."""
    axes_KD = torch.eye(8)[:rank] * math.sqrt(rank * 15 / 16)
    z_BCD = torch.cat([axes_KD, -axes_KD]).repeat(8 // rank, 1)[None]
    dead = (8 - rank) / 8
    assert float(loss("vicreg", z_BCD)) == pytest.approx(0.99 * dead, abs=1e-6)
    assert float(loss("decorrelation", z_BCD)) == pytest.approx(dead, abs=1e-6)
    equal, opposite = (8 / rank - 1) / 15, 8 / rank / 15  # shares of the other fifteen concepts
    potential = equal + opposite * math.exp(-8) + (1 - equal - opposite) * math.exp(-4)
    assert float(loss("combined", z_BCD)) == pytest.approx(0.99 * dead + potential, abs=1e-6)


@every_loss
def test_order_does_not_matter(name):
    z_BCD = concepts()
    torch.testing.assert_close(loss(name, z_BCD[:, torch.randperm(5)]), loss(name, z_BCD))


@every_loss
@pytest.mark.parametrize("rubbish", [7.0, math.nan])
def test_concepts_that_do_not_exist_count_for_nothing(name, rubbish):
    """A padded batch equals its texts alone: pair losses as their mean, batch statistics as one text of all samples."""
    z_BCD, mask_BC = concepts(), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 1, 0]]).bool()
    alone = [z_CD[mask_C][None] for z_CD, mask_C in zip(z_BCD, mask_BC)]
    padded_BCD = z_BCD.masked_fill(~mask_BC[..., None], rubbish).requires_grad_()
    value = loss(name, padded_BCD, mask_BC)
    value.backward()
    assert padded_BCD.grad[mask_BC].abs().sum() > 0
    assert padded_BCD.grad[~mask_BC].abs().sum() == 0
    if name in ("orthogonality", "uniformity", "t_regs"):
        expected = torch.stack([loss(name, z) for z in alone]).mean()
    elif name == "combined":
        hinge = naive_hinge(naive_covariance(torch.cat(alone, 1)))
        expected = torch.tensor(hinge + mean([naive_potentials(z)[0] for z in alone]), dtype=torch.float64)
    else:
        expected = loss(name, torch.cat(alone, 1))
    torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=1e-6)


@every_loss
def test_gradcheck(name):
    z_BCD = concepts(2, 4, 3).requires_grad_()
    mask_BC = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1]]).bool()
    assert torch.autograd.gradcheck(lambda z: loss(name, z, mask_BC), z_BCD)


@every_loss
@pytest.mark.parametrize(
    ("z_BCD", "mask_BC"),
    [
        (torch.ones(2, 4, 8), None),
        (torch.zeros(2, 4, 8), None),
        (torch.ones(1, 1, 8), None),
        (torch.ones(2, 4, 1), None),
        (torch.randn(2, 3, 8), torch.tensor([[True, False, False], [False, False, False]])),
        (torch.randn(2, 3, 8), torch.zeros(2, 3, dtype=torch.bool)),
        (1e4 * torch.randn(2, 3, 8), None),
    ],
    ids=["identical", "zero", "one concept", "one dimension", "one exists", "none exists", "large"],
)
def test_value_and_gradient_stay_finite(name, z_BCD, mask_BC):
    z_BCD = z_BCD.clone().requires_grad_()
    value = loss(name, z_BCD, mask_BC)
    value.backward()
    assert value.isfinite()
    assert z_BCD.grad.isfinite().all()


@every_loss
def test_fp32_inside_autocast(name):
    z_BCD = concepts().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(name, z_BCD)
        halved = loss(name, z_BCD.bfloat16())
    assert value.dtype == halved.dtype == torch.float32
    assert torch.equal(value, loss(name, z_BCD))


@every_loss
def test_following_the_gradient_raises_the_rank(name):
    """From concepts along one line, with a little noise."""
    line = concepts(4, 6, 1) * concepts(1, 1, 8, seed=1)
    z_BCD = (line + 0.05 * concepts(4, 6, 8, seed=2)).float().requires_grad_()
    optimizer = torch.optim.Adam([z_BCD], lr=0.05)
    before = float(effective_rank_share(z_BCD))
    for _ in range(60):
        optimizer.zero_grad()
        loss(name, z_BCD).backward()
        optimizer.step()
    assert float(effective_rank_share(z_BCD)) > 1.5 * before


def test_the_tree_is_a_minimum_spanning_tree():
    y_BCD = concepts(4, 9, 3)
    mask_BC = torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) < 0.7
    edge_BEC = minimum_spanning_tree(y_BCD, mask_BC)
    for y_CD, mask_C, edge_EC in zip(y_BCD, mask_BC, edge_BEC):
        used_EC = edge_EC[edge_EC.any(-1)]
        assert len(used_EC) == mask_C.sum() - 1
        assert not used_EC[:, ~mask_C].any()
        there = y_CD[mask_C]
        expected = float(scipy_tree(torch.cdist(there, there).numpy()).sum())
        assert float((used_EC @ y_CD).norm(dim=1).sum()) == pytest.approx(expected)


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(concept_losses).failed == 0


@every_loss
def test_docstrings_say_what_a_loss_is(name):
    for heading in ("Source:", "Formula:", "Range:", "Requirements:", "Inputs:", "Relations:", "Example:"):
        assert heading in CONCEPT_LOSSES[name].__doc__
