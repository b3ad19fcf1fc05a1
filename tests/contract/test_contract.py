"""The contract of DESIGN: what every variant must do, on every registered variant and on sampled combinations."""

import copy
import math
from collections.abc import Iterable

import pytest
import torch
from cases import HEADS, changed, valid_configs, variant_cases
from hypothesis import HealthCheck, given, settings

from concept_encoder.model import (
    ConceptEncoderConfig,
    ConceptEncoderForMaskedLM,
    ConceptEncoderForSequenceClassification,
    ConceptEncoderForTokenClassification,
    ConceptEncoderModel,
)
from concept_encoder.model.pooling import CLASSIFIER_HEADS

CASES = variant_cases()
LENGTHS = [37, 20, 5]
every_variant = pytest.mark.parametrize("config", CASES.values(), ids=CASES.keys())


def build(model_class: type, config: ConceptEncoderConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return model_class(copy.deepcopy(config)).eval()  # a model writes its kernel into its configuration


def padded_batch(config: ConceptEncoderConfig) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, config.vocab_size, (len(LENGTHS), LENGTHS[0]), generator=generator)
    ids[torch.rand(ids.shape, generator=generator) < 0.25] = config.mask_token_id
    ids[0, 8:12] = config.mask_token_id  # a whole chunk
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        mask[row, :length] = 1
    return ids, mask


@every_variant
def test_shapes(config):
    ids, mask = padded_batch(config)
    model = build(ConceptEncoderForMaskedLM, config)
    assert model(ids, attention_mask=mask).logits.shape == (3, 37, config.vocab_size)
    output = model.model(ids, attention_mask=mask)
    if config.concept_source == "none":
        assert output.concepts is None
        assert output.last_hidden_state.shape == (3, 37, config.hidden_size)
    else:
        assert output.concepts.shape == (3, config.concepts_at(37), config.hidden_size)
        if output.concept_mask is not None:
            assert output.concept_mask.sum(1).tolist() == [config.concepts_at(length) for length in LENGTHS]


def check_padding_invariance(config: ConceptEncoderConfig) -> None:
    ids, mask = padded_batch(config)
    model = build(ConceptEncoderForMaskedLM, config)
    with torch.no_grad():
        together = model(ids, attention_mask=mask).logits
        for row, length in enumerate(LENGTHS):
            alone = model(ids[row : row + 1, :length]).logits
            torch.testing.assert_close(together[row : row + 1, :length], alone, atol=1e-5, rtol=1e-5)


@every_variant
def test_padding_changes_nothing(config):
    check_padding_invariance(config)


@every_variant
def test_gradient_reaches_every_parameter_and_first_loss_is_ln_v(config):
    ids, mask = padded_batch(config)
    model = build(ConceptEncoderForMaskedLM, config)
    labels = torch.where(mask.bool(), ids, -100)
    loss = model(ids, attention_mask=mask, labels=labels).loss
    assert abs(loss.item() / math.log(config.vocab_size) - 1) < 0.02
    loss.backward()
    assert not silent(model.named_parameters())


def silent(parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> list[str]:
    """The names of those that no gradient reaches."""
    return [name for name, p in parameters if p.grad is None or not p.grad.abs().sum() > 0]


@every_variant
def test_save_and_load_is_bit_equal(config, tmp_path):
    ids, mask = padded_batch(config)
    model = build(ConceptEncoderForMaskedLM, config)
    model.save_pretrained(tmp_path)
    loaded = ConceptEncoderForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits)
    assert loaded.head.decoder.weight is loaded.model.embeddings.word.weight
    assert loaded.config.to_json_string() == model.config.to_json_string()


@every_variant
def test_no_graph_breaks(config):
    ids, _ = padded_batch(config)
    model = build(ConceptEncoderForMaskedLM, config)
    index = torch.arange(5).expand(3, 5)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(model)(ids, labels=ids[:, :5], label_index=index)
    assert explained.graph_break_count == 0, explained.break_reasons


@every_variant
def test_bf16_forward(config):
    ids, mask = padded_batch(config)
    logits = build(ConceptEncoderForMaskedLM, config).to(torch.bfloat16)(ids, attention_mask=mask).logits
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


@every_variant
def test_eager_kernel_agrees_with_sdpa(config):
    ids, mask = padded_batch(config)
    fast, plain = (build(ConceptEncoderForMaskedLM, config) for _ in range(2))
    plain.set_attn_implementation("eager")
    assert fast.config._attn_implementation == "sdpa"
    torch.testing.assert_close(
        fast(ids, attention_mask=mask).logits[mask.bool()],
        plain(ids, attention_mask=mask).logits[mask.bool()],
        atol=1e-5,
        rtol=1e-4,
    )


