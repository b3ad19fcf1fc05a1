import numpy as np
import pytest
import torch

from concept_encoder.analysis.carriers import carriers


def states(texts: int = 400, concepts: int = 12, width: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randn(texts, concepts, width, generator=torch.Generator().manual_seed(seed))


def test_a_known_share_is_recovered():
    """Concept 3 is noise of variance 1 in every dimension, plus a class vector of known variance."""
    z_TCD, label_T = states(4000), torch.arange(4000) % 4
    means_KD = torch.randn(4, 24, generator=torch.Generator().manual_seed(1))
    means_KD -= means_KD.mean(0)
    z_TCD[:, 3] += means_KD[label_T]
    between = float(means_KD.square().mean(0).sum())
    found = carriers(z_TCD, label_T.tolist(), classes=4)
    assert found["shares"][3] == pytest.approx(between / (between + 24), abs=0.02)
    assert found["carriers"][0] == 3
    assert all(abs(share) < 0.005 for c, share in enumerate(found["shares"]) if c != 3)


def test_numbers_are_fitted_by_a_line():
    """The naive formula: an ordinary least-squares fit of each dimension, its R² pooled and corrected."""
    z_TCD, y_T = states(120, 3, 5), np.random.default_rng(0).normal(2.0, 3.0, 120)
    z_TCD[:, 1, 0] += torch.from_numpy(y_T).float()
    found = carriers(z_TCD, y_T.tolist(), classes=None)
    for c in range(3):
        z_TD = z_TCD[:, c].double().numpy()
        rest = sum(np.polyfit(y_T, z_TD[:, d], 1, full=True)[1][0] for d in range(5))
        r2 = 1 - rest / ((z_TD - z_TD.mean(0)) ** 2).sum()
        assert found["shares"][c] == pytest.approx(1 - (1 - r2) * 119 / 118, abs=1e-4)
    assert found["carriers"] == [1]


def test_a_label_that_decides_the_state_explains_all_of_it():
    label_T = torch.arange(90) % 3
    z_TCD = torch.nn.functional.one_hot(label_T, 3).float()[:, None].expand(-1, 2, -1)
    assert carriers(z_TCD, label_T.tolist(), classes=3)["shares"] == pytest.approx([1, 1])


def test_false_alarms_are_rare():
    alarms = [
        bool(carriers(states(100, 16, 8, seed), [0, 1] * 50, classes=2, seed=seed)["carriers"]) for seed in range(40)
    ]
    assert sum(alarms) <= 6  # 5 % of 40 are 2; 7 or more have probability 0.003


def test_a_concept_is_judged_by_the_texts_that_have_it():
    z_TCD, mask_TC = states(200, 3), torch.ones(200, 3, dtype=torch.bool)
    label_T = torch.arange(200) % 2
    mask_TC[100:, 1] = False
    mask_TC[20:, 2] = False
    z_TCD[:, 1] += label_T[:, None]
    z_TCD = z_TCD * mask_TC[..., None]
    found = carriers(z_TCD, label_T.tolist(), mask_TC, classes=2)
    alone = carriers(z_TCD[:100, 1:2], label_T[:100].tolist(), classes=2)
    assert found["shares"][1] == pytest.approx(alone["shares"][0], abs=1e-4)
    assert found["shares"][2] is None
    assert found["judged"] == 2
    assert found["carriers"] == [1]


def test_too_few_texts_are_said():
    found = carriers(states(30), [0, 1] * 15, classes=2)
    assert found["notes"] == ["which concepts carry the label needs at least 50 labelled texts, got 30"]
    assert "shares" not in found
