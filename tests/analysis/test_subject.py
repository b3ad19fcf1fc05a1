import shutil

import pytest
import torch

from concept_encoder.analysis.capture import capture
from concept_encoder.analysis.rank import rank_report
from concept_encoder.analysis.subject import load_subject, tokenize
from concept_encoder.errors import UserError


@pytest.mark.parametrize("name", ["learned", "anchored"])
def test_capture_equals_each_text_alone(checkpoints, texts, name):
    subject, some = load_subject(checkpoints[name]), texts(9)
    together, again = capture(subject, some, batch_size=4), capture(subject, some, batch_size=4)
    assert torch.equal(together.z_TCD, again.z_TCD)
    for row, text in enumerate(some):
        alone = capture(subject, [text])
        count = int(alone.mask_TC.sum())
        assert int(together.mask_TC[row].sum()) == count
        torch.testing.assert_close(together.z_TCD[row, :count], alone.z_TCD[0, :count], atol=1e-5, rtol=1e-4)
        assert not together.z_TCD[row, count:].any()


def test_every_read_is_tallied_and_examples_show_the_text(checkpoints, texts):
    subject, some = load_subject(checkpoints["learned"]), texts(12, longest=20)
    captured = capture(subject, some, examples=2)
    assert len(captured.reads) == subject.model.config.layer_types.count("read")
    torch.testing.assert_close(captured.reads[0].attention_CN.sum(1) / 12, torch.ones(6, dtype=torch.float64))
    assert len(captured.examples) == 2
    example = captured.examples[0]
    assert example.tokens[0] == "[CLS]"
    assert "".join(example.tokens[1:-1]) == some[example.text].replace(" ", "")
    torch.testing.assert_close(example.attention_CN.sum(1), torch.ones(6))


def test_anchored_concepts_own_places_and_learned_ones_do_not(checkpoints):
    assert load_subject(checkpoints["learned"]).own_positions(6, 32) is None
    middle_C = load_subject(checkpoints["anchored"]).own_positions(3, 12)
    assert middle_C.tolist() == [1.5, 5.5, 9.5]


@pytest.mark.parametrize("name", ["bert", "foreign"])
def test_token_states_of_any_encoder_stand_beside_concepts(checkpoints, texts, name):
    subject, some = load_subject(checkpoints[name], states="tokens"), texts(12)
    captured = capture(subject, some)
    lengths = [len(ids) for ids in tokenize(subject, some).ids]
    assert captured.mask_TC.sum(1).tolist() == lengths
    assert captured.reads == []
    assert rank_report(captured.z_TCD, captured.mask_TC)["effective_rank"] > 1


@pytest.mark.parametrize("name", ["bert", "foreign"])
def test_models_without_concepts_say_what_can_be_done(checkpoints, name):
    with pytest.raises(UserError, match=r"--states tokens") as caught:
        load_subject(checkpoints[name])
    assert "\n" not in str(caught.value)


def test_either_states_are_those_that_a_model_has(checkpoints):
    kinds = {name: load_subject(checkpoints[name], states=None).kind for name in ("learned", "bert", "foreign")}
    assert kinds == {"learned": "concepts", "bert": "tokens", "foreign": "tokens"}


def test_long_texts_are_cut_and_counted(checkpoints, texts):
    subject = load_subject(checkpoints["learned"])
    tokenized = tokenize(subject, ["cat " * 100, "cat", "dog " * 40])
    assert tokenized.truncated == 2
    assert max(len(ids) for ids in tokenized.ids) == tokenized.max_length == 32
    with pytest.raises(UserError, match=r"max_length: 64 is more than the model's 32"):
        tokenize(subject, ["cat"], max_length=64)
    with pytest.raises(UserError, match="texts: there are none"):
        tokenize(subject, [])


@pytest.mark.parametrize("name", ["learned", "foreign"])
@pytest.mark.parametrize("damage", ["weights", "config", "empty"])
def test_damaged_checkpoints_are_named_in_one_line(checkpoints, tmp_path, name, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoints[name], folder)
    if damage == "weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:2_000])
    elif damage == "config":
        (folder / "config.json").write_text('{"model_type": ')
    else:
        (folder / "config.json").unlink()
    with pytest.raises(UserError) as caught:
        load_subject(folder, states="tokens")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
