"""The one exception the command line turns into a single line and exit code 2."""

import difflib
import re
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")  # a terminal obeys them
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple = 2, 3, 6, 6
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


class UserError(ValueError):
    """Something the user can mend: the message names the field or file, what is wrong, and the remedy."""


class TrainingDiverged(UserError):
    """A model that answers NaN: its learning rate is of no use, which a search over rates has to survive."""


@contextmanager
def naming(file: object) -> Iterator[None]:
    """Mistakes found inside name the file that they are in."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def shown(value: Any) -> str:
    """A value in an error message: as `repr` writes it, but never long."""
    return _SHORT.repr(value)


def printable(text: str) -> str:
    """The text with its control characters written out, so that somebody else's words cannot steer a terminal."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def nearest(name: str, valid: Iterable[str]) -> str:
    """The tail of an error message: the nearest valid names if any are near, and all of them if they are few."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(match) for match in close)}? " if close else ""
    return f"{hint}valid: {', '.join(valid)}" if len(valid) <= 40 or not close else hint.strip()
