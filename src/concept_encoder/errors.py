"""The one exception the command line turns into a single line and exit code 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend: the message names the field or file, what is wrong, and the remedy."""


class TrainingDiverged(UserError):
    """A model that answers NaN: its learning rate is of no use, which a search over rates has to survive."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The tail of an error message: the nearest valid names if any are near, and all of them if they are few."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(match) for match in close)}? " if close else ""
    return f"{hint}valid: {', '.join(valid)}" if len(valid) <= 40 or not close else hint.strip()
