"""Who is analysed: a checkpoint of ours, or any `transformers` encoder whose token states play the concepts.

Shapes: B texts of a batch, T texts, C concepts, N tokens, D width, H heads.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from concept_encoder import model as ours
from concept_encoder.analysis.material import run_of
from concept_encoder.data.tokenizer import load_tokenizer, longest_text
from concept_encoder.errors import UserError
from concept_encoder.model.loading import is_ours, load_checkpoint, load_foreign, resolve_checkpoint
from concept_encoder.model.sources import SOURCES

Kind = Literal["concepts", "tokens"]

_HEADS = {
    head.__name__: head
    for head in (
        ours.ConceptEncoderForMaskedLM,
        ours.ConceptEncoderForSequenceClassification,
        ours.ConceptEncoderForTokenClassification,
    )
}


@dataclass
class Subject:
    """A model, its tokenizer, and which of its states are looked at.

    Attributes:
        model: as it was saved, head included; in evaluation mode, with attention that keeps its weights.
        kind: "concepts", or "tokens": the last token states stand in for concepts.
        folder: where it was loaded from; None for a model that only lives in memory.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: Kind = "concepts"
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.model.eval()
        if self.kind == "concepts" and getattr(self.model.config, "concept_source", "none") == "none":
            raise UserError(f"{self.name}: no concepts here; its token states can be analysed (--states tokens)")

    @property
    def encoder(self) -> PreTrainedModel:
        """The model without its head."""
        return self.model.base_model

    @property
    def separate_texts(self) -> bool:
        """Whether the two texts of a pair are encoded apart (the head `pair`)."""
        return isinstance(self.model, ours.ConceptEncoderForSequenceClassification) and self.model.pool.separate_texts

    def own_positions(self, concepts: int, tokens: int) -> Tensor | None:
        """The middle of the chunk of tokens that each concept owns [C]; None where concepts own no place."""
        source = SOURCES[self.model.config.concept_source] if self.kind == "concepts" else None
        if source is None or not source.owns_positions:
            return None
        position_N = torch.arange(tokens)
        owner_N, _ = source.owner(self.model.config, position_N[None])
        owned_CN = owner_N[0] == torch.arange(concepts)[:, None]
        return (owned_CN * position_N).sum(1) / owned_CN.sum(1).clamp_min(1)

    @property
    def max_length(self) -> int:
        """Tokens of the longest text that the model takes."""
        return longest_text(self.tokenizer, self.model.config)

    @torch.inference_mode()
    def states(self, inputs: dict[str, Tensor], attention: bool = False) -> "States":
        """Encode one batch."""
        if self.kind == "tokens":
            if isinstance(self.encoder, ours.ConceptEncoderModel):  # what the model answers for each token
                z_BCD = self.encoder.decode(self.encoder.encode(**inputs))
            else:
                z_BCD = self.encoder(**inputs).last_hidden_state
            return States(z_BCD.float(), inputs["attention_mask"].bool())
        output = self.encoder(**inputs, output_attentions=attention)
        mask_BC = output.concept_mask
        if mask_BC is None:
            mask_BC = torch.ones(output.concepts.shape[:2], dtype=torch.bool)
        return States(output.concepts.float(), mask_BC, tuple(output.read_attentions or ()))


@dataclass
class States:
    """One batch: states [B, C, D], which of them exist [B, C], and each read's attention [B, H, C, N]."""

    z_BCD: Tensor
    mask_BC: Tensor
    reads: tuple[Tensor, ...] = ()


@dataclass
class Tokenized:
    """Texts as token ids, cut to the model's length; `truncated` says how many were.

    Attributes:
        texts: what was tokenised: one text a row, or the two of a pair in one row.
        sides: which text of its row a token is of; None for special tokens.
        offsets: where in that text a token stands.
    """

    texts: list[tuple[str, ...]]
    ids: list[list[int]]
    types: list[list[int]] | None
    special: list[list[int]]
    sides: list[list[int | None]]
    offsets: list[list[tuple[int, int]]]
    truncated: int
    max_length: int

    def first(self, rows: int) -> "Tokenized":
        """The first so many rows."""
        parts = ("texts", "ids", "types", "special", "sides", "offsets")
        return replace(self, **{name: getattr(self, name) and getattr(self, name)[:rows] for name in parts})

    def pieces(self, row: int) -> list[str]:
        """The letters that each token of a row covers; empty for special tokens."""
        sides, offsets = self.sides[row], self.offsets[row]
        return ["" if side is None else self.texts[row][side][start:end] for side, (start, end) in zip(sides, offsets)]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class Batch:
    """Rows of a `Tokenized`, padded: what the model takes, and which texts they are."""

    index: list[int]
    inputs: dict[str, Tensor]
    special_BN: Tensor = field(repr=False)


