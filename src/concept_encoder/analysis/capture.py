"""Run a subject over texts once and keep what the figures need.

That is all states, running sums of every read's attention, and the full attention of a few example sentences.

Shapes: T texts, C concepts, N tokens, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from concept_encoder.analysis.attention import ReadTally
from concept_encoder.analysis.subject import Batch, States, Subject, Tokenized, batches, tokenize

Progress = Callable[[str, int, int], None]  # what is being done, how much is done, of how much
EXAMPLE_TOKENS = (8, 36)  # a sentence that fits a page


@dataclass
class Example:
    """The last read's attention [C, N] (mean of heads) over one text, its tokens as the reader wrote them."""

    text: int
    tokens: list[str]
    attention_CN: Tensor
    concepts: int


@dataclass
class Capture:
    """What one pass over the texts left.

    Attributes:
        z_TCD: states in the order of the texts; zero where `mask_TC` is False.
        reads: running attention of every read, the first read first; empty for token states.
    """

    z_TCD: Tensor
    mask_TC: Tensor
    tokenized: Tokenized
    reads: list[ReadTally] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)


def capture(
    subject: Subject,
    texts: Sequence[str],
    *,
    pairs: Sequence[str] | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    examples: int = 3,
    progress: Progress | None = None,
) -> Capture:
    """Encode all texts, or pairs of texts as one; the same texts give the same result.

    Raises:
        UserError: there are no texts, or `max_length` is beyond the model's.
    """
    tokenized = tokenize(subject, texts, max_length, pairs)
    chosen = _choose_examples(tokenized, examples)
    kept: Capture | None = None
    done = 0
    for batch in batches(subject, tokenized, batch_size):
        states = subject.states(batch.inputs, attention=True)
        kept = kept or _empty_capture(states, batch, tokenized)
        _keep(kept, batch, states)
        if states.reads:
            rows = [(row, text) for row, text in enumerate(batch.index) if text in chosen]
            kept.examples += [_example(subject, tokenized, states, row, text) for row, text in rows]
        done += len(batch.index)
        if progress:
            progress("encoding texts", done, len(tokenized))
    assert kept is not None
    kept.examples.sort(key=lambda example: example.text)
    return kept


def _empty_capture(states: States, batch: Batch, tokenized: Tokenized) -> Capture:
    """Batches come longest first, so the first one has the most concepts and tokens."""
    concepts, width = states.z_BCD.shape[1:]
    tokens = batch.inputs["input_ids"].shape[1]
    return Capture(
        z_TCD=torch.zeros(len(tokenized), concepts, width),
        mask_TC=torch.zeros(len(tokenized), concepts, dtype=torch.bool),
        tokenized=tokenized,
        reads=[ReadTally(read.shape[2], tokens) for read in states.reads],
    )


def _keep(kept: Capture, batch: Batch, states: States) -> None:
    concepts = states.z_BCD.shape[1]
    kept.z_TCD[batch.index, :concepts] = states.z_BCD.masked_fill(~states.mask_BC[..., None], 0.0)
    kept.mask_TC[batch.index, :concepts] = states.mask_BC
    tokens_BN = batch.inputs["attention_mask"].bool()
    for tally, read in zip(kept.reads, states.reads):
        tally.update(read, states.mask_BC, tokens_BN, batch.special_BN)


def _choose_examples(tokenized: Tokenized, examples: int) -> set[int]:
    """The first texts of a readable length, or else the shortest ones."""
    low, high = EXAMPLE_TOKENS
    lengths = [len(ids) for ids in tokenized.ids]
    readable = [text for text, length in enumerate(lengths) if low <= length <= high]
    shortest = sorted(range(len(lengths)), key=lambda text: (lengths[text], text))
    return set((readable or shortest)[:examples])


def _example(subject: Subject, tokenized: Tokenized, states: States, row: int, text: int) -> Example:
    """Tokens are shown as the pieces of the text that they cover; special tokens by their names."""
    shown = min(len(tokenized.ids[text]), EXAMPLE_TOKENS[1])
    names = subject.tokenizer.convert_ids_to_tokens(tokenized.ids[text][:shown])
    pieces = [piece or name for piece, name in zip(tokenized.pieces(text), names)]
    concepts = int(states.mask_BC[row].sum())
    attention_CN = states.reads[-1][row, :, :concepts, :shown].mean(0)
    return Example(text, pieces, attention_CN, concepts)
