"""Weightings: what each does by its formula, and what goes wrong without a guard."""

import doctest
import math

import pytest
import torch

from concept_encoder.analysis.rank import ranks_per_text
from concept_encoder.errors import UserError
from concept_encoder.objectives import weighting as weighting_module
from concept_encoder.objectives.concept_losses import CONCEPT_LOSSES
from concept_encoder.objectives.masked_lm import ObjectiveConfig
from concept_encoder.objectives.weighting import WEIGHTINGS, Seen, Weighting, effective_rank_share
from concept_encoder.settings import from_mapping


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small only lose by being shared between threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(name: str, weight: float = 0.1, rank_target: float = 0.5) -> Weighting:
    return WEIGHTINGS[name](weight, rank_target)


def seen(task: float, concept: float, grads: tuple[float, float] = (1.0, 1.0), rank: float = 1.0) -> Seen:
    return Seen(torch.tensor([task, concept]), torch.tensor(grads), torch.tensor(rank))


def after(weighting: Weighting, what: Seen, steps: int = 3000) -> list[float]:
    for _ in range(steps):
        weighting.update(what)
    return weighting.weights().tolist()


# A task that every concept serves best by being the same vector: the concept loss can only do harm here.
FLOOR = 2.5  # what no concept can lower, as with a masked-LM loss


