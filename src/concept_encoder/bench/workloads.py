"""One step of each mode, and the batches that it works on."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from concept_encoder.bench.contestants import Batch
from concept_encoder.bench.modes import MASK_RATE

Step = Callable[[Batch], None]


def packed_batch(length: int, tokens: int, vocab_size: int, seed: int = 0) -> Batch:
    """`tokens / length` full rows (at least one) of random ids, 15 % of each labelled."""
    return _batch([length] * max(tokens // length, 1), length, vocab_size, seed, masked=False)


def padded_batches(lengths: Sequence[int], size: int, vocab_size: int, multiple: int = 8) -> list[Batch]:
    """Texts of these lengths in order, `size` a batch, padded to a multiple of 8 of the longest."""
    batches = []
    for start in range(0, len(lengths) - size + 1, size):
        part = lengths[start : start + size]
        width = -(-max(part) // multiple) * multiple
        batches.append(_batch(part, width, vocab_size, start, masked=True))
    return batches


def _batch(lengths: Sequence[int], width: int, vocab_size: int, seed: int, masked: bool) -> Batch:
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, vocab_size, (len(lengths), width))
    most = max(round(MASK_RATE * max(lengths)), 1)
    index = np.zeros((len(lengths), most), dtype=np.int64)
    labels = np.full((len(lengths), most), -100, dtype=np.int64)
    for row, length in enumerate(lengths):
        chosen = np.sort(rng.choice(length, max(round(MASK_RATE * length), 1), replace=False))
        index[row, : len(chosen)] = chosen
        labels[row, : len(chosen)] = ids[row, chosen]
        ids[row, length:] = 0
    mask = (np.arange(width) < np.asarray(lengths)[:, None]).astype(np.int64) if masked else None
    classes = rng.integers(0, 2, len(lengths))
    arrays = (ids, mask, index, labels, classes)
    return Batch(*(None if array is None else torch.from_numpy(array) for array in arrays))


def make_step(mode: str, contestant: nn.Module, precision: str, compiled: bool = False) -> Step:
    """A function that does the work of `mode` on one batch."""
    device = next(contestant.parameters()).device
    loss_of = {
        "body": lambda batch: contestant.body(batch).float().square().mean(),
        "pretrain": lambda batch: contestant.masked_lm_loss(batch),
        "finetune": lambda batch: contestant.classification_loss(batch),
        "inference": lambda batch: contestant.body(batch),
    }[mode]
    if compiled:
        loss_of = torch.compile(loss_of)
    contestant.train(mode != "inference")
    learns = mode in ("pretrain", "finetune")
    used = [parameter for parameter in contestant.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(used, lr=1e-5, fused=True) if learns else None

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            if mode == "inference":
                with torch.no_grad():
                    loss_of(batch)
                return
            loss = loss_of(batch)
        loss.backward()
        if optimizer is not None:
            optimizer.step()
        contestant.zero_grad()

    return step
