"""From the labels that files hold to class numbers."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from concept_encoder.errors import UserError, shown

ClassValue = int | str


def class_value(label: Any, where: str, remedy: str) -> ClassValue:
    """A label as it is meant: 1, 1.0, true and "1" are the number 1, which JSON and CSV write differently.

    Raises `UserError` with `where` and `remedy` for what is no class.
    """
    if isinstance(label, str):
        label = label.strip()
        return int(label) if re.fullmatch(r"-?\d{1,9}", label) and str(int(label)) == label else label
    if isinstance(label, int | float) and abs(label) < 2**63 and label == int(label):  # JSON's numbers have no end
        return int(label)
    raise UserError(f"{where} holds {shown(label)}, which is no class; {remedy}")


class ClassNumbers:
    """The classes of a task and their numbers.

    Attributes:
        names: by class number; those given (then files hold these names, or their places), else the values of
            training: numbers in the order of numbers, then names in that of the alphabet.
    """

    def __init__(self, training: Iterable[ClassValue], names: Sequence[str] | None):
        self._known_from = "data.label_names" if names else "those of training"
        known = list(names or sorted(set(training), key=lambda value: (isinstance(value, str), value)))
        self.names = list(map(str, known))
        self._numbers: dict[ClassValue, int] = {value: i for i, value in enumerate(known)}
        if names:
            self._numbers |= {i: i for i in range(len(names))}

    def __call__(self, value: ClassValue, where: str) -> int:
        """The number of a class. Raises `UserError` with `where` for one that training, or the given names, lack."""
        if value not in self._numbers:
            names = textwrap.shorten(", ".join(self.names), 200, placeholder=" …")
            problem = f"{value!r} is not among {self._known_from}: {names}"
            raise UserError(f"{where} {problem}; to have more classes, list them all in data.label_names")
        return self._numbers[value]
