"""`ConceptEncoderConfig`: the only model configuration, flat, typed, and checked when it is built."""

import difflib
import functools
import math
import re
from dataclasses import fields
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from concept_encoder.model.compatibility import check_layout
from concept_encoder.model.decoders import DECODERS
from concept_encoder.model.layout import parse_layout
from concept_encoder.model.positions import POSITIONS
from concept_encoder.model.sources import SOURCES

# What a saved config.json or `from_pretrained` may hand over beside the declared fields.
_ECOSYSTEM_FIELDS = {
    "_name_or_path",
    "attn_implementation",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "torch_dtype",
    "use_cache",
    "_commit_hash",
    "auto_map",
}
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list[str]: "a list of names",
    list[int]: "a list of whole numbers",
}
# The largest value of each size: far beyond use, and products of them fit in 63 bits.
_WIDTH, _COUNT = 2**24, 2**31
_SIZES = {
    "vocab_size": _COUNT,
    "hidden_size": _WIDTH,
    "token_dim": _WIDTH,
    "num_attention_heads": _WIDTH,
    "intermediate_size": 4 * _WIDTH,
    "num_concepts": _COUNT,
    "concept_ratio": _COUNT,
    "max_position_embeddings": _COUNT,
    "type_vocab_size": _COUNT,
    "cope_positions": _COUNT,
    "local_window": _COUNT,
}
# The least value, where less than it would leave weights that nothing can teach.
_LEAST = {
    "vocab_size": (2, "leaves nothing to choose between"),
    "hidden_size": (3, "is at most a sign after normalisation"),
    "token_dim": (3, "is at most a sign after normalisation"),
    "num_concepts": (2, "leaves nothing to choose between"),
    "max_position_embeddings": (2, "leaves nothing to attend to"),
    "cope_positions": (2, "tells no counts apart"),
    "local_window": (2, "leaves no neighbour on each side"),
}


def _answer_types(cls: type) -> type:
    """Let `cls(...)` take a whole number for a number, and refuse values of another type by one line."""
    construct, hints = cls.__init__, cls.__annotations__

    @functools.wraps(construct)
    def __init__(self: Any, **values: Any) -> None:
        for name, value in values.items():
            if hints.get(name) is float and type(value) is int:
                values[name] = float(value) if abs(value) < 10**300 else math.inf  # which is refused by its name
            if hints.get(name) in (int, int | None, float) and isinstance(value, bool):
                raise ValueError(_expected(name, hints[name], value))
        _check_inherited(values)
        try:
            construct(self, **values)
        except StrictDataclassError as error:
            reason = " ".join(str(error).split())
            named = re.match(r"Validation error for field '(\w+)': \w+: (.*)", reason)
            name, reason = named.groups() if named else ("configuration", reason)
            raise ValueError(
                _expected(name, hints[name], values[name]) if name in hints and name in values else f"{name}: {reason}"
            ) from None

    cls.__init__ = __init__
    return cls


def _check_inherited(values: dict[str, Any]) -> None:
    """Refuse what transformers would answer with a traceback."""
    labels = values.get("id2label")
    dtype = next((values[name] for name in ("dtype", "torch_dtype") if values.get(name) is not None), torch.float32)
    if not isinstance(getattr(torch, dtype, None) if isinstance(dtype, str) else dtype, torch.dtype):
        raise ValueError(f"dtype: no type of numbers is called {dtype!r}; use e.g. 'float32'")
    if labels is not None and not (isinstance(labels, dict) and all(str(key).isdigit() for key in labels)):
        raise ValueError(f"id2label: expected the name of each class by its number, found {labels!r}")


def _expected(name: str, hint: Any, value: object) -> str:
    words = [_WORDS[option] for option in getattr(hint, "__args__", [hint]) if option in _WORDS]
    if hint in _WORDS:  # list[str] has arguments as well
        words = [_WORDS[hint]]
    return f"{name}: expected {' or '.join(words)}, found {value!r}"


