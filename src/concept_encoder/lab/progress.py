"""How far a run is: the new lines of its metrics.jsonl, and what they say in a few figures."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

_STEPS = re.compile(r"step \d+/(\d+)")
_BARS = "▁▂▃▄▅▆▇█"


class MetricsTail:
    """Reads a run's metrics.jsonl as it grows, each line once; a line that is still being written waits."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / "metrics.jsonl"
        self.offset, self._records, self._sorted = 0, {}, []

    def read(self) -> list[dict[str, Any]]:
        """All records in order of steps."""
        try:
            with open(self.file, "rb") as file:
                file.seek(self.offset)
                lines = file.read().split(b"\n")
        except FileNotFoundError:
            return []
        if len(lines) > 1:
            self.offset += sum(len(line) + 1 for line in lines[:-1])
            self._records = _by_step(lines[:-1], self._records)
            self._sorted = [self._records[key] for key in sorted(self._records)]
        return self._sorted


class LogTail:
    """Reads a log as it grows, each line once."""

    def __init__(self, file: Path):
        self.file, self.offset = file, 0

    def read(self, over: bool) -> Iterator[str]:
        """The new lines; one without its end (it may hold half a secret) only when nothing more will come."""
        if not self.file.is_file():
            return
        with open(self.file, "rb") as log:
            log.seek(self.offset)
            for line in log:
                if not line.endswith(b"\n") and not over:
                    return
                self.offset += len(line)
                yield line.decode("utf-8", "replace")


def glance(folder: Path, pieces: int = 24, size: int = 8192) -> list[dict[str, Any]]:
    """Records of a run's metrics.jsonl in order of steps: of a long file only pieces, from its first to its last."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            length = file.seek(0, 2)
            if length <= pieces * size:
                file.seek(0)
                lines = file.read().split(b"\n")[:-1]
            else:
                lines = []
                for piece in range(pieces):
                    start = piece * (length - size) // (pieces - 1)
                    file.seek(start)
                    lines += file.read(size).split(b"\n")[1 if start else 0 : -1]  # cut off at both ends
    except FileNotFoundError:
        return []
    records = _by_step(lines)
    return [records[key] for key in sorted(records)]


def _by_step(lines: Iterable[bytes], before: Mapping[tuple[int, bool], dict] | None = None) -> dict:
    """Records by step and kind. A step back is a resume: what was ahead of it is done again, and is forgotten."""
    found = dict(before or {})
    last = max((step for step, _ in found), default=0)
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            if record["step"] < last:
                found = {key: value for key, value in found.items() if key[0] <= record["step"]}
            last = record["step"]
            found[last, "eval_loss" in record] = record
    return found


def figures(records: Sequence[Mapping[str, Any]], steps: int | None) -> dict[str, Any]:
    """What a table shows of a run: step, steps, loss, eval_loss, tokens_per_second, eta (seconds), curve.

    Args:
        steps: of the whole run, where they are known.
    """
    if not records:
        return {}
    found: dict[str, Any] = {"step": records[-1]["step"], "steps": steps}
    for name in ("loss", "eval_loss", "tokens_per_second"):
        values = [record[name] for record in records if isinstance(record.get(name), int | float)]
        if values:
            found[name] = values[-1]
    losses = [record["loss"] for record in records if isinstance(record.get("loss"), int | float)]
    found["curve"] = sparkline(losses)
    timed = [(record["step"], record["time"]) for record in records if "time" in record]
    # the median: a pause before a resume says nothing
    paces = [(time - before) / (step - past) for (past, before), (step, time) in pairwise(timed) if step > past]
    if steps and paces:
        found["eta"] = max(median(paces) * (steps - timed[-1][0]), 0.0)
    return found


def sparkline(values: Sequence[float], width: int = 12) -> str:
    """The values as a line of bars, low to high; `!` stands for NaN and infinity."""
    if len(values) > width:  # the last value of each of `width` equal parts
        values = [values[(i + 1) * len(values) // width - 1] for i in range(width)]
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] if math.isfinite(value) else "!" for value in values)


def steps_in_log(lines: Iterable[str]) -> int | None:
    """The number of steps of the whole run, from the progress lines of its log (`step 30/300`)."""
    found = (_STEPS.search(line) for line in lines)
    return next((int(match[1]) for match in found if match), None)


def duration(seconds: float) -> str:
    """Seconds as people read them: 43 s, 12 min, 3.4 h, 2.1 d."""
    for unit, size, most in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{seconds / size:.{0 if unit != 'h' else 1}f} {unit}"
    return f"{seconds / 86_400:,.1f} d"
