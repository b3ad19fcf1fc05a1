"""From YAML and `section.field=value` to typed, checked dataclasses.

A section of a recipe is a dataclass; what it accepts is what its fields declare. Unknown fields and values of
another type are answered with the full name of the field.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from concept_encoder.errors import UserError, nearest

T = TypeVar("T")


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice (plain YAML silently keeps the last) and reads 3e-4 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise UserError(f"line {node.start_mark.line + 1}: the key {twice[0]!r} is given twice; keep one of them")
        return super().construct_mapping(node, deep)


def _yaml(text: str) -> Any:
    return yaml.load(text, Loader=_UniqueKeyLoader)  # a SafeLoader: no code runs


def load_yaml(path: str | Path, kind: str = "recipe") -> dict[str, Any]:
    """Read a YAML mapping, a `kind` of file. Raises `UserError` with the file and line when it is not one."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such {kind} file")
    try:
        content = _yaml(path.read_text(encoding="utf-8"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{where}: not valid YAML ({problem})") from None
    except (ValueError, RecursionError) as error:  # an impossible date; brackets without end
        raise UserError(f"{path}: not valid YAML ({str(error)[:80]})") from None
    if content is None:
        raise UserError(f"{path}: empty; a {kind} file holds `name: value`")
    if not isinstance(content, dict):
        raise UserError(f"{path}: a {kind} file holds `name: value`, found {str(content)[:40]!r}")
    return content


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`section.field=value` texts as a mapping from `section.field` to the value, which is read as YAML."""
    fields = {}
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or "." not in name:
            raise UserError(f"override {override!r}: write it as section.field=value")
        try:
            fields[name.strip()] = _yaml(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UserError(f"override {override!r}: the value is not valid YAML; quote it") from None
    return fields


def set_fields(sections: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the sections with each `section.field` set."""
    merged = {name: dict(section) if isinstance(section, Mapping) else section for name, section in sections.items()}
    for name, value in fields.items():
        section, dot, field = str(name).partition(".")
        if not (dot and section and field):
            raise UserError(f"{name}: write it as section.field")
        if merged.get(section) is None:
            merged[section] = {}
        if not isinstance(merged[section], dict):
            raise UserError(f"{section}: this section is not a mapping, so {name} cannot be set")
        merged[section][field] = value
    return merged


def from_mapping(cls: type[T], mapping: Mapping[str, Any] | None, section: str, **ours: Any) -> T:
    """Build the dataclass `cls` from a mapping; errors name `section.field` and the remedy.

    Fields in `ours` come from the code; the mapping may not give them.
    """
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        raise UserError(f"{section}: expected fields, found {mapping!r}")
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls) if field.init and field.name not in ours}
    values = {}
    for name, value in mapping.items():
        if name not in known:
            raise UserError(f"{section}.{name}: no such field; {nearest(str(name), known)}")
        values[name] = _coerce(value, hints[name], f"{section}.{name}")
    required = (dataclasses.MISSING, dataclasses.MISSING)
    missing = [n for n, f in known.items() if (f.default, f.default_factory) == required and n not in values]
    if missing:
        raise UserError(f"{section}.{missing[0]}: required; set it in the recipe or as {section}.{missing[0]}=…")
    try:
        return cls(**values, **ours)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{section}.{error}") from error


def _coerce(value: Any, hint: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(value, arguments, name)
    if origin is typing.Literal:
        if value not in arguments:
            raise UserError(f"{name}: {value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise UserError(f"{name}: expected a list, found {value!r}")
        return origin(_coerce(item, arguments[0], f"{name}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{name}: expected a mapping, found {value!r}")
        return {str(key): _coerce(item, arguments[1], f"{name}.{key}") for key, item in value.items()}
    return _coerce_scalar(value, hint, name)


def _coerce_union(value: Any, arguments: tuple, name: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    options = [argument for argument in arguments if argument is not type(None)]
    errors = []
    for option in options:
        try:
            return _coerce(value, option, name)
        except UserError as error:
            errors.append(error)
    raise (
        errors[0]
        if len(errors) == 1
        else UserError(f"{name}: expected {_names(options)}, found {'nothing' if value is None else repr(value)}")
    )


def _coerce_scalar(value: Any, hint: type, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, name)
    if hint is float and not isinstance(value, bool) and isinstance(value, int | float | str):
        try:  # YAML 1.1 reads 3e-4 as a string
            return float(value)
        except ValueError:
            pass
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"{name}: expected {_names([hint])}, found {value!r}")


def _names(hints: Sequence[Any]) -> str:
    words = {float: "a number", int: "a whole number", str: "text", bool: "true or false", Path: "a path"}
    words |= {list: "a list", tuple: "a list", dict: "a mapping"}
    kinds = [typing.get_origin(hint) or hint for hint in hints]
    return " or ".join(words.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds)