@_answer_types
@strict
class ConceptEncoderConfig(PreTrainedConfig):
    """A text encoder as a sequence of moves between tokens and concepts.

    Args:
        vocab_size: size of the embedding, a multiple of 64 is fastest.
        hidden_size: D, the size of token and concept states.
        token_dim: size of the word embeddings when it differs from `hidden_size` (dimension inversion); the head is
            tied through the projection.
        num_attention_heads: H.
        intermediate_size: inner size of the feed-forward; 4 x `hidden_size` when None.
        layer_types: the moves, as a list or a layout such as `"mix_local*2 (read think)*4"`.
        layer_groups: one number a move; moves of one number share their weights. Layouts set it with `^`.
        concept_source: where concepts come from.
        num_concepts: C, fixed. Give this or `concept_ratio`.
        concept_ratio: C = ceil(N / ratio).
        decoder: how concepts answer tokens.
        decoder_layer_types: the moves of the decoder; None takes the decoder's own.
        token_position, concept_position: position encodings.
        max_position_embeddings: the longest text, in tokens.
        local_window: tokens that a token sees in `mix_local`, half of them on each side.
        cope_positions: the largest count that `cope` tells apart.
        mask_free: hide [MASK] from keys, values and chunk means; the decoder asks for hidden tokens by position
            (MAE-LM, arXiv:2302.02060).
        classifier_head: how texts are pooled for classification.

    Raises:
        ValueError: a field is out of range or two of them do not fit; the message names the field and the remedy.
    """

    model_type = "concept_encoder"

    vocab_size: int = 50_368
    hidden_size: int = 512
    token_dim: int | None = None
    num_attention_heads: int = 8
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    layer_types: list[str] | str = "(read think)*6"
    layer_groups: list[int] | None = None
    concept_source: str = "learned"
    num_concepts: int | None = None
    concept_ratio: int | None = None
    decoder: str = "query_input"
    decoder_layer_types: list[str] | str | None = None
    token_position: str = "learned"
    concept_position: str = "none"
    max_position_embeddings: int = 512
    rope_theta: float = 10_000.0
    local_window: int = 128
    cope_positions: int = 64
    mask_free: bool = False
    type_vocab_size: int = 2
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_head: str = "via_decoder"
    classifier_dropout: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    mask_token_id: int | None = None
    cls_token_id: int | None = None
    sep_token_id: int | None = None

    def __post_init__(self, **kwargs: object) -> None:
        known = {field.name for field in fields(self)}
        for name in kwargs:
            if name not in _ECOSYSTEM_FIELDS:
                close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
                raise ValueError(f"{name}: no such field of the model; nearest: {', '.join(close) or 'none'}")
        self._expand_layouts()
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.token_dim is None:
            self.token_dim = self.hidden_size
        self._default_concepts()
        super().__post_init__(**kwargs)
        self._check()

    @property
    def num_hidden_layers(self) -> int:
        """The number of moves, the decoder's not counted."""
        return len(self.layer_types)

    @property
    def has_concepts(self) -> bool:
        return SOURCES[self.concept_source].has_concepts

    @property
    def concepts_own_positions(self) -> bool:
        return SOURCES[self.concept_source].owns_positions

    def concepts_at(self, length: int) -> int:
        """C for a text of `length` tokens; 0 without concepts."""
        return SOURCES[self.concept_source].num_concepts(self, length)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "ConceptEncoderConfig":
        """As in transformers; fields given to `from_pretrained` beside the saved ones are checked like them."""
        own = {name: kwargs.pop(name) for name in ConceptEncoderConfig.__annotations__ if name in kwargs}
        return super().from_dict(replaced(config_dict, own), **kwargs)

    def validate_layer_type(self) -> None:
        """Moves are checked in `_check`; transformers' own list of layer types does not hold them."""

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> "ConceptEncoderConfig":
        """This configuration: our field `decoder` is a name, not the sub-configuration that transformers looks for."""
        return self

    def _expand_layouts(self) -> None:
        if isinstance(self.layer_types, str):
            try:
                self.layer_types, groups = parse_layout(self.layer_types)
            except ValueError as error:
                raise ValueError(f"layer_types: {error}") from None
            self.layer_groups = groups if self.layer_groups is None else self.layer_groups
        elif self.layer_groups is None:
            self.layer_groups = list(range(len(self.layer_types)))
        if self.decoder_layer_types is None:
            self.decoder_layer_types = DECODERS.member("decoder", self.decoder).default_layers
        if isinstance(self.decoder_layer_types, str):
            try:
                self.decoder_layer_types = parse_layout(self.decoder_layer_types)[0]
            except ValueError as error:
                raise ValueError(f"decoder_layer_types: {error}") from None

    def _default_concepts(self) -> None:
        source = SOURCES.member("concept_source", self.concept_source)
        if self.num_concepts is None and self.concept_ratio is None:
            for name, value in source.defaults.items():
                setattr(self, name, value)

    def _check(self) -> None:
        self._check_sizes()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads: hidden_size {self.hidden_size} is not divisible by "
                f"{self.num_attention_heads} heads; use {_divisors_near(self)}"
            )
        for name in ("token_position", "concept_position"):
            POSITIONS.member(name, getattr(self, name)).check(name, self)
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act: no activation is called {self.hidden_act!r}; gelu, relu and silu are usual")
        for name in ("initializer_range", "layer_norm_eps", "rope_theta"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name}: {getattr(self, name)} is not a positive, finite number")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not a share from 0 up to 1")
        if self.mask_free and self.mask_token_id is None:
            raise ValueError("mask_free: hides [MASK], but mask_token_id is not set; set it to the tokenizer's")
        from concept_encoder.model.pooling import CLASSIFIER_HEADS  # pooling is built on the encoder, which needs us

        head = CLASSIFIER_HEADS.member("classifier_head", self.classifier_head)
        if head.needs_concepts and not self.has_concepts:
            raise ValueError(
                f"classifier_head: {head.name!r} pools concepts, but concept_source is {self.concept_source!r}; "
                "use 'via_decoder'"
            )
        check_layout(self)

    def _check_sizes(self) -> None:
        for name, largest in _SIZES.items():
            value = getattr(self, name)
            if value is None:
                continue
            if value < 1:
                raise ValueError(f"{name}: {value} is not positive")
            least, why = _LEAST.get(name, (1, ""))
            if value < least:
                raise ValueError(f"{name}: {value} {why}; use at least {least}")
            if value > largest:
                raise ValueError(f"{name}: {value:,} is too large; use at most {largest:,}")


def replaced(saved: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Saved fields with others in their place; a new layout brings groups of its own."""
    return {**saved, **({"layer_groups": None} if "layer_types" in fields else {}), **fields}


def _divisors_near(config: ConceptEncoderConfig) -> str:
    size, heads = config.hidden_size, config.num_attention_heads
    small = [n for n in range(1, math.isqrt(size) + 1) if size % n == 0]
    divisors = {*small, *(size // n for n in small)}
    return " or ".join(map(str, sorted(sorted(divisors, key=lambda n: (abs(n - heads), -n))[:2])))
