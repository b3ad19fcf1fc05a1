"""Train or held out, decided by a document's own text: no order, file or seed changes it."""

import hashlib


def share(text: str) -> float:
    """A fixed number in [0, 1), uniform over texts; equal texts get the same."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


def is_held_out(text: str, fraction: float) -> bool:
    """Whether `text` is one of the `fraction` held out. A larger fraction holds out a superset."""
    return share(text) < fraction
