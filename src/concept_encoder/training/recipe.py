"""A recipe: the YAML file of one run, with the sections `model`, `data`, `objective`, `training`, `evaluation`.

A recipe with `rows: {name: {section.field: value}}` is a grid: one run a row, each the recipe with that row's fields,
in `training.output_dir/<name>`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from concept_encoder.errors import UserError, nearest
from concept_encoder.model import PRESETS, ConceptEncoderConfig, preset_config
from concept_encoder.settings import from_mapping, load_yaml, parse_overrides, set_fields

# The section `model` as a dataclass, so that it is read like the others; what it leaves out is left to others.
_MODEL_FIELDS = {"preset": str | None, "num_layers": int | None, **ConceptEncoderConfig.__annotations__}
ModelSection = dataclasses.make_dataclass("ModelSection", [(name, hint, None) for name, hint in _MODEL_FIELDS.items()])
SECTIONS = ("model", "data", "objective", "training", "evaluation")
T = TypeVar("T")


def load_sections(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The sections of a recipe of one run, `section.field=value` applied. Raises `UserError` for unknown sections."""
    rows = load_rows(path, overrides)
    if list(rows) != [""]:
        raise UserError(f"{path}: a grid of the rows {', '.join(rows)}; this command takes a recipe of one run")
    return rows[""]


def load_rows(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """The sections of every row of a recipe, by the row's name; a recipe without `rows` is one row called ''.

    An override goes on top of every row.
    """
    content = load_yaml(path)
    rows = content.pop("rows", None) if "rows" in content else {"": {}}
    if not isinstance(rows, Mapping) or not rows or not all(isinstance(row, Mapping) for row in rows.values()):
        raise UserError(f"{path}: rows is a mapping of names to {{section.field: value}}")
    runs = {}
    for name, fields in rows.items():
        if len(rows) > 1 or name != "":
            _check_row_name(name)
        if str(name) in runs:
            raise UserError(f"rows: the name {str(name)!r} is given twice")
        sections = set_fields(set_fields(content, fields), parse_overrides(overrides))
        for section_name in sections:
            if section_name not in SECTIONS:
                raise UserError(f"{section_name}: no such section of a recipe; {nearest(str(section_name), SECTIONS)}")
        training = sections.get("training")
        if name and isinstance(training, Mapping) and training.get("output_dir"):
            sections["training"] = {**training, "output_dir": f"{training['output_dir']}/{name}"}
        runs[str(name)] = sections
    return runs


def _check_row_name(name: Any) -> None:
    if name is None or not re.fullmatch(r"[\w-][\w.-]*", str(name)):
        raise UserError(f"rows: {name!r} cannot be the name of a folder; use letters, digits, '-', '_' and '.'")


def section(sections: Mapping[str, Any], name: str, cls: type[T]) -> T:
    """One section as its dataclass."""
    required = "set it in the recipe, or as section.field=value"
    return from_mapping(cls, sections.get(name), name, required)


def model_config(fields: Mapping[str, Any] | None, **defaults: Any) -> ConceptEncoderConfig:
    """The recipe's section `model`: a preset with `num_layers`, its fields replaced, or plain fields alone.

    Args:
        fields: the section.
        defaults: what the data decide (vocabulary, special tokens, longest text) unless the section says otherwise.
    """
    read = from_mapping(ModelSection, fields, "model")
    given = {name: getattr(read, name) for name in fields or {}}
    preset, num_layers = given.pop("preset", None), given.pop("num_layers", None)
    if preset is not None and preset not in PRESETS:
        raise UserError(f"model.preset: no preset is called {preset!r}; {nearest(preset, PRESETS)}")
    if preset is None and num_layers is not None:
        raise UserError(
            "model.num_layers: counts the layers of a preset; give model.preset, or model.layer_types alone"
        )
    merged = {**defaults, **given}
    try:
        if preset is None:
            return ConceptEncoderConfig(**merged)
        return preset_config(preset, num_layers, **merged)
    except (ValueError, TypeError) as error:
        raise UserError(f"model.{error}") from None


def resolved(**sections: Any) -> dict[str, Any]:
    """Sections as plain values, as they go into a run's recipe.yaml: what was meant, defaults included."""
    return {
        name: _plain(dataclasses.asdict(part) if dataclasses.is_dataclass(part) else part)
        for name, part in sections.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
