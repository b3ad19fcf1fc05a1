import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concept_encoder.analysis import overlap


def correlated(rho: float, texts: int = 400, concepts: int = 8, width: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(texts, 1, width, generator=generator)
    own = torch.randn(texts, concepts, width, generator=generator)
    return rho**0.5 * shared + (1 - rho) ** 0.5 * own


@pytest.mark.parametrize("rho", [0.2, 0.5, 0.9])
def test_known_correlation_is_recovered(rho):
    report = overlap.overlap_report(correlated(rho))
    for kind in ("raw", "content"):
        assert report[kind]["mean_absolute"] == pytest.approx(rho, rel=0.02)
    assert report["dead"] == []


def test_a_shared_vector_counts_in_raw_correlation_and_not_in_content():
    noise_TCD = torch.randn(400, 8, 64, generator=torch.Generator().manual_seed(1))
    shared_D = 3 * torch.randn(64, generator=torch.Generator().manual_seed(2))
    report = overlap.overlap_report(noise_TCD + shared_D)
    size = float(shared_D.var(correction=0))
    assert report["raw"]["mean_absolute"] == pytest.approx(size / (1 + size), rel=0.02)
    assert report["content"]["mean_absolute"] < 0.02


def test_identical_opposite_and_dead_concepts_are_named():
    z_TCD = torch.randn(50, 6, 32, generator=torch.Generator().manual_seed(3))
    z_TCD[:, 4] = z_TCD[:, 1]
    z_TCD[:, 5] = -z_TCD[:, 1]
    z_TCD[:, 2] = torch.linspace(-1, 1, 32)
    report = overlap.overlap_report(z_TCD)
    assert {pair[:2] for pair in map(tuple, report["raw"]["duplicates"])} == {(1, 4), (1, 5), (4, 5)}
    assert report["raw"]["duplicated_concepts"] == 2
    assert report["raw"]["max_absolute"] == pytest.approx(1)
    assert report["dead"] == [2]
    assert report["content"]["matrix"][2][0] is None  # a dead concept has no content to correlate
    assert report["notes"] == []
    deaf = overlap.overlap_report(z_TCD[:1].expand(50, 6, 32))
    assert deaf["content"]["mean_absolute"] is None
    assert deaf["notes"] == ["content correlation needs two concepts that change from text to text"]


def test_orthonormal_concepts_do_not_correlate():
    # Orthogonal to the vector of ones too: Pearson takes the mean over dimensions out.
    basis = torch.linalg.qr(torch.cat([torch.ones(32, 1), torch.randn(32, 8)], dim=1)).Q[:, 1:].T
    r_CC = overlap.correlation(basis.expand(12, 8, 32))
    torch.testing.assert_close(r_CC, torch.eye(8, dtype=torch.float64), atol=1e-6, rtol=0)


def test_pairs_are_compared_where_both_exist():
    z_TCD = torch.randn(40, 3, 16, generator=torch.Generator().manual_seed(4))
    z_TCD[:20, 1] = z_TCD[:20, 0]
    mask_TC = torch.ones(40, 3, dtype=torch.bool)
    mask_TC[20:, 1] = False
    z_TCD[20:, 1] = 1e3
    assert overlap.correlation(z_TCD, mask_TC)[0, 1] == pytest.approx(1, abs=0.01)
    mask_TC[9:, 1] = False  # what nine texts share says nothing of pairs
    assert overlap.correlation(z_TCD, mask_TC)[0, 1].isnan()
    mask_TC[:, 2] = False
    report = overlap.overlap_report(z_TCD, mask_TC)
    assert report["absent"] == [2]
    assert report["raw"]["matrix"][0][2] is None


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3))
def test_correlation_is_symmetric_bounded_and_free_of_scale(seed, scale):
    z_TCD = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    r_CC = overlap.correlation(z_TCD)
    torch.testing.assert_close(r_CC, r_CC.T)
    torch.testing.assert_close(r_CC, overlap.correlation(scale * z_TCD))
    assert (r_CC.abs() <= 1).all()


def test_dimension_use_of_a_known_spectrum():
    z_TCD = torch.randn(500, 8, 40, generator=torch.Generator().manual_seed(5))
    z_TCD[..., 10:] *= 1e-4
    report = overlap.dimension_use(z_TCD)
    assert report["participation_ratio"] == pytest.approx(10, rel=0.02)
    assert report["share_above_floor"] == pytest.approx(0.25)
    assert report["directions_for_99"] == 10
    assert sum(report["spectrum"]) == pytest.approx(1, abs=1e-3)


def test_dimension_use_says_how_many_states_it_needs():
    assert "41 at least, got 8" in overlap.dimension_use(torch.randn(2, 4, 40))["notes"][0]
    assert overlap.dimension_use(torch.ones(20, 4, 8))["participation_ratio"] is None
