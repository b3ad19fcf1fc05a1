"""Compiled pretraining: no graph breaks are held by the contract; here, that a run does not compile again and again."""

import copy

import pytest
import torch
from cases import SMALL
from torch._dynamo.testing import CompileCounter

from concept_encoder.model import PRESETS, ConceptEncoderForMaskedLM, preset_config


def labelled_batch(texts: int, length: int, asked: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, SMALL["vocab_size"], (texts, length))
    index = torch.arange(asked).expand(texts, -1)
    return {"input_ids": ids, "label_index": index, "labels": ids[:, :asked], "num_items_in_batch": texts * asked}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_run_compiles_at_most_three_times(preset):
    """Training steps, then evaluation with a smaller last batch, then training again: two recompilations at most."""
    torch.manual_seed(0)
    shallow = {"anchored": 3, "funnel": 5}.get(preset, 2)
    model = ConceptEncoderForMaskedLM(preset_config(preset, shallow, **SMALL))
    counter = CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for round_number in range(2):
        model.train()
        for _ in range(2):
            compiled(**labelled_batch(4, 40, 6)).loss.backward()
        model.eval()
        with torch.no_grad():
            for texts in (4, 3):
                compiled(**labelled_batch(texts, 40, 6))
        if round_number == 0:
            once = counter.frame_count
    assert counter.frame_count == once, "the second round must find everything compiled"
    assert counter.frame_count <= 3


@pytest.mark.parametrize("preset", ["anchored", "perceiver_mlm", "woven"])
def test_rows_of_many_lengths_compile_at_most_three_times(preset):
    """`data.packing=documents` gives padded batches of every length; windows tell those that blocks fill apart."""
    torch.manual_seed(0)
    model = ConceptEncoderForMaskedLM(preset_config(preset, {"anchored": 3}.get(preset, 2), **SMALL))
    counter = CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for length in (40, 31, 24, 48, 15):
        mask = (torch.arange(length) < torch.tensor([[length], [length - 3], [length - 7], [length]])).long()
        compiled(**labelled_batch(4, length, length // 7 + 2), attention_mask=mask).loss.backward()
    assert counter.frame_count <= 3


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["perceiver_mlm", "woven", "bert"])
def test_inductor_gives_the_same_loss_and_gradients(preset):
    torch.manual_seed(0)
    plain = ConceptEncoderForMaskedLM(preset_config(preset, 6, **SMALL))
    other = copy.deepcopy(plain)
    batch = labelled_batch(4, 40, 6)
    torch._dynamo.reset()
    losses = [plain(**batch).loss, torch.compile(other, fullgraph=True)(**batch).loss]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    for loss in losses:
        loss.backward()
    for one, two in zip(plain.parameters(), other.parameters()):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-6)
