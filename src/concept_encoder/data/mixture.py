"""Drawing documents from several corpora so that each has its weight of what is drawn."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def interleave(
    streams: Sequence[Iterator[T]], weights: Sequence[float], amount: Callable[[T], float], drawn: list[float]
) -> Iterator[tuple[int, T]]:
    """Yield (number of the stream, item); always from the stream that is furthest behind its weight.

    Nothing is random: the same streams and weights give the same order, and after every item each stream's
    share is off its weight by no more than a few items. It ends when the stream whose turn it is has no more, so no
    item comes twice and the shares hold to the end.

    Args:
        streams: S iterators.
        weights: S positive numbers.
        amount: what an item counts for: 1, or its tokens.
        drawn: S amounts drawn so far, updated in place; not zero when an earlier drawing goes on.
    """
    while True:
        due = due_stream(drawn, weights)
        try:
            item = next(streams[due])
        except StopIteration:
            return
        drawn[due] += amount(item)
        yield due, item


def due_stream(drawn: Sequence[float], weights: Sequence[float]) -> int:
    """The stream that is furthest behind its weight: the next to draw from, or the one that ended the drawing."""
    return min(range(len(weights)), key=lambda i: drawn[i] / weights[i])
