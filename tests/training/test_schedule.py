"""What each step reads: every row once, whatever the warm-ups, processes and micro-batches."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concept_encoder.errors import UserError
from concept_encoder.objectives.masking import PLACE
from concept_encoder.training.pretrain import PretrainRecipe, pretrain
from concept_encoder.training.run_folder import read_metrics
from concept_encoder.training.schedule import CutStream, MicroBatches, StepSizes, steps_for
from concept_encoder.training.stream import ExampleStream

shares = st.sampled_from([0.0, 0.3, 0.5, 1.0])


class Rows:
    """`count` rows of 64 different ids, [CLS] (0) first; rows are looked up one by one or together."""

    def __init__(self, count: int):
        self.ids = 1 + np.arange(count * 64).reshape(count, 64)
        self.ids[:, 0] = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, chosen):
        return {"input_ids": self.ids[chosen]}


def test_the_batch_doubles_from_an_eighth():
    sizes = StepSizes(steps=12, batch_size=64, batch_warmup=0.5)
    assert sizes.rows_S.tolist() == [8, 8, 16, 16, 32, 32, 64, 64, 64, 64, 64, 64]
    assert sizes.pieces_S.tolist() == [1] * 12


def test_the_length_doubles_from_an_eighth_at_equal_tokens():
    sizes = StepSizes(steps=6, batch_size=16, length_warmup=0.5)
    assert sizes.pieces_S.tolist() == [8, 4, 2, 1, 1, 1]
    assert np.diff(sizes.first_place).tolist() == [128, 64, 32, 16, 16, 16]
    assert np.diff(sizes.first_row).tolist() == [16] * 6


@given(steps=st.integers(1, 40), batch=shares, length=shares, accumulation=st.sampled_from([1, 2]))
def test_processes_and_micro_batches_share_each_step(steps, batch, length, accumulation):
    sizes = StepSizes(steps, 32, batch, length)
    whole = list(MicroBatches(sizes, 1))
    assert [place for step in whole for place in step] == list(range(sizes.first_place[-1]))
    assert [len(step) for step in whole] == (sizes.rows_S * sizes.pieces_S).tolist()
    ranks = [list(MicroBatches(sizes, accumulation, world_size=2, rank=rank)) for rank in (0, 1)]
    assert {len(rank) for rank in ranks} == {steps * accumulation}
    for step in range(steps):
        mine = slice(step * accumulation, (step + 1) * accumulation)
        together = [place for rank in ranks for micro in rank[mine] for place in micro]
        assert sorted(together) == whole[step]


@given(steps=st.integers(1, 20), batch=shares, length=shares, seed=st.integers(0, 9))
def test_no_token_is_lost_or_read_twice_when_rows_are_cut(steps, batch, length, seed):
    sizes = StepSizes(steps, 8, batch, length)
    rows = Rows(int(sizes.first_row[-1]))
    stream = CutStream(ExampleStream(rows, len(rows), seed), sizes, cls_id=0)
    examples = [example for places in MicroBatches(sizes, 1) for example in stream.__getitems__(places)]
    assert [example[PLACE] for example in examples] == list(range(len(stream)))
    assert all(example["input_ids"][0] == 0 for example in examples)
    read = np.concatenate([example["input_ids"][1:] for example in examples])
    assert len(np.unique(read)) == len(read)
    assert len(read) == rows.ids.size - len(examples)  # [CLS] takes one place in each


def test_the_epochs_asked_for_are_read():
    for warmup in (0.0, 0.5, 1.0):
        steps = steps_for(3 * 10_000, 64, warmup)
        assert StepSizes(steps, 64, warmup).first_row[-1] == pytest.approx(30_000, rel=0.01)


def with_training(sections: dict, **training: object) -> PretrainRecipe:
    sections = copy.deepcopy(sections)
    sections["data"] |= {"sequence_length": 64, "packing": "full"}
    sections["training"].update(training)
    return PretrainRecipe.from_sections(sections)


def test_a_run_with_both_warm_ups(sections):
    sections["model"]["local_window"] = 8
    recipe = with_training(sections, batch_size=16, batch_warmup=0.5, length_warmup=0.5)
    result = pretrain(recipe)
    assert result["tokens_seen"] == (2 + 4 + 8 + 3 * 16) * 64
    losses = [m["loss"] for m in read_metrics(recipe.training.output_dir) if "loss" in m]
    assert len(losses) == 6
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"batch_size": 12, "batch_warmup": 0.5}, "batch_warmup: starts at batch_size / 8, but 12 is no multiple"),
        ({"batch_warmup": 1.5}, "batch_warmup: 1.5 is not a share"),
    ],
)
def test_sizes_that_cannot_be_halved_are_refused(sections, training, message):
    with pytest.raises(UserError, match=message):
        with_training(sections, **training)


def test_lengths_that_cannot_be_cut_are_refused(sections):
    sections["training"]["length_warmup"] = 0.5
    with pytest.raises(UserError, match=r"training.length_warmup: starts at data.sequence_length / 8; make 24"):
        PretrainRecipe.from_sections(sections)


def test_micro_batches_that_cannot_share_the_first_steps_are_refused(sections):
    recipe = with_training(sections, batch_size=16, micro_batch_size=4, batch_warmup=0.5)
    with pytest.raises(UserError, match=r"training.batch_warmup: the first steps read 2 rows, which 4 micro-batches"):
        pretrain(recipe)
