"""A checkpoint as a `sentence-transformers` model (`pip install "concept-encoder[sentence]"`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.input_module import InputModule
from transformers import PreTrainedTokenizerBase

from concept_encoder.data.tokenizer import load_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.model import ConceptEncoderModel
from concept_encoder.model.loading import load_checkpoint, resolve_checkpoint
from concept_encoder.model.pooling import CLASSIFIER_HEADS


class ConceptEmbedding(InputModule):
    """Texts to vectors `[B, D]`: encode, then pool as one of the classifier heads without weights does.

    Args:
        pooling: `concept_pool` (mean of the concepts) or `via_decoder` (mean of the decoded tokens).
    """

    config_keys = ["pooling", "max_seq_length"]  # noqa: RUF012
    config_file_name = "concept_embedding.json"  # config.json is the model's
    poolings = ("concept_pool", "via_decoder")

    def __init__(
        self, model: ConceptEncoderModel, tokenizer: PreTrainedTokenizerBase, pooling: str, max_seq_length: int
    ):
        super().__init__()
        if pooling not in self.poolings:
            raise UserError(f"pooling: {pooling!r} is not one of {', '.join(self.poolings)}")
        if CLASSIFIER_HEADS[pooling].needs_concepts and not model.config.has_concepts:
            raise UserError(f"pooling: {pooling!r} needs concepts, the model has none; use 'via_decoder'")
        if max_seq_length > model.config.max_position_embeddings:
            longest = model.config.max_position_embeddings
            raise UserError(f"max_seq_length: {max_seq_length} exceeds the model's {longest} tokens")
        self.model, self.tokenizer, self.pooling, self.max_seq_length = model, tokenizer, pooling, max_seq_length
        self.pool = CLASSIFIER_HEADS[pooling](model.config)

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **_: Any) -> dict[str, torch.Tensor]:
        texts = [(prompt or "") + text for text in inputs]
        return dict(
            self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_seq_length, return_tensors="pt")
        )

    def forward(self, features: dict[str, torch.Tensor], **_: Any) -> dict[str, torch.Tensor]:
        """Adds `sentence_embedding` `[B, D]`."""
        streams = self.model.encode(features["input_ids"], features["attention_mask"], features.get("token_type_ids"))
        return {**features, "sentence_embedding": self.pool(self.model, streams)}

    def get_embedding_dimension(self) -> int:
        return self.model.config.hidden_size

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.model.save_pretrained(output_path)
        self.save_tokenizer(output_path)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> "ConceptEmbedding":
        known = {name: kwargs.get(name) for name in ("token", "cache_folder", "revision", "local_files_only")}
        found = cls.load_dir_path(model_name_or_path, subfolder=subfolder, **known)
        folder = Path(found) / subfolder if (Path(found) / subfolder).is_dir() else Path(found)
        settings = cls.load_config(model_name_or_path, subfolder=subfolder, **known)
        return cls(load_checkpoint(ConceptEncoderModel, folder), load_tokenizer(folder), **settings)


def sentence_transformer(
    checkpoint: str | Path, pooling: str = "concept_pool", max_seq_length: int | None = None
) -> SentenceTransformer:
    """A checkpoint (or a run) as a `SentenceTransformer`; `.save(folder)` works, and
    `SentenceTransformer(folder, trust_remote_code=True)` after it (the module is ours, not part of that library).

    Raises:
        UserError, ValueError: not a checkpoint of ours, or a pooling that does not fit it.
    """
    folder = resolve_checkpoint(checkpoint)
    model = load_checkpoint(ConceptEncoderModel, folder)
    length = max_seq_length or model.config.max_position_embeddings
    return SentenceTransformer(modules=[ConceptEmbedding(model, load_tokenizer(folder), pooling, length)])
