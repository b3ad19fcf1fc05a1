"""One registry a family: a variant is a class, and the registry is the only place that knows its name."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

C = TypeVar("C", bound=type)


def unknown(family: str, name: object, valid: Iterable[str]) -> str:
    """That no member of the family has this name, with the nearest and all names."""
    valid = list(valid)
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"no {family} is called {name!r}; {hint}valid: {', '.join(valid)}"


class Registry(Mapping[str, type]):
    """The named members of a family.

    Example:
        >>> POSITIONS = Registry("position")
        >>> @POSITIONS.register("rope")
        ... class Rope: "Rotary position embedding."
        >>> POSITIONS["rope"] is Rope
        True
    """

    def __init__(self, family: str):
        self.family = family
        self._members: dict[str, type] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator that adds a member; its docstring is what the command line shows."""

        def add(member: C) -> C:
            assert name not in self._members, f"{self.family} {name!r} is registered twice"
            assert member.__doc__, f"{self.family} {name!r} needs a docstring: it is its help text"
            member.name = name
            self._members[name] = member
            return member

        return add

    def __getitem__(self, name: str) -> type:
        """The member of that name. Raises `ValueError` with the nearest and all valid names."""
        try:
            return self._members[name]
        except KeyError:
            raise ValueError(unknown(self.family, name, self._members)) from None

    def member(self, field: str, name: str) -> type:
        """The same, with the field that named it in front of the message."""
        try:
            return self[name]
        except ValueError as error:
            raise ValueError(f"{field}: {error}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)
