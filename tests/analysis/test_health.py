import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from concept_encoder.analysis import health
from concept_encoder.analysis.capture import capture
from concept_encoder.analysis.subject import load_subject
from concept_encoder.errors import UserError


def verdicts(checks: list[health.Check]) -> dict[str, str]:
    return {check.name: check.verdict for check in checks}


@pytest.fixture
def subject(checkpoints):
    return load_subject(checkpoints["learned"])


@pytest.fixture
def some(texts):
    return texts(12)


def test_a_sound_checkpoint_passes(checkpoints, some):
    for name in ("anchored", "classifier"):
        subject = load_subject(checkpoints[name])
        checks = health.check_health(subject, capture(subject, some))
        assert all(check.verdict != "fail" for check in checks), checks
        assert health.exit_code(checks) == 0
    foreign = load_subject(checkpoints["foreign"], states="tokens")
    checks = health.check_health(foreign, capture(foreign, some))
    assert health.worst(checks) == "ok", checks


def test_nan_weights_fail_and_are_named(subject, some):
    subject.model.head.dense.weight.data[0, 0] = torch.nan
    checks = health.check_health(subject, capture(subject, some))
    assert verdicts(checks)["weights"] == "fail"
    assert "head.dense.weight" in checks[0].evidence
    assert health.exit_code(checks) == 1


def test_nan_states_fail(subject, some):
    subject.model.model.groups["0"].attention.out.weight.data[:] = torch.inf
    checks = health.check_health(subject, capture(subject, some))
    assert verdicts(checks)["states"] == "fail"
    assert "12 of 12 texts" in next(check.evidence for check in checks if check.name == "states")


def test_exploding_weights_and_activations(subject, some):
    subject.model.model.embeddings.word.weight.data *= 1e6
    found = verdicts(health.check_health(subject, capture(subject, some)))
    assert found["weights"] == "fail"
    assert found["activations"] == "fail"


def test_an_untied_head_fails_when_it_should_be_tied(subject):
    assert health.check_tied(subject.model).verdict == "ok"
    subject.model.head.decoder.weight = torch.nn.Parameter(subject.model.head.decoder.weight.detach().clone())
    assert health.check_tied(subject.model).verdict == "fail"
    subject.model.config.tie_word_embeddings = False
    assert health.check_tied(subject.model).evidence == "untied, as configured"


def test_weights_that_the_file_lacks_fail(checkpoints, tmp_path):
    folder = tmp_path / "lacking"
    shutil.copytree(checkpoints["learned"], folder)
    weights = load_file(folder / "model.safetensors")
    gone = weights.pop("head.dense.weight")
    assert gone is not None
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"holds no weights for head.dense.weight"):  # not even loaded
        load_subject(folder)


def test_dead_units_and_dimensions(subject, some):
    for group in subject.model.model.groups.values():
        if hasattr(group, "feed_forward"):
            group.feed_forward.widen.weight.data[:24] = 0
    found = verdicts(health.check_health(subject, capture(subject, some)))
    assert found["dead units"] in ("warn", "fail")
    z_TCD = torch.randn(20, 4, 10)
    z_TCD[..., 0] = 1
    mask_TC = torch.ones(20, 4, dtype=torch.bool)
    assert health.check_dimensions(z_TCD, mask_TC).verdict == "warn"


def test_collapsed_and_dead_concepts_warn():
    mask_TC = torch.ones(20, 4, dtype=torch.bool)
    collapsed = torch.randn(20, 1, 10) + 1e-3 * torch.randn(20, 4, 10)
    assert [check.verdict for check in health.check_concepts(collapsed, mask_TC)] == ["warn", "ok"]
    deaf = torch.randn(1, 4, 10).expand(20, 4, 10)
    assert health.check_concepts(deaf, mask_TC)[1].verdict == "warn"


def test_attention_sinks_warn(scripted, some):
    def script(input_ids, attention_mask):
        a_BN = torch.zeros_like(attention_mask, dtype=torch.float)
        a_BN[:, 0] = 0.8
        a_BN[:, 1] = 0.2
        return torch.randn(len(input_ids), 3, 8), a_BN[:, None, None].expand(-1, 2, 3, -1)

    (check,) = health.check_sinks(capture(scripted(script), some))
    assert check.verdict == "warn"
    assert "80 %" in check.evidence
