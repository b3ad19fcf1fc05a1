"""Finding and opening checkpoints, with one-line answers for what can be wrong with them."""

import json
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedModel

from concept_encoder.model.config import ConceptEncoderConfig

M = TypeVar("M", bound=PreTrainedModel)
_NEW_HEADS = ("classifier.", "pool.")  # what fine-tuning starts anew


def resolve_checkpoint(path: str | Path) -> Path:
    """A checkpoint folder itself, or the last checkpoint of a run's folder. Raises `ValueError` when there is none."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such checkpoint or run folder")
    if (path / "config.json").is_file():
        return path
    found = list_checkpoints(path)
    if not found:
        raise ValueError(f"{path}: neither a checkpoint (no config.json) nor a run with checkpoints/checkpoint-*")
    return found[-1]


def list_checkpoints(run: str | Path) -> list[Path]:
    """The checkpoints of a run's folder, by step."""
    folders = [path for path in Path(run).glob("checkpoints/checkpoint-*") if (path / "config.json").is_file()]
    return sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]))


def load_checkpoint(model_class: type[M], path: str | Path, **fields: Any) -> M:
    """`model_class.from_pretrained` of a checkpoint or run, with fields of the configuration replaced and checked.

    A layout with more or fewer rounds of shared weights fits too: `layer_types="(read think)^8"`.

    Raises:
        ValueError: not a checkpoint of a concept encoder, or a damaged file; the message names it.
    """
    folder = resolve_checkpoint(path)
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise ValueError(
            f"{folder / 'config.json'}: not readable as a configuration; the checkpoint is damaged"
        ) from None
    if kind != ConceptEncoderConfig.model_type:
        raise ValueError(f"{folder}: a checkpoint of another architecture (model_type {kind!r}, not 'concept_encoder')")
    saved, _ = ConceptEncoderConfig.get_config_dict(folder)
    if "layer_types" in fields:
        saved.pop("layer_groups", None)  # a new layout brings its own
    kernel = fields.pop("attn_implementation", None)
    try:
        config = ConceptEncoderConfig(**{**saved, **fields})
    except (TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder / 'config.json'}: {reason[:200]}; the checkpoint is damaged") from None
    try:
        model, report = model_class.from_pretrained(
            folder, config=config, attn_implementation=kernel, output_loading_info=True
        )
    except SafetensorError as error:
        raise ValueError(f"{folder / 'model.safetensors'}: damaged ({error}); use an earlier checkpoint") from None
    except OSError as error:
        raise ValueError(f"{folder}: incomplete checkpoint ({str(error).splitlines()[0]})") from None
    except RuntimeError as error:
        reason = next(
            (line.strip() for line in str(error).splitlines() if "shape" in line or "size" in line), str(error)
        )
        raise ValueError(f"{folder}: the weights do not fit the configuration ({reason[:200]})") from None
    _check_nothing_is_lost(folder, report)
    return model


def _check_nothing_is_lost(folder: Path, report: dict[str, Any]) -> None:
    """Whatever pretraining made must be there and be used: encoder and decoder whole, only heads may differ."""
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(_NEW_HEADS))
    dropped = sorted(key for key in report["unexpected_keys"] if not key.startswith((*_NEW_HEADS, "head.")))
    if missing:
        raise ValueError(
            f"{folder}: holds no weights for {missing[0]} ({len(missing)} in all); it was saved by another model"
        )
    if dropped:
        raise ValueError(
            f"{folder}: {dropped[0]} ({len(dropped)} weights in all) would be dropped; it was saved by another model"
        )
