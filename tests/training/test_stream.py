"""The order of training examples: what a place in the stream holds, and batches of like length."""

from itertools import chain

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, SequentialSampler

from concept_encoder.objectives.masking import PLACE
from concept_encoder.training.schedule import StepSizes
from concept_encoder.training.stream import ExampleStream, LengthGrouped


class Rows:
    """Rows that say their own number."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"row": index}


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(np.array)
BATCH = st.integers(1, 9)
SEED = st.integers(0, 5)


def stream(lengths, batch_size, seed, examples=None, window=3):
    order = LengthGrouped(lengths, np.arange(0, 10_000, batch_size), window)
    return ExampleStream(Rows(len(lengths)), 3 * len(lengths) if examples is None else examples, seed, order)


def rows_of(examples):
    return [examples[place]["row"] for place in range(len(examples))]


@given(LENGTHS, BATCH, SEED, st.integers(1, 4))
def test_every_row_comes_once_an_epoch(lengths, batch_size, seed, window):
    found = rows_of(stream(lengths, batch_size, seed, window=window))
    for epoch in np.split(np.array(found), 3):
        assert sorted(epoch) == list(range(len(lengths)))


@given(LENGTHS, BATCH, SEED, st.data())
def test_a_place_holds_the_same_row_whoever_asks_and_when(lengths, batch_size, seed, data):
    whole = rows_of(stream(lengths, batch_size, seed))
    place = data.draw(st.integers(0, len(whole) - 1))
    fresh = stream(lengths, batch_size, seed)  # a resumed run begins in the middle
    assert [fresh[i]["row"] for i in range(place, len(whole))] == whole[place:]
    assert fresh[place] == {"row": whole[place], PLACE: place}  # and back, as a loader's worker may
    longer = stream(lengths, batch_size, seed, 5 * len(lengths))
    assert rows_of(longer)[: len(whole)] == whole


@given(LENGTHS, BATCH, SEED)
def test_batches_are_neighbours_in_length(lengths, batch_size, seed):
    """Of four windows or fewer batches: a batch is sorted, and windows are sorted before they are cut."""
    batches = np.array(rows_of(stream(lengths, batch_size, seed)))
    for start in range(0, len(batches) - batch_size + 1, batch_size):
        if start // len(lengths) == (start + batch_size - 1) // len(lengths):  # not shared by two epochs
            own = lengths[batches[start : start + batch_size]]
            assert (np.diff(own) >= 0).all()


def test_little_is_padding():
    lengths = np.random.default_rng(0).permutation(1600)
    grouped = lengths[np.array(rows_of(stream(lengths, 16, 0, 1600, window=50)))].reshape(100, 16)
    plain = lengths[np.array(rows_of(ExampleStream(Rows(1600), 1600, 0)))].reshape(100, 16)
    # 400 rows a window: the neighbours in length of a batch of 16 are spread over 16 / 400 of all lengths
    assert np.ptp(grouped, axis=1).mean() == pytest.approx(1600 * 16 / 400, rel=0.15)
    assert np.ptp(plain, axis=1).mean() > 1000
    order = grouped[:, 0]
    assert abs(np.corrcoef(order, np.arange(100))[0, 1]) < 0.3  # short and long batches take turns


def test_a_batch_warm_up_keeps_the_steps_together():
    lengths = np.random.default_rng(0).integers(5, 128, 4000)
    sizes = StepSizes(steps=80, batch_size=64, batch_warmup=0.3)
    order = LengthGrouped(lengths, sizes.first_row)
    read = rows_of(ExampleStream(Rows(4000), int(sizes.first_row[-1]), 0, order))
    batches = np.split(lengths[read], sizes.first_row[1:-1])
    real, padded = lengths[read].sum(), sum(len(batch) * batch.max() for batch in batches)
    assert real / padded > 0.85  # 0.5 when batches are not those of the steps


def test_another_epoch_and_another_seed_make_other_batches():
    lengths = np.random.default_rng(0).integers(5, 60, 400)

    def batches(seed, epoch):
        return {
            frozenset(batch) for batch in np.split(np.array(rows_of(stream(lengths, 8, seed)))[epoch * 400 :][:400], 50)
        }

    first = batches(0, 0)
    assert len(first & batches(0, 1)) < 10
    assert len(first & batches(1, 0)) < 10
    assert first == batches(0, 0)


@given(LENGTHS, st.sampled_from([(8, 1, 8), (8, 2, 4), (8, 2, 2), (8, 4, 1), (6, 3, 2)]), SEED)
def test_processes_and_micro_batches_share_the_same_steps(lengths, sizes, seed):
    """As accelerate deals batches to processes: step k is the same set of rows, and no share is padded further."""
    batch_size, processes, micro = sizes
    steps = 2 * len(lengths) // batch_size
    examples = stream(lengths, batch_size, seed, steps * batch_size)
    alone = np.array(rows_of(examples)).reshape(steps, batch_size)
    sampler = BatchSampler(SequentialSampler(examples), micro, drop_last=False)
    rounds = batch_size // (processes * micro)  # of accumulation in a step
    shares = [list(BatchSamplerShard(sampler, processes, process)) for process in range(processes)]
    for step in range(steps):
        mine = [shares[process][step * rounds + i] for process in range(processes) for i in range(rounds)]
        rows = [[examples[place]["row"] for place in places] for places in mine]
        assert sorted(chain.from_iterable(rows)) == sorted(alone[step])
        padded = sum(len(part) * lengths[part].max() for part in map(np.array, rows))
        assert padded <= batch_size * lengths[alone[step]].max()


def test_a_stream_without_a_seed_keeps_the_order_of_the_rows():
    assert rows_of(ExampleStream(Rows(5), 7, None)) == [0, 1, 2, 3, 4, 0, 1]
    with pytest.raises(IndexError):
        ExampleStream(Rows(5), 7, None)[7]
