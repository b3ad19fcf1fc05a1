"""Train or held out, decided by a document's own text: no order, file or seed changes it."""

import hashlib


def share(text: str, cut: str = "") -> float:
    """A fixed number in [0, 1), uniform over texts; equal texts get the same, and every `cut` another."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=cut.encode()).digest()) / 2**64


def is_held_out(text: str, fraction: float, cut: str = "") -> bool:
    """Whether `text` is one of the `fraction` held out. A larger fraction holds out a superset.

    A second part of the same texts is cut under a name of its own (at most 16 bytes), so that the first cut does not
    decide the second.
    """
    return share(text, cut) < fraction
