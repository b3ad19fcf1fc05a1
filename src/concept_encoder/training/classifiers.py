"""What a checkpoint becomes for a task: a concept encoder with one of our heads, any other model with its own."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from concept_encoder.data.hub import check_hub
from concept_encoder.data.tasks.load import TaskData
from concept_encoder.data.tokenizer import load_tokenizer, longest_text
from concept_encoder.errors import UserError
from concept_encoder.model import (
    ConceptEncoderConfig,
    ConceptEncoderForSequenceClassification,
    ConceptEncoderForTokenClassification,
)
from concept_encoder.model.loading import is_ours, load_checkpoint, model_type, resolve_checkpoint
from concept_encoder.model.pooling import CLASSIFIER_HEADS

CLASSIFIERS, TAGGERS = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
OWN_HEAD = "own"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_SMALL_FILES = ["*.json", "*.txt", "*.model"]


@dataclass(frozen=True)
class FinetuneModel:
    """The recipe's section `model` for fine-tuning.

    Attributes:
        checkpoint: a checkpoint, a run whose last checkpoint is taken, or any `transformers` encoder: a folder or an id
            of the hub.
        classifier_head: how texts are pooled; by default `via_decoder`, and `own` for a model that is not ours. Token
            classification pools nothing, it reads the decoded tokens.
        classifier_dropout: before the classifier.
        hidden_dropout_prob: inside the encoder; None keeps the checkpoint's.
    """

    checkpoint: str
    classifier_head: str | None = None
    classifier_dropout: float = 0.1
    hidden_dropout_prob: float | None = None

    def __post_init__(self) -> None:
        if self.classifier_head not in (None, OWN_HEAD):
            CLASSIFIER_HEADS.member("classifier_head", self.classifier_head)
        for name in ("classifier_dropout", "hidden_dropout_prob"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not a share from 0 up to 1")

    @property
    def separate_texts(self) -> bool:
        """Whether the two texts of a pair are encoded apart."""
        return self.classifier_head not in (None, OWN_HEAD) and CLASSIFIER_HEADS[self.classifier_head].separate_texts


def find_checkpoint(name: str) -> Path:
    """The folder of a checkpoint: one that is here, or that of an id of the hub, downloaded.

    Raises `UserError`, or `ValueError` from the model, when there is none.
    """
    if Path(name).exists() or not _HUB_ID.fullmatch(name):
        return resolve_checkpoint(name)
    remedy = "give a checkpoint or run folder"
    commit = check_hub(name, "model", f"no such folder here either; {remedy}")
    try:
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=[*_SMALL_FILES, "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(name, revision=commit, allow_patterns="pytorch_model*.bin")
    except LocalEntryNotFoundError:
        raise UserError(f"{name}: no such folder, and not among the hub's downloads; {remedy}") from None
    except (OSError, HfHubHTTPError) as error:
        raise UserError(f"{name}: cannot be downloaded ({str(error).partition(chr(10))[0]}); {remedy}") from None
    return folder


def head_for(folder: Path, asked: str | None, kind: str = "classification") -> str:
    """The name of the head that a checkpoint gets. Raises `UserError` for one that it cannot have."""
    ours = is_ours(folder)
    head = asked or ("via_decoder" if ours else OWN_HEAD)
    if head != OWN_HEAD:
        CLASSIFIER_HEADS.member("classifier_head", head)
    if ours == (head == OWN_HEAD):
        hint = "name one of ours" if ours else f"set model.classifier_head={OWN_HEAD}, or leave it out"
        raise UserError(f"model.classifier_head: {head!r} does not fit a {model_type(folder)} checkpoint; {hint}")
    if kind == "token_classification" and ours and head != "via_decoder":
        raise UserError(f"model.classifier_head: {head!r} pools texts, but every word has a label; leave it out")
    if ours and CLASSIFIER_HEADS[head].needs_concepts and not _has_concepts(folder):
        raise UserError(f"model.classifier_head: {head!r} pools concepts, and {folder} has none; use via_decoder")
    return head


def fitting_head(folder: Path, asked: str | None) -> str:
    """The head of a twin: the same where it can have it, otherwise its default."""
    try:
        return head_for(folder, asked)
    except UserError:
        return head_for(folder, None)


def _has_concepts(folder: Path) -> bool:
    return ConceptEncoderConfig.from_pretrained(folder).has_concepts


def tokenizer_for(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside a checkpoint. One of another model needs no mask token, but it must pad."""
    if is_ours(folder):
        return load_tokenizer(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust parser raises a bare Exception
        raise UserError(f"{folder}: its tokenizer cannot be loaded ({str(error).partition(chr(10))[0]})") from None
    if tokenizer.pad_token_id is None:
        raise UserError(f"{folder}: the tokenizer has no pad token, so texts cannot share a batch; give it one")
    return tokenizer


def longest_input_of(folder: Path) -> int:
    """The same of a checkpoint that is not loaded."""
    tokenizer = tokenizer_for(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, OSError) as error:
        raise UserError(f"{folder}: transformers cannot read it ({str(error).partition(chr(10))[0][:300]})") from None
    return longest_input(config, tokenizer)


def longest_input(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest text that a model takes."""
    ours = isinstance(config, ConceptEncoderConfig)
    return config.max_position_embeddings if ours else longest_text(tokenizer, config)


def load_classifier(model: FinetuneModel, folder: Path, task: TaskData, seed: int) -> PreTrainedModel:
    """The checkpoint in `folder` with a classifier for the task; what is new in it follows from the seed."""
    names = ["score"] if task.kind == "regression" else list(task.label_names)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    if task.kind != "token_classification":
        labels["problem_type"] = "regression" if task.kind == "regression" else "single_label_classification"
    torch.manual_seed(seed)
    if not is_ours(folder):
        return _load_foreign(model, folder, task.kind == "token_classification", labels)
    tags = task.kind == "token_classification"
    ours = ConceptEncoderForTokenClassification if tags else ConceptEncoderForSequenceClassification
    named = ("classifier_head", "classifier_dropout", "hidden_dropout_prob")
    fields = {name: getattr(model, name) for name in named if getattr(model, name) is not None}
    return load_checkpoint(ours, folder, **fields, **labels, num_labels=len(names))


def _load_foreign(model: FinetuneModel, folder: Path, tags: bool, labels: dict[str, Any]) -> PreTrainedModel:
    """Any other model of `transformers`; only its head may be new. No code that came with it is run."""
    kind = AutoModelForTokenClassification if tags else AutoModelForSequenceClassification
    tokenizer = tokenizer_for(folder)
    try:
        config = AutoConfig.from_pretrained(folder, **labels)
        if type(config) not in (TAGGERS if tags else CLASSIFIERS):
            raise UserError(f"{folder}: a {config.model_type} checkpoint cannot become a classifier; give an encoder")
        known = config.to_dict()
        if model.hidden_dropout_prob is not None and "hidden_dropout_prob" not in known:
            raise UserError(f"model.hidden_dropout_prob: no field of a {config.model_type} checkpoint; leave it out")
        for name in ("classifier_dropout", "hidden_dropout_prob"):
            if name in known and getattr(model, name) is not None:
                setattr(config, name, getattr(model, name))
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
        loaded, report = kind.from_pretrained(
            folder, config=config, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except UserError:
        raise
    except Exception as error:  # every library below has exceptions of its own; the user needs one line
        reason = str(error).strip().partition("\n")[0][:300]
        raise UserError(f"{folder}: transformers cannot load a classifier from it ({reason})") from None
    _check_encoder(folder, loaded, report)
    if len(tokenizer) > (size := loaded.get_input_embeddings().num_embeddings):
        raise UserError(f"{folder}: its tokenizer knows {len(tokenizer):,} tokens, but the model embeds {size:,}")
    return loaded


def _check_encoder(folder: Path, model: PreTrainedModel, report: dict[str, Any]) -> None:
    wrong = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    body = sorted(k for k in wrong if k.startswith(f"{model.base_model_prefix}.") and ".pooler." not in k)
    if body:
        raise UserError(f"{folder}: holds no weights for {body[0]} ({len(body)} in all); it was saved by another model")
