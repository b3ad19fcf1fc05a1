"""The short way to write a sequence of moves: `"mix_local*2 (read think)*6"`.

`*K` repeats with fresh weights, `^K` repeats with the *same* weights (recursion, as ALBERT and the Perceiver share
them). `(read think)^6` is six rounds through one `read` and one `think`; a checkpoint of it loads with `^8` as well.
"""

import re

MAX_MOVES = 1000  # far beyond use; without a limit, a slip of the finger fills the memory
_TOKEN = re.compile(r"\s*(?:(?P<name>[a-z_]+)|(?P<repeat>[*^])\s*(?P<count>\d+)|(?P<bracket>[()]))")


def parse_layout(text: str) -> tuple[list[str], list[int]]:
    """Expand a layout into `(layer_types, layer_groups)`.

    Layers of one group share their weights. Raises `ValueError` that points at the first character it cannot read.

    >>> parse_layout("mix (read think)^2")
    (['mix', 'read', 'think', 'read', 'think'], [0, 1, 2, 1, 2])
    """
    stack: list[list[list[tuple[str, int]]]] = [[]]  # open brackets -> items of a bracket -> layers of an item
    groups = position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"cannot read {text!r} at {text[position:].strip()!r}; write e.g. 'mix*2 (read think)*6'")
        position = match.end()
        if match["name"]:
            stack[-1].append([(match["name"], groups)])
            groups += 1
        elif match["bracket"] == "(":
            stack.append([])
        elif match["bracket"] == ")":
            if len(stack) == 1:
                raise ValueError(f"{text!r} closes a bracket that was never opened")
            inner = stack.pop()
            stack[-1].append([layer for item in inner for layer in item])
        else:
            if not stack[-1]:
                raise ValueError(f"{text!r} repeats nothing: put a move before {match['repeat']}{match['count']}")
            item, groups = _repeat(stack[-1].pop(), int(match["count"]), match["repeat"] == "^", groups)
            stack[-1].append(item)
    if len(stack) > 1:
        raise ValueError(f"{text!r} opens a bracket that is never closed")
    layers = [layer for item in stack[0] for layer in item]
    _check_count(len(layers))
    return _numbered(layers)


def _check_count(count: int) -> None:
    if count > MAX_MOVES:
        raise ValueError(f"{count:,} moves are too many; use at most {MAX_MOVES:,}")


def _repeat(item: list[tuple[str, int]], count: int, shared: bool, groups: int) -> tuple[list[tuple[str, int]], int]:
    _check_count(max(len(item), 1) * count)
    if shared or count < 2:
        return item * count, groups
    own = sorted({group for _, group in item})
    repeated = list(item)
    for _ in range(count - 1):
        fresh = {group: groups + i for i, group in enumerate(own)}
        groups += len(own)
        repeated += [(name, fresh[group]) for name, group in item]
    return repeated, groups


def _numbered(layers: list[tuple[str, int]]) -> tuple[list[str], list[int]]:
    """Groups renumbered by first use, so that equal layouts have equal groups."""
    order: dict[int, int] = {}
    return [name for name, _ in layers], [order.setdefault(group, len(order)) for _, group in layers]


def format_layout(layer_types: list[str]) -> str:
    """The moves in one line, runs shortened: `mix*2 read think`."""
    parts: list[tuple[str, int]] = []
    for name in layer_types:
        if parts and parts[-1][0] == name:
            parts[-1] = (name, parts[-1][1] + 1)
        else:
            parts.append((name, 1))
    return " ".join(name if count == 1 else f"{name}*{count}" for name, count in parts)