def load_subject(checkpoint: str | Path, states: Kind | None = "concepts") -> Subject:
    """Load a checkpoint or the last checkpoint of a run; with `states="tokens"` any `transformers` encoder.

    Args:
        states: None takes the concepts of a model that has some, and the token states of another.

    Raises:
        UserError: no checkpoint, a damaged file, or a model without concepts; the message names it.
    """
    try:
        folder = resolve_checkpoint(checkpoint)
        ours_too = is_ours(folder)
        if not ours_too and states == "concepts":
            raise UserError(f"{folder}: not a concept encoder; its token states can be analysed (--states tokens)")
        if not ours_too:
            return Subject(_name(folder), load_foreign(AutoModel, folder)[0], load_tokenizer(folder), "tokens", folder)
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = (saved.get("architectures") or [""])[0]
        model_class = _HEADS.get(architecture, ours.ConceptEncoderModel)
        model = load_checkpoint(model_class, folder, attn_implementation="eager")
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from None
    states = states or ("concepts" if model.config.has_concepts else "tokens")
    return Subject(_name(folder), model, load_tokenizer(folder), states, folder)


def _name(folder: Path) -> str:
    """The folder's name; of a checkpoint inside a run with the run's, as every run has a checkpoint-1000."""
    run = run_of(folder)
    return folder.resolve().name if run == folder else f"{run.resolve().name}/{folder.name}"


def tokenize(
    subject: Subject, texts: Sequence[str], max_length: int | None = None, pairs: Sequence[str] | None = None
) -> Tokenized:
    """Token ids of texts, cut to `max_length` or to what the model takes, a pair at its longer text.

    "[SEP]" written in a text is plain text.

    Raises:
        UserError: no texts, or a `max_length` beyond the model's.
    """
    limit = subject.max_length
    if max_length is not None and max_length > limit:
        raise UserError(f"max_length: {max_length} is more than the model's {limit}; use at most that")
    limit = max_length or limit
    if not texts:
        raise UserError("texts: there are none; give a file or folder that holds some")
    given = [list(side) for side in (texts, pairs) if side is not None]
    options = {"return_special_tokens_mask": True, "return_offsets_mapping": True, "split_special_tokens": True}
    encoded = subject.tokenizer(*given, verbose=False, **options)
    truncated = sum(len(ids) > limit for ids in encoded["input_ids"])
    if truncated:
        encoded = subject.tokenizer(*given, truncation="longest_first", max_length=limit, **options)
    return Tokenized(
        texts=list(zip(*given)),
        ids=encoded["input_ids"],
        types=encoded.get("token_type_ids"),
        special=encoded["special_tokens_mask"],
        sides=[encoded.sequence_ids(row) for row in range(len(texts))],
        offsets=encoded["offset_mapping"],
        truncated=truncated,
        max_length=limit,
    )


def batches(subject: Subject, tokenized: Tokenized, batch_size: int = 32, together: int = 1) -> Iterator[Batch]:
    """Padded batches, the longest texts first: no later batch has a larger shape.

    Args:
        batch_size: groups of rows in a batch, at most.
        together: rows of a group, which stay side by side: 2 for pairs whose texts are rows of their own.
    """
    groups = [range(first, first + together) for first in range(0, len(tokenized), together)]
    groups.sort(key=lambda rows: (-max(len(tokenized.ids[row]) for row in rows), rows[0]))
    size = -(-len(groups) // -(-len(groups) // batch_size))  # even: a text left over would have none to exchange with
    for start in range(0, len(groups), size):
        index = [row for rows in groups[start : start + size] for row in rows]
        inputs = {
            "input_ids": _padded([tokenized.ids[row] for row in index], subject.tokenizer.pad_token_id),
            "attention_mask": _padded([[1] * len(tokenized.ids[row]) for row in index], 0),
        }
        if tokenized.types is not None:
            inputs["token_type_ids"] = _padded([tokenized.types[row] for row in index], 0)
        yield Batch(index, inputs, _padded([tokenized.special[row] for row in index], 1).bool())


def _padded(rows: list[list[int]], value: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows], dtype=torch.long)
