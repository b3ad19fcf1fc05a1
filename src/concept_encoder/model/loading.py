"""Finding and opening checkpoints, with one-line answers for what can be wrong with them."""

import json
import pickle
import re
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel

from concept_encoder.model.config import ConceptEncoderConfig, replaced
from concept_encoder.model.encoder import ConceptEncoderModel
from concept_encoder.model.heads import ConceptEncoderForMaskedLM

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
    found = {}
    for path in Path(run).glob("checkpoints/checkpoint-*"):
        step = re.fullmatch(r"checkpoint-(\d+)", path.name)  # people keep copies under other names
        if step and (path / "config.json").is_file():
            found[path] = int(step[1])
    return sorted(found, key=found.get)


def load_checkpoint(model_class: type[M], path: str | Path, **fields: Any) -> M:
    """`model_class.from_pretrained` of a checkpoint or run, with fields of the configuration replaced and checked.

    A layout with more or fewer rounds of shared weights fits too: `layer_types="(read think)^8"`. A classifier with
    another number of classes starts anew.

    Raises:
        ValueError: not a checkpoint of a concept encoder, or a damaged file; the message names it.
    """
    folder = resolve_checkpoint(path)
    saved = _saved_config(folder)
    kernel = fields.pop("attn_implementation", None)
    config = ConceptEncoderConfig(**replaced(saved, fields))
    _check_tokenizer(folder, config)
    try:
        model, report = model_class.from_pretrained(
            folder, config=config, attn_implementation=kernel, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except SafetensorError as error:
        raise ValueError(f"{folder / 'model.safetensors'}: damaged ({error}); use an earlier checkpoint") from None
    except (pickle.UnpicklingError, EOFError):
        raise ValueError(f"{folder / 'pytorch_model.bin'}: damaged; use an earlier checkpoint") from None
    except OSError as error:
        raise ValueError(f"{folder}: incomplete checkpoint ({str(error).splitlines()[0]})") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{folder}: the weights cannot be loaded ({reason[:200]}); use an earlier checkpoint"
        ) from None
    _check_shapes(folder, report)
    _check_nothing_is_lost(folder, report)
    return model


def load_masked_lm(name: str | Path) -> PreTrainedModel:
    """A checkpoint or run of ours with its masked-LM head, or any `transformers` one: a folder, or a hub id.

    Raises:
        ValueError: no checkpoint, a damaged file, or one without a masked-LM head; the message names it.
    """
    if is_ours(name):
        return load_checkpoint(ConceptEncoderForMaskedLM, name)
    model, missing = load_foreign(AutoModelForMaskedLM, name)
    if missing:
        raise ValueError(f"{name}: has no masked-LM head ({missing[0]} is missing); give the pretrained checkpoint")
    return model


def load_encoder(name: str | Path) -> PreTrainedModel:
    """The encoder alone, of a checkpoint or run of ours or of any `transformers` one. Errors as in `load_masked_lm`."""
    if is_ours(name):
        return load_checkpoint(ConceptEncoderModel, name)
    return load_foreign(AutoModel, name)[0]  # a pooler may be missing: nobody reads it


def is_ours(name: str | Path) -> bool:
    """Whether this is a checkpoint or run of a concept encoder; what is no path is taken for a hub id, which is not.

    Raises:
        ValueError: a folder without a checkpoint, or one that is damaged.
    """
    return Path(name).exists() and model_type(resolve_checkpoint(name)) == ConceptEncoderConfig.model_type


def load_foreign(auto_class: type, name: str | Path) -> tuple[PreTrainedModel, list[str]]:
    """What an Auto class of `transformers` makes of a folder or hub id, and the weights that it did not find there."""
    try:
        model, report = auto_class.from_pretrained(name, output_loading_info=True)
    except Exception as error:  # every library below has exceptions of its own; the user needs one line
        reason = str(error).strip().partition("\n")[0][:300]
        raise ValueError(f"{name}: transformers cannot load this encoder ({reason})") from None
    return model, sorted(report["missing_keys"])


def model_type(folder: Path) -> str | None:
    """The architecture of a checkpoint, as its config.json names it. Raises `ValueError` for a damaged one."""
    file = folder / "config.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, RecursionError):
        raise ValueError(f"{file}: not readable as a configuration; the checkpoint is damaged") from None


def _saved_config(folder: Path) -> dict[str, Any]:
    """The fields of a checkpoint's configuration, which is one of ours and sound."""
    kind = model_type(folder)
    if kind != ConceptEncoderConfig.model_type:
        raise ValueError(f"{folder}: a checkpoint of another architecture (model_type {kind!r}, not 'concept_encoder')")
    saved, _ = ConceptEncoderConfig.get_config_dict(folder)
    try:
        ConceptEncoderConfig(**saved)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        file = folder / "config.json"
        raise ValueError(f"{file}: {reason[:300]}; the checkpoint is damaged or of another version") from None
    return saved


def _check_tokenizer(folder: Path, config: ConceptEncoderConfig) -> None:
    """Refuse a tokenizer beside the weights that knows tokens the embedding does not hold."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return
    try:
        size = Tokenizer.from_file(str(file)).get_vocab_size()
    except Exception:  # the library raises nothing narrower; who loads the tokenizer says that it is damaged
        return
    if size > config.vocab_size:
        raise ValueError(
            f"{file}: {size:,} tokens, but the model embeds {config.vocab_size:,} (vocab_size); "
            "put the tokenizer it was trained with beside it"
        )


def _check_shapes(folder: Path, report: dict[str, Any]) -> None:
    for name, found, expected in sorted(report["mismatched_keys"]):
        if not name.startswith("classifier."):  # another number of classes
            raise ValueError(
                f"{folder}: {name} has the shape {list(found)}, but the configuration asks for {list(expected)}; "
                "the weights do not fit the configuration, take the config.json that was saved with them"
            )


def _check_nothing_is_lost(folder: Path, report: dict[str, Any]) -> None:
    """Whatever pretraining made must be there and be used: encoder and decoder whole, only heads may differ."""
    if any(key.startswith("head.") for key in report["missing_keys"]) and any(
        key.startswith("classifier.") for key in report["unexpected_keys"]
    ):
        raise ValueError(
            f"{folder}: a fine-tuned checkpoint, which has no masked-LM head; use the pretrained checkpoint instead"
        )
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
