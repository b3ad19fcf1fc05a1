"""Does the task use the concepts? The loss that is added when tokens no longer hear them, in moves and decoder.

Three ways to take a concept away: **zero** it; **shuffle** it between texts (it stays plausible, but
belongs to another text); replace it by its **mean** over texts (it keeps what it always says). Added loss
near zero for all concepts at once means that the model answers without them, whatever its score.

Shapes: B texts of a batch, C concepts, N tokens, D width, X batches.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from concept_encoder.analysis.capture import Progress
from concept_encoder.analysis.subject import Subject, Tokenized, batches
from concept_encoder.data.conllu import spans_of_words
from concept_encoder.data.tasks.tagging import first_tokens
from concept_encoder.model import ConceptEncoderModel
from concept_encoder.model.interventions import averaged, shuffled, zeroed
from concept_encoder.model.losses import IGNORE
from concept_encoder.model.moves import MOVES
from concept_encoder.model.streams import Intervention, Streams

KINDS = ("zero", "shuffle", "mean")


def masked_batches(
    subject: Subject, tokenized: Tokenized, *, rate: float = 0.15, batch_size: int = 16, seed: int = 0
) -> list[dict[str, Tensor]]:
    """Batches with a share of each text's tokens hidden by [MASK] and asked for; always the same."""
    rng, made = np.random.default_rng(seed), []
    for batch in batches(subject, tokenized, batch_size):
        inputs = dict(batch.inputs)
        hidden_BN = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        for row, special_N in enumerate(batch.special_BN.numpy()):
            open_M = np.flatnonzero(~special_N)
            chosen = rng.choice(open_M, min(max(1, round(rate * len(open_M))), len(open_M)), replace=False)
            hidden_BN[row, torch.from_numpy(chosen)] = True
        inputs["labels"] = inputs["input_ids"].masked_fill(~hidden_BN, IGNORE)
        inputs["input_ids"] = inputs["input_ids"].masked_fill(hidden_BN, subject.tokenizer.mask_token_id)
        made.append(inputs)
    return made


