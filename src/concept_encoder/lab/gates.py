"""Gates: `mnli.accuracy > 0.60` or `loss > 8 after 500 steps`, parsed and compared, never evaluated as code."""

import math
import operator
import re
from dataclasses import dataclass

from concept_encoder.errors import shown

_COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_GATE = re.compile(
    r"\s*(?P<metric>[A-Za-z_][\w.-]*)\s*(?P<comparison><=|>=|<|>)\s*(?P<bound>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"(?:\s+after\s+(?P<after>\d+)\s+steps?)?\s*"
)


@dataclass(frozen=True)
class Gate:
    """A metric beside a bound.

    Attributes:
        metric: of a run's result; with `after`, of its metrics.jsonl.
        after: None judges the results of a finished experiment; N judges each run as it goes, from step N on.
    """

    metric: str
    comparison: str
    bound: float
    after: int | None = None

    def holds(self, value: float) -> bool:
        """Whether the comparison is true of the value; never of NaN."""
        return not math.isnan(value) and _COMPARISONS[self.comparison](value, self.bound)

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.bound:g}" + (f" after {self.after} steps" if self.after else "")


def parse_gate(text: str) -> Gate:
    """Read a gate. Raises `ValueError` when it is not `METRIC < NUMBER [after N steps]`."""
    match = _GATE.fullmatch(text)
    if match is None:
        raise ValueError(f'{shown(text)} is no gate; write it as "metric > number" or "metric > number after N steps"')
    if not math.isfinite(float(match["bound"])):
        raise ValueError(f"{text!r}: no number is that large; write a smaller one")
    after = match["after"]
    return Gate(match["metric"], match["comparison"], float(match["bound"]), None if after is None else int(after))