def conflict(name: str, loss_name: str = "orthogonality", steps: int = 500) -> dict[str, float]:
    """Train concepts [B, C, D] on the task and a concept loss; returns where they end."""
    generator = torch.Generator().manual_seed(0)
    wanted_B1D = 0.5 * torch.randn(4, 1, 16, generator=generator)
    z_BCD = (0.1 * torch.randn(4, 8, 16, generator=generator)).requires_grad_()
    weighting, concept_loss = build(name), CONCEPT_LOSSES[loss_name]()
    optimizer = torch.optim.Adam([z_BCD], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        task = FLOOR + (z_BCD - wanted_B1D).square().sum(-1).mean()
        concept = concept_loss(z_BCD)
        weights_2 = weighting.weights()
        grad_2 = [
            w * torch.autograd.grad(part, z_BCD, retain_graph=True)[0] for w, part in zip(weights_2, (task, concept))
        ]
        total = weighting(task, concept)
        total.backward()
        optimizer.step()
        losses_2 = torch.stack([task, concept]).detach()
        weighting.update(Seen(losses_2, torch.stack([g.norm() for g in grad_2]), effective_rank_share(z_BCD.detach())))
    task_weight, concept_weight = weights_2.tolist()
    return {
        "task": task.item() - FLOOR,
        "concept": concept.item(),
        "total": total.item(),
        "task_weight": task_weight,
        "concept_weight": concept_weight,
    }


def test_the_plans_failure_is_reproduced():
    """Unguarded, the concept loss goes to its minimum, takes all the weight, and the task pays for it."""
    end = conflict("kendall_gal_original")
    assert end["concept"] < 1e-3
    assert end["task_weight"] < 0.25
    assert end["task_weight"] / (end["task_weight"] + end["concept_weight"]) < 0.01
    assert end["total"] < 0
    assert end["task"] > 1


@pytest.mark.parametrize("name", ["fixed", "kendall_gal", "constraint"])
def test_guarded_weightings_do_not_fail_so(name):
    end = conflict(name)
    assert end["task"] < 0.1
    assert end["total"] > FLOOR
    assert end["task_weight"] == 1
    assert end["concept_weight"] < 0.3


def test_gradnorm_is_no_guard():
    """It keeps the weights bounded, but equally long gradients are enough to spoil this task."""
    end = conflict("gradnorm")
    assert end["task_weight"] + end["concept_weight"] == pytest.approx(2)
    assert end["total"] > 0
    assert end["task"] > 1


def test_fixed():
    assert float(build("fixed", 0.3)(torch.tensor(2.0), torch.tensor(10.0))) == pytest.approx(5)
    assert after(build("fixed", 0.3), seen(9, 9)) == pytest.approx([1, 0.3])


def test_original_kendall_gal_settles_at_half_the_inverse_loss():
    weighting = build("kendall_gal_original")
    assert after(weighting, seen(4.0, 0.2)) == pytest.approx([1 / 8, 1 / 0.4], rel=1e-3)
    lowest = (1 + math.log(4.0)) / 2 + (1 + math.log(0.2)) / 2
    assert float(weighting(torch.tensor(4.0), torch.tensor(0.2))) == pytest.approx(lowest, rel=1e-4)


def test_original_kendall_gal_survives_a_jump():
    weighting = build("kendall_gal_original")
    after(weighting, seen(4.0, 1e-6))
    assert after(weighting, seen(4.0, 100.0), 4000) == pytest.approx([1 / 8, 1 / 200], rel=1e-2)


@pytest.mark.parametrize(("concept", "factor"), [(1e-9, math.e), (-3.0, math.e), (1.5, 1 / 1.5), (50.0, 1 / math.e)])
def test_the_guard_keeps_the_weight_near_the_recipes(concept, factor):
    assert after(build("kendall_gal", 0.2), seen(4.0, concept)) == pytest.approx([1, 0.2 * factor], rel=1e-3)


def test_gradnorm_makes_gradients_equally_long():
    """Of two losses that fall equally fast, the one with the gradient ten times as long gets a tenth of the weight."""
    weighting = build("gradnorm", 1.0)
    for _ in range(2000):
        task_weight, concept_weight = weighting.weights().tolist()
        weighting.update(seen(1.0, 1.0, (task_weight * 1.0, concept_weight * 10.0)))
    task_weight, concept_weight = weighting.weights().tolist()
    assert task_weight + concept_weight == pytest.approx(2)
    assert task_weight / concept_weight == pytest.approx(10, rel=0.5)


def test_gradnorm_favours_the_loss_that_lags():
    weighting = build("gradnorm", 1.0)
    weighting.update(seen(4.0, 1.0))
    for _ in range(50):
        task_weight, concept_weight = weighting.weights().tolist()
        weighting.update(seen(3.9, 0.1, (task_weight, concept_weight)))
    assert weighting.weights()[0] > 1.5
    weighting.update(seen(4.0, 1.0, (0.0, 0.0)))
    assert weighting.weights().isfinite().all()


@pytest.mark.parametrize(
    ("rank", "force"), [(0.9, 0), (0.5, 0), (0.475, 0.5), (0.45, 1), (0.1, 1)], ids=lambda value: str(value)
)
def test_constraint_acts_only_while_the_target_is_missed(rank, force):
    weighting = build("constraint", 0.3, 0.5)
    assert weighting.weights().tolist() == [1, 0]
    assert after(weighting, seen(4.0, 1.0, rank=rank), 300) == pytest.approx([1, 0.3 * force], abs=1e-4)
    before = weighting.weights().tolist()
    assert after(weighting, seen(4.0, 1.0, rank=math.nan), 1) == before  # no text had a rank


def test_constraint_holds_the_rank_at_its_target_and_no_higher():
    """A task that pulls all concepts onto one line, against a regulariser that would spread them fully."""

    def train(name: str) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(0)
        line_1CD = torch.randn(1, 12, 1, generator=generator) * torch.randn(1, 1, 16, generator=generator)
        z_BCD = torch.randn(4, 12, 16, generator=generator).requires_grad_()
        weighting, concept_loss = build(name, 100.0, 0.6), CONCEPT_LOSSES["vicreg"]()
        optimizer = torch.optim.Adam([z_BCD], lr=0.02)
        for _ in range(600):
            optimizer.zero_grad()
            task = (z_BCD - line_1CD).square().sum(-1).mean()
            weighting(task, concept_loss(z_BCD)).backward()
            optimizer.step()
            weighting.update(seen(1.0, 1.0, rank=float(effective_rank_share(z_BCD))))
        return float(effective_rank_share(z_BCD)), float(task.detach())

    rank, task = train("constraint")
    rank_fixed, task_fixed = train("fixed")
    assert 0.54 < rank < 0.62
    assert rank_fixed > 0.8
    assert task < task_fixed / 2


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_state_is_complete(name):
    """A new weighting with the old one's state goes on exactly as the old one."""
    generator = torch.Generator().manual_seed(0)
    steps = [
        Seen(
            torch.rand(2, generator=generator) + 1,
            torch.rand(2, generator=generator),
            torch.rand((), generator=generator),
        )
        for _ in range(20)
    ]
    whole, first, second = (build(name, rank_target=0.9) for _ in range(3))
    for step in steps:
        whole.update(step)
    for step in steps[:10]:
        first.update(step)
    second.load_state_dict(first.state_dict())
    for step in steps[10:]:
        second.update(step)
    assert torch.equal(whole.weights(), second.weights())
    assert not list(whole.parameters())


@pytest.mark.parametrize("shape", [(3, 6, 16), (3, 16, 6), (3, 2, 8)])
def test_effective_rank_agrees_with_the_analysis(shape):
    z_BCD = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mask_BC = torch.ones(shape[:2], dtype=torch.bool)
    mask_BC[1, 1:] = False  # one concept: no rank
    ranks = ranks_per_text(z_BCD, mask_BC)[0][[0, 2]]
    expected = float(ranks.mean()) / min(shape[1] - 1, shape[2])
    assert float(effective_rank_share(z_BCD, mask_BC)) == pytest.approx(expected, rel=1e-6)


def test_effective_rank_of_known_cases():
    assert float(effective_rank_share(torch.eye(8)[None])) == pytest.approx(1)
    assert float(effective_rank_share(torch.eye(8)[torch.arange(8) % 3][None])) == pytest.approx(2 / 7, rel=0.02)
    assert float(effective_rank_share(torch.full((1, 7, 8), 0.1))) == 0
    assert effective_rank_share(torch.ones(1, 1, 8)).isnan()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"concept_loss": "vicrg"}, "objective.concept_loss: no concept loss is called 'vicrg'; did you mean 'vicreg'"),
        ({"loss_weighting": "kendal_gal"}, "objective.loss_weighting: .*did you mean 'kendall_gal'"),
        (
            {"concept_loss": "uniformity", "loss_weighting": "kendall_gal_original"},
            "objective.loss_weighting: 'kendall_gal_original' needs a loss that is never negative, 'uniformity' can be",
        ),
        ({"concept_loss": "t_regs", "loss_weighting": "gradnorm"}, "objective.loss_weighting: 'gradnorm' needs"),
        ({"concept_loss_weight": 0}, "objective.concept_loss_weight: 0.0 is not positive"),
        ({"concept_loss_weight": "nan"}, "objective.concept_loss_weight: expected a number, found 'nan'"),
        ({"rank_target": 64}, "objective.rank_target: 64.0 is not a share"),
        ({"task_share_floor": 1}, "objective.task_share_floor: 1.0 is not a share below 1"),
        ({"on_low_task_share": "panic"}, "objective.on_low_task_share: 'panic' is not one of warn, stop"),
    ],
)
def test_a_wrong_objective_is_named(fields, message):
    with pytest.raises(UserError, match=f"^{message}"):
        from_mapping(ObjectiveConfig, fields, "objective")


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(weighting_module).failed == 0


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_docstrings_say_what_a_weighting_is(name):
    for heading in ("Source:", "Formula:", "Requirements:", "Inputs:", "Relations:", "Example:"):
        assert heading in WEIGHTINGS[name].__doc__
