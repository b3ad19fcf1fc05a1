"""From YAML and `section.field=value` to typed, checked dataclasses.

A section of a recipe is a dataclass; what it accepts is what its fields declare. Unknown fields and values of
another type are answered with the full name of the field.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from yaml.constructor import ConstructorError

from concept_encoder.errors import UserError, nearest, shown

_MOST_NODES = 1_000_000  # values of one file
T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """Safe YAML (no code runs) that refuses what plain YAML loses or chokes on, and reads 3e-4 as a number.

    A key given twice, or that is no text or number; a number beyond 64 bits; text that no file or terminal can hold;
    aliases that make a small file huge, or part of themselves.
    """

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > _MOST_NODES:
            raise ConstructorError(None, None, f"its aliases stand for more than {_MOST_NODES:,} values")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        problem = f"{shown(node.value)} is no {node.tag.rpartition(':')[2]}"
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # !!bool xyz, !!int "", an impossible date
            raise ConstructorError(None, None, problem, node.start_mark) from None
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ConstructorError(None, None, f"{shown(node.value)} is beyond 64 bits", node.start_mark)
        if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
            raise ConstructorError(None, None, f"{shown(value)} holds what is no character", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)  # which says so
        seen = set()
        for place, _ in node.value:
            key = self.construct_object(place, deep=True)
            if isinstance(key, bool) or not isinstance(key, str | int | float):
                written = place.value if isinstance(place, yaml.ScalarNode) else key
                raise ConstructorError(None, None, f"the key {shown(written)} is no text; quote it", place.start_mark)
            if str(key) in seen:  # 1 and '1' too
                problem = f"the key {shown(str(key))} is given twice; keep one of them"
                raise ConstructorError(None, None, problem, node.start_mark)
            seen.add(str(key))
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


def _size(node: yaml.Node, known: dict[yaml.Node, int | None]) -> int:
    """How many values a node stands for, aliases written out."""
    if node in known:
        if known[node] is None:
            raise ConstructorError(None, None, "an alias of what it is part of", node.start_mark)
        return known[node]
    known[node] = None
    parts = [] if isinstance(node, yaml.ScalarNode) else node.value
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in parts for part in pair]
    known[node] = 1 + sum(_size(part, known) for part in parts)
    return known[node]


def _yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except RecursionError:
        raise ConstructorError(problem="brackets without end") from None


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error).splitlines()[0]


def load_yaml(path: str | Path, kind: str = "recipe") -> dict[str, Any]:
    """Read a YAML mapping, a `kind` of file. Raises `UserError` with the file and line when it is not one."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such {kind} file")
    try:
        content = _yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML ({_problem(error)})") from None
    if content is None:
        raise UserError(f"{path}: empty; a {kind} file holds `name: value`")
    if not isinstance(content, dict):
        raise UserError(f"{path}: a {kind} file holds `name: value`, found {shown(content)}")
    return content


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`section.field=value` texts as a mapping from `section.field` to the value, which is read as YAML."""
    fields = {}
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or "." not in name:
            raise UserError(f"override {shown(override)}: write it as section.field=value")
        try:
            fields[name.strip()] = _yaml(text)
        except yaml.YAMLError as error:
            raise UserError(
                f"override {shown(override)}: the value is not valid YAML ({_problem(error)}); quote it"
            ) from None
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


def from_mapping(
    cls: type[T], mapping: Mapping[str, Any] | None, section: str, required: str = "give it a value", **ours: Any
) -> T:
    """Build the dataclass `cls` from a mapping; errors name `section.field` and the remedy.

    Args:
        required: the remedy where a field is missing.
        ours: fields that come from the code; the mapping may not give them.
    """
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        raise UserError(f"{section}: expected fields, found {shown(mapping)}")
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls) if field.init and field.name not in ours}
    values = {}
    for name, value in mapping.items():
        if name not in known:
            raise UserError(f"{section}.{name}: no such field; {nearest(str(name), known)}")
        values[name] = coerce(value, hints[name], f"{section}.{name}")
    nothing = (dataclasses.MISSING, dataclasses.MISSING)
    missing = [n for n, f in known.items() if (f.default, f.default_factory) == nothing and n not in values]
    if missing:
        raise UserError(f"{section}.{missing[0]}: required; {required}")
    try:
        return cls(**values, **ours)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{section}.{error}") from error


def coerce(value: Any, hint: Any, name: str) -> Any:
    """The value as the type `hint` says. Raises `UserError` that calls it `name`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(value, arguments, name)
    if origin is typing.Literal:
        if value not in arguments:
            raise UserError(f"{name}: {shown(value)} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise UserError(f"{name}: expected a list, found {shown(value)}")
        return origin(coerce(item, arguments[0], f"{name}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{name}: expected a mapping, found {shown(value)}")
        return {str(key): coerce(item, arguments[1], f"{name}.{key}") for key, item in value.items()}
    return _coerce_scalar(value, hint, name)


def _coerce_union(value: Any, arguments: tuple, name: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    options = [argument for argument in arguments if argument is not type(None)]
    errors = []
    for option in options:
        try:
            return coerce(value, option, name)
        except UserError as error:
            errors.append(error)
    raise (
        errors[0]
        if len(errors) == 1
        else UserError(f"{name}: expected {_names(options)}, found {'nothing' if value is None else shown(value)}")
    )


def _coerce_scalar(value: Any, hint: type, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, name)
    if hint is float and not isinstance(value, bool) and isinstance(value, int | float | str):
        try:  # YAML 1.1 reads 3e-4 as a string
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
        if isinstance(value, float):
            raise UserError(f"{name}: {value} is not a finite number")
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"{name}: expected {_names([hint])}, found {shown(value)}")


def _names(hints: Sequence[Any]) -> str:
    words = {float: "a number", int: "a whole number", str: "text", bool: "true or false", Path: "a path"}
    words |= {list: "a list", tuple: "a list", dict: "a mapping"}
    kinds = [typing.get_origin(hint) or hint for hint in hints]
    return " or ".join(words.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds)
