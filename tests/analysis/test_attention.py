import pytest
import torch

from concept_encoder.analysis.attention import ReadTally, attention_report
from concept_encoder.analysis.capture import capture

TEXTS, TOKENS = 400, 24


def tally_of(a_TCN: torch.Tensor) -> ReadTally:
    texts, concepts, tokens = a_TCN.shape
    tally = ReadTally(concepts, tokens)
    special_TN = torch.zeros(texts, tokens, dtype=torch.bool)
    special_TN[:, 0] = True
    everything = torch.ones(texts, concepts, dtype=torch.bool), torch.ones(texts, tokens, dtype=torch.bool)
    tally.update(a_TCN[:, None], *everything, special_TN)
    return tally


def at(position_T: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(position_T, TOKENS).float()


def test_position_content_and_no_look_up_are_told_apart():
    generator = torch.Generator().manual_seed(0)
    by_content = at(torch.randint(TOKENS, (TEXTS,), generator=generator))
    by_position = at(torch.full((TEXTS,), 7))
    nowhere = torch.full((TEXTS, TOKENS), 1 / TOKENS)
    half = torch.where(torch.arange(TEXTS)[:, None] < TEXTS // 2, by_position, by_content)
    tally = tally_of(torch.stack([by_position, by_content, nowhere, half], dim=1))
    position, content, none, mixed = tally.position_score().tolist()
    assert position == pytest.approx(1)
    assert content == pytest.approx(0, abs=0.02)
    assert none != none
    # Looking at one place in half of the texts: the mean has half the size, a quarter of the energy.
    assert mixed == pytest.approx(0.25, rel=0.1)
    report = attention_report(tally)
    assert (report["position_lookups"], report["content_lookups"], report["no_lookup"]) == (1, 2, 1)


def test_entropy_special_share_and_sink():
    on_special = at(torch.zeros(TEXTS, dtype=torch.long))
    uniform = torch.full((TEXTS, TOKENS), 1 / TOKENS)
    tally = tally_of(torch.stack([on_special, uniform], dim=1))
    torch.testing.assert_close(tally.entropy(), torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(tally.special_share(), torch.tensor([1.0, 1 / TOKENS], dtype=torch.float64))
    assert tally.sink_share() == pytest.approx((1 + 1 / TOKENS) / 2)
    assert tally.uniform() == pytest.approx(1 / TOKENS)


def test_distance_profile_peaks_where_concepts_look_from_their_own_place():
    centre_C = torch.tensor([4.0, 10.0, 15.0])
    a_TCN = torch.stack([at(torch.full((TEXTS,), int(c) + 2)) for c in centre_C], dim=1)
    tally = tally_of(a_TCN)
    assert dict(tally.distance_profile(centre_C))[2] == pytest.approx(1)
    assert dict(tally.distance_profile())[0] == pytest.approx(1)  # without a place of its own: the mean position
    assert sum(share for _, share in tally.distance_profile(centre_C)) == pytest.approx(1)


def test_few_texts_get_no_position_score():
    report = attention_report(tally_of(at(torch.full((5,), 3))[:, None]))
    assert report["position_score"] == [None]
    assert "at least 20 texts, got 5" in report["notes"][0]


def test_padding_and_batches_do_not_change_the_sums(texts, scripted):
    def script(input_ids, attention_mask):
        a_BN = attention_mask * input_ids.float()
        a_BN = a_BN / a_BN.sum(1, keepdim=True)
        a_BHCN = a_BN[:, None, None].expand(-1, 2, 3, -1)
        return torch.ones(len(input_ids), 3, 8), a_BHCN

    some = texts(30)
    together, alone = (capture(scripted(script), some, batch_size=size).reads[0] for size in (30, 1))
    for name in ("count_CN", "attention_CN", "excess_CN", "excess_square_CN", "entropy_C", "special_C"):
        torch.testing.assert_close(getattr(together, name), getattr(alone, name), atol=1e-6, rtol=1e-5)
    assert together.sink_share() == pytest.approx(alone.sink_share())