@every_variant
def test_sparse_loss_equals_dense_loss(config):
    ids, mask = padded_batch(config)
    model = build(ConceptEncoderForMaskedLM, config)
    labels = torch.where(mask.bool() & (torch.arange(37) % 5 == 0), ids, -100)
    dense = torch.nn.functional.cross_entropy(model(ids, attention_mask=mask).logits.flatten(0, 1), labels.flatten())
    sparse = model(ids, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(sparse, dense, atol=1e-6, rtol=1e-5)


@every_variant
@pytest.mark.parametrize("head", HEADS)
def test_classifiers_pad_and_train(config, head):
    if CLASSIFIER_HEADS[head].needs_concepts and not config.has_concepts:
        with pytest.raises(ValueError, match=f"^classifier_head: '{head}' pools concepts"):
            changed(config, classifier_head=head)
        return
    check_classifier(changed(config, classifier_head=head, num_labels=3))


def check_classifier(config: ConceptEncoderConfig) -> None:
    """Padding changes nothing, and gradient reaches whatever the head uses."""
    ids, mask = padded_batch(config)
    model, head = build(ConceptEncoderForSequenceClassification, config), CLASSIFIER_HEADS[config.classifier_head]
    short = ids[2:, :5]
    if head.separate_texts:
        ids, mask = torch.stack([ids, ids.flip(0)], 1), torch.stack([mask, mask.flip(0)], 1)
        short = torch.stack([ids[2:, 0], ids[2:, 1]], 1)
        alone = model(short, attention_mask=mask[2:]).logits
    else:
        alone = model(short).logits
    output = model(ids, attention_mask=mask, labels=torch.tensor([0, 1, 2]))
    torch.testing.assert_close(output.logits[2:], alone, atol=1e-5, rtol=1e-5)
    output.loss.backward()
    own = ("pool.", "classifier.")  # who pools concepts leaves the decoder aside, and moves that only it reads
    assert not [name for name in silent(model.named_parameters()) if not head.needs_concepts or name.startswith(own)]


@every_variant
def test_token_classifier(config):
    ids, mask = padded_batch(config)
    model = build(ConceptEncoderForTokenClassification, config)
    output = model(ids, attention_mask=mask, labels=torch.where(mask.bool(), ids % 2, -100))
    assert output.logits.shape == (3, 37, 2)
    output.loss.backward()
    assert not silent(model.named_parameters())


@every_variant
def test_the_answer_hears_the_concepts(config):
    """An intervention reaches every place where tokens read concepts: identity changes nothing, noise the answer."""
    if config.concept_source == "none":
        return
    ids, mask = padded_batch(config)
    model = build(ConceptEncoderForMaskedLM, config)
    plain = model(ids, attention_mask=mask).logits
    same = model(ids, attention_mask=mask, concept_intervention=lambda z, _: z).logits
    noise = model(ids, attention_mask=mask, concept_intervention=lambda z, _: torch.randn_like(z)).logits
    torch.testing.assert_close(same, plain)
    assert (noise - plain)[mask.bool()].abs().max() > 1e-4


@every_variant
def test_strict_decoders_hear_of_the_text_through_the_concepts_alone(config):
    """Concepts of one text beside the tokens of another: a strict decoder gives the logits of the concepts' text."""
    ids, mask = padded_batch(config)
    other = torch.where(ids == config.mask_token_id, ids, ids.flip(1).clamp(min=5))
    model = build(ConceptEncoderForMaskedLM, config)
    with torch.no_grad():
        s, t = (model.model.encode(texts, attention_mask=mask) for texts in (ids, other))
        expected, found = (model.head(model.model.decode(streams)) for streams in (s, t.replace(z_BCD=s.z_BCD)))
    assert torch.allclose(found[mask.bool()], expected[mask.bool()], atol=1e-6) is model.model.decoder.strict


@every_variant
def test_without_masks_nobody_hears_which_vector_mask_has(config):
    """`mask_free`: no state but those of the hidden tokens themselves depends on the embedding of [MASK]."""
    config = changed(config, mask_free=True)
    ids, mask = padded_batch(config)
    model = build(ConceptEncoderModel, config)
    with torch.no_grad():
        before = model.encode(ids, attention_mask=mask)
        model.embeddings.word.weight[config.mask_token_id].normal_()
        after = model.encode(ids, attention_mask=mask)
    seen_BN = before.visible_BN
    torch.testing.assert_close(after.x_BND[seen_BN], before.x_BND[seen_BN])
    if config.has_concepts:
        exists_BC = slice(None) if before.z_mask_BC is None else before.z_mask_BC
        torch.testing.assert_close(after.z_BCD[exists_BC], before.z_BCD[exists_BC])


@settings(max_examples=25, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(config=valid_configs())
def test_sampled_combinations(config):
    check_padding_invariance(config)
    ids, _ = padded_batch(config)
    model = build(ConceptEncoderForMaskedLM, config)
    model(ids, labels=ids).loss.backward()
    assert not silent(model.named_parameters())
    check_classifier(changed(config, num_labels=3))


def test_auto_classes_load_what_was_saved(tmp_path):
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

    build(ConceptEncoderForMaskedLM, CASES["preset=anchored"]).save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), ConceptEncoderConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), ConceptEncoderModel)
    assert isinstance(AutoModelForMaskedLM.from_pretrained(tmp_path), ConceptEncoderForMaskedLM)