def labelled_batches(
    subject: Subject, tokenized: Tokenized, labels: Sequence[int | float], *, batch_size: int = 16
) -> list[dict[str, Tensor]]:
    """Batches with one label an example, for a checkpoint that classifies texts or pairs of them.

    Args:
        tokenized: a row an example; two rows an example where the head encodes the texts of a pair apart.
    """
    together = 2 if subject.separate_texts else 1
    assert len(tokenized) == together * len(labels)
    label_T, made = torch.tensor(labels), []
    for batch in batches(subject, tokenized, batch_size, together):
        inputs = dict(batch.inputs)
        if subject.separate_texts:
            inputs = {name: values.unflatten(0, (-1, 2)) for name, values in inputs.items()}
        made.append(inputs | {"labels": label_T[[row // together for row in batch.index[::together]]]})
    return made


def tagged_batches(
    subject: Subject,
    tokenized: Tokenized,
    words: Sequence[Sequence[str]],
    tags: Sequence[Sequence[int]],
    *,
    batch_size: int = 16,
) -> list[dict[str, Tensor]]:
    """Batches with the tag number of each word at its first token, for a checkpoint that classifies tokens."""
    made = []
    for batch in batches(subject, tokenized, batch_size):
        labels_BN = torch.full_like(batch.inputs["input_ids"], IGNORE)
        for row, number in enumerate(batch.index):
            owners = first_tokens(tokenized.offsets[number], spans_of_words(words[number]))
            for token, word in enumerate(owners):
                if word is not None:
                    labels_BN[row, token] = tags[number][word]
        made.append(batch.inputs | {"labels": labels_BN})
    return made


@torch.inference_mode()
def dependence(
    subject: Subject, made: Sequence[dict[str, Tensor]], *, each_labels: int = 300, progress: Progress | None = None
) -> dict:
    """Loss added by taking concepts away, JSON-able.

    Args:
        made: batches with labels, from the functions above.
        each_labels: how many labels of the first batch ask for every concept alone (C x 3 passes); 0 leaves that out.
    """
    labels_X = np.array([float((batch["labels"] != IGNORE).sum()) for batch in made])
    apart = 2 if subject.separate_texts else 1
    with encoded_once(subject.encoder):
        exists_C, base_X = _base(subject, made)
        report = {"labels": int(labels_X.sum()), "base_loss": None, "notes": []}
        if not np.isfinite(base_X).all():
            report["notes"].append("the loss itself is NaN or infinite: nothing can be added to it")
            return report
        report["base_loss"] = _weighted(base_X, labels_X)
        if len(made[0]["input_ids"]) < 2:
            report["notes"].append("the loss without concepts needs at least 2 texts to exchange them between, got 1")
            return report
        report["all"] = {}
        for kind, change in _changes(torch.ones_like(exists_C), apart).items():
            added_X = np.array([_loss(subject, batch, change) for batch in made]) - base_X
            error = float(added_X.std(ddof=1) / len(made) ** 0.5) if len(made) > 1 else None
            report["all"][kind] = {"added": _weighted(added_X, labels_X), "standard_error": error and round(error, 5)}
        if each_labels:
            few = _first_labels(made[0], each_labels)
            each = _each(subject, few, exists_C, progress)
            asked = int((few["labels"] != IGNORE).sum())
            report |= {"each": each, "each_labels": asked, "most_missed": _most_missed(each["mean"])}
    return report


def _first_labels(batch: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The first rows of a batch that hold `count` labels between them, but four of them to exchange and to average."""
    asked_B = (batch["labels"] != IGNORE).reshape(len(batch["labels"]), -1).sum(1)
    rows = max(int((asked_B.cumsum(0) < count).sum()) + 1, 4)
    return {name: values[:rows] for name, values in batch.items()}


def _each(
    subject: Subject, batch: dict[str, Tensor], exists_C: Tensor, progress: Progress | None
) -> dict[str, list[float | None]]:
    """Added loss for every concept alone, by kind; None for a concept that never exists."""
    base, apart = _loss(subject, batch, None), 2 if subject.separate_texts else 1
    each: dict[str, list[float | None]] = {kind: [] for kind in KINDS}
    for concept, exists in enumerate(exists_C.tolist()):
        alone_C = torch.arange(len(exists_C)) == concept
        for kind, change in _changes(alone_C, apart).items():
            each[kind].append(round(_loss(subject, batch, change) - base, 6) if exists else None)
        if progress:
            progress("removing concepts", concept + 1, len(exists_C))
    return each


@contextmanager
def encoded_once(encoder: ConceptEncoderModel) -> Iterator[None]:
    """While open, a batch that comes again is not encoded again: only what follows the concepts differs.

    Encoding is four fifths of a pass, and every concept alone is hundreds of passes over the same batches. Where tokens
    hear concepts inside the encoder (`write`, `exchange`), every pass is a whole one.
    """
    if any("tokens" in MOVES[name].updates and "concepts" in MOVES[name].uses for name in encoder.config.layer_types):
        yield
        return
    encode, kept = encoder.encode, {}

    def remembered(input_ids: Tensor, *others: Tensor | None, intervention: Intervention | None = None) -> Streams:
        # The batch outlives this, but heads may hand on a view of it, and a part of it begins at the same place.
        place = (input_ids.data_ptr(), input_ids.shape)
        if place not in kept:
            kept[place] = encode(input_ids, *others)
        return kept[place].replace(intervention=intervention)

    encoder.encode = remembered
    try:
        yield
    finally:
        del encoder.encode  # the method of the class shows again


def _changes(which_C: Tensor, apart: int) -> dict[str, Intervention]:
    """`apart`: rows of an example, so that a text gets the concepts of another example."""
    changes = (zeroed(which_C), shuffled(which_C, apart), averaged(which_C))
    return dict(zip(KINDS, changes))


def _loss(subject: Subject, batch: dict[str, Tensor], change: Intervention | None) -> float:
    return float(subject.model(**batch, concept_intervention=change).loss)


def _base(subject: Subject, made: Sequence[dict[str, Tensor]]) -> tuple[Tensor, np.ndarray]:
    """Which concepts ever exist [C], and the losses as they are [X]."""
    seen: list[Tensor] = []

    def watch(z_BCD: Tensor, mask_BC: Tensor | None) -> Tensor:
        seen.append(torch.ones(z_BCD.shape[1], dtype=torch.bool) if mask_BC is None else mask_BC.any(0))
        return z_BCD

    base_X = np.array([_loss(subject, batch, watch) for batch in made])
    exists_C = torch.zeros(max(map(len, seen)), dtype=torch.bool)
    for ever_C in seen:
        exists_C[: len(ever_C)] |= ever_C
    return exists_C, base_X


def _weighted(added_X: np.ndarray, labels_X: np.ndarray) -> float:
    return round(float((added_X * labels_X).sum() / labels_X.sum()), 6)


def _most_missed(added_C: list[float | None]) -> list[int]:
    """Concepts in the order in which their mean would be the worst replacement."""
    known = [concept for concept, added in enumerate(added_C) if added is not None]
    return sorted(known, key=lambda concept: (-added_C[concept], concept))
