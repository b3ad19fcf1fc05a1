import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concept_encoder.analysis import rank


def orthonormal(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, rows, generator=generator, dtype=torch.float64)).Q.T


def concepts_of_rank(k: int, texts: int = 20, concepts: int = 16, width: int = 32) -> torch.Tensor:
    """Concepts whose centred matrix has k equal singular values, in other directions for every text."""
    centring = torch.eye(concepts, dtype=torch.float64) - 1 / concepts
    left_CK = torch.linalg.qr(centring @ orthonormal(k, concepts).T).Q
    return torch.stack([left_CK @ orthonormal(k, width, seed) for seed in range(texts)]) + 3.0


@pytest.mark.parametrize("k", [1, 2, 5, 15])
def test_known_rank_is_recovered(k):
    report = rank.rank_report(concepts_of_rank(k))
    assert report["effective_rank"] == pytest.approx(k, rel=0.02)
    assert report["spectrum"][k - 1] == pytest.approx(1 / k, rel=0.02)
    assert report["spectrum"][k:] == pytest.approx([0.0] * (16 - k), abs=1e-6)


def test_singular_values_are_those_of_an_svd():
    for shape in ((3, 8, 20), (3, 20, 8)):
        m_BCD = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(rank.singular_values(m_BCD), torch.linalg.svdvals(m_BCD.double()))


def test_effective_rank_counts_singular_values_not_their_squares():
    s_K = torch.tensor([3.0, 1.0], dtype=torch.float64)
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert float(rank.effective_rank(s_K[None])) == pytest.approx(expected)


def test_identical_concepts_have_rank_zero_and_uncentred_rank_one():
    same_TCD = torch.randn(12, 1, 24).expand(12, 8, 24).contiguous()
    report = rank.rank_report(same_TCD)
    assert report["effective_rank"] == 0
    assert report["effective_rank_uncentred"] == pytest.approx(1, abs=1e-3)


def test_slots_that_ignore_the_text_score_no_content():
    slots_CD = torch.randn(8, 24)
    report = rank.rank_report(slots_CD.expand(30, 8, 24) + 1e-7 * torch.randn(30, 8, 24))
    assert report["effective_rank"] > 6
    assert report["content_rank"] == 0
    assert report["variance"]["slot"] == pytest.approx(1, abs=1e-4)
    assert report["sum_over_max"] > 3  # the plan's own figure calls these slots healthy


def test_noise_reaches_its_ceiling_and_no_more():
    noise_TCD = torch.randn(200, 16, 24, generator=torch.Generator().manual_seed(3))
    report = rank.rank_report(noise_TCD)
    assert report["share_of_ceiling"] == pytest.approx(1, rel=0.02)
    assert report["content_share_of_ceiling"] == pytest.approx(1, rel=0.02)
    assert report["noise_ceiling"] < 15


def test_one_shared_vector_drives_only_the_plans_figure_down():
    noise_TCD = torch.randn(200, 16, 24, generator=torch.Generator().manual_seed(4)) + 5
    report = rank.rank_report(noise_TCD)
    assert report["sum_over_max"] < 1.5
    assert report["share_of_ceiling"] == pytest.approx(1, rel=0.02)


def test_variance_shares_of_a_known_mixture():
    torch.manual_seed(0)
    slot, text, both = torch.randn(1, 40, 64), 2 * torch.randn(400, 1, 64), 3 * torch.randn(400, 40, 64)
    shares = rank.variance_shares(slot + text + both)
    assert shares["slot"] == pytest.approx(1 / 14, rel=0.05)
    # The mean of 40 interactions is part of what a text's concepts share.
    assert shares["text"] == pytest.approx((4 + 9 / 40) / 14, rel=0.02)
    assert shares["interaction"] == pytest.approx(9 * (39 / 40) / 14, rel=0.02)
    assert sum(shares[name] for name in ("slot", "text", "interaction")) == pytest.approx(1)
    assert shares["between_texts"] == pytest.approx(1 - shares["slot"])


def test_masked_concepts_count_for_nothing():
    z_TCD = concepts_of_rank(3, texts=12)
    padded_TCD = torch.cat([z_TCD, torch.full((12, 5, 32), 99.0)], dim=1)
    mask_TC = torch.arange(21).expand(12, 21) < 16
    plain, masked = rank.rank_report(z_TCD), rank.rank_report(padded_TCD, mask_TC)
    names = (
        "effective_rank",
        "content_rank",
        "noise_ceiling",
        "sum_over_max",
        "effective_rank_uncentred",
    )
    for name in names:
        assert masked[name] == pytest.approx(plain[name], rel=1e-4), name
    assert masked["variance"] == pytest.approx(plain["variance"])


def test_texts_with_fewer_than_two_concepts_are_left_out():
    mask_TC = torch.ones(12, 16, dtype=torch.bool)
    mask_TC[0, 1:] = False
    report = rank.rank_report(concepts_of_rank(4, texts=12), mask_TC)
    assert report["texts"] == 11
    assert report["effective_rank"] == pytest.approx(4, rel=0.02)


def test_mean_ceiling_of_many_lengths_is_close_to_the_exact_one():
    count_T = torch.arange(2, 40)
    exact = sum(rank.noise_ceiling(int(count), 48)[0] for count in count_T) / len(count_T)
    assert rank.mean_noise_ceiling(count_T, 48) == pytest.approx(exact, rel=0.01)


def test_too_few_texts_are_answered_with_the_number_needed():
    report = rank.rank_report(torch.randn(4, 8, 24))
    assert report["content_rank"] is None
    assert report["rankme"] is None
    text = " ".join(report["notes"])
    assert "at least 10 texts, got 4" in text
    assert "at least 25, got 4" in text


def test_rankme_of_texts_in_k_directions():
    basis_KD = orthonormal(6, 20)
    z_TD = torch.randn(4_000, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64) @ basis_KD
    assert rank.rankme(z_TD) == pytest.approx(6, rel=0.02)
    assert rank.rankme(z_TD + 50, centre=True) == pytest.approx(6, rel=0.02)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), shift=st.floats(-2, 2))
def test_rank_is_invariant_to_rotation_scale_and_a_shared_vector(seed, scale, shift):
    generator = torch.Generator().manual_seed(seed)
    z_TCD = torch.randn(3, 6, 10, generator=generator, dtype=torch.float64)
    rotation_DD = torch.linalg.qr(torch.randn(10, 10, generator=generator, dtype=torch.float64)).Q
    moved_TCD = scale * (z_TCD @ rotation_DD + shift)
    plain_T, moved_T = rank.ranks_per_text(z_TCD)[0], rank.ranks_per_text(moved_TCD)[0]
    torch.testing.assert_close(plain_T, moved_T, rtol=1e-6, atol=1e-6)


@settings(max_examples=25)
@given(concepts=st.integers(2, 12), width=st.integers(2, 12), seed=st.integers(0, 10_000))
def test_rank_lies_between_one_and_what_centring_leaves(concepts, width, seed):
    z_TCD = torch.randn(2, concepts, width, generator=torch.Generator().manual_seed(seed))
    rank_T, _ = rank.ranks_per_text(z_TCD)
    assert (rank_T >= 1 - 1e-9).all()
    assert (rank_T <= min(concepts - 1, width) + 1e-6).all()
