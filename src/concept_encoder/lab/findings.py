"""What a plan has found: each experiment's claim beside what its seeds say, its cost, and what its gates advise."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from concept_encoder.lab.failures import mask
from concept_encoder.lab.plan import Expected, Experiment, Plan
from concept_encoder.lab.results import GateVerdict, Metrics, Observed, judge_gates, observe, seeds_by_variant, values
from concept_encoder.lab.runs import Run
from concept_encoder.lab.statistics import MIN_SEEDS, Verdict, effects_of, interval, judge
from concept_encoder.lab.store import State


@dataclass(frozen=True)
class Row:
    """A variant: its metric over seeds, and the effect against what it is compared with.

    Attributes:
        seeds: that have reported, on both sides where two are compared.
        planned: that were asked for. While some are missing there is no verdict: those that survive, or come first,
            do not stand for all.
    """

    variant: str
    mean: float | None
    interval: tuple[float, float] | None
    verdict: Verdict
    seeds: int
    planned: int


@dataclass(frozen=True)
class Finding:
    """An experiment as the report shows it; `verdict` is `open` while runs are left."""

    experiment: Experiment
    expected: str
    rows: list[Row]
    verdict: str
    would_decide: str
    gates: list[GateVerdict]
    hours: float
    gpu_hours: float
    planned_hours: float
    states: Mapping[str, int]
    troubles: list[str] = field(default_factory=list)

    @property
    def advice(self) -> str:
        """What the gates say; nothing while they cannot be judged, or without any."""
        return "" if not self.gates else "go on" if all(gate.opens for gate in self.gates) else "do not go on from here"

    @property
    def complete(self) -> bool:
        return set(self.states) == {"done"}

    @property
    def headline(self) -> Row | None:
        """The variant that speaks for the experiment: the one with the largest effect."""
        return max(
            self.rows, key=lambda row: float("-inf") if row.verdict.effect is None else row.verdict.effect, default=None
        )


def find(plan: Plan, runs: Sequence[Run], states: Mapping[str, State], metrics: Mapping[str, Metrics]) -> list[Finding]:
    """The findings of all experiments, in the order of the plan's file.

    Args:
        states, metrics: by run; metrics of finished runs only.
    """
    by_experiment: dict[str, list[Run]] = {}
    for run in runs:
        by_experiment.setdefault(run.experiment.id, []).append(run)
    observed = {name: observe(own, lambda run: metrics.get(run.id)) for name, own in by_experiment.items()}
    return [_finding(each, by_experiment, states, observed) for each in plan.experiments]


def next_steps(plan: Plan, findings: Sequence[Finding]) -> list[str]:
    """What the gates, the verdicts and the failures say to do next, in the order of the plan's file."""
    steps = []
    by_id = {finding.experiment.id: finding for finding in findings}
    for name, finding in by_id.items():
        left = [e.id for e in plan.experiments if name in e.all_needs and not by_id[e.id].complete]
        closed = [gate.why for gate in finding.gates if not gate.opens]
        if closed:
            after = f"; {', '.join(left)} would have followed" if left else ""
            steps.append(f"{name}: do not go on from here: {'; '.join(closed)}{after}")
        elif finding.gates and left:
            steps.append(f"{name}: its gates are open, go on to {', '.join(left)}")
        if finding.verdict == "undecided" and finding.rows:
            steps.append(f"{name}: undecided; {finding.would_decide}")
        if failed := finding.states.get("failed", 0):
            steps.append(f"{name}: {failed} failed; mend what its reasons say, then plan run --retry")
    return steps


def _finding(
    experiment: Experiment,
    by_experiment: Mapping[str, Sequence[Run]],
    states: Mapping[str, State],
    observed: Mapping[str, Observed],
) -> Finding:
    runs = by_experiment[experiment.id]
    own = [states[id] for id in dict.fromkeys(run.id for run in runs)]  # cells may share a run
    counts = Counter(state.state for state in own)
    ended = all(state.final for state in own)
    planned = {name: seeds_by_variant(each) for name, each in by_experiment.items()}
    rows = _rows(experiment.expect, experiment.id, planned, observed) if experiment.expect else []
    verdict, would_decide = _verdict(rows, ended) if experiment.expect else ("no claim", "")
    hours = sum(state.seconds for state in own) / 3600
    return Finding(
        experiment=experiment,
        expected=_expected(experiment.expect),
        rows=rows,
        verdict=verdict,
        would_decide=would_decide,
        gates=judge_gates(experiment, observed[experiment.id]) if ended else [],
        hours=hours,
        gpu_hours=sum(state.seconds * state.gpus for state in own) / 3600,
        planned_hours=experiment.resources.hours * len(own),
        states=counts,
        troubles=[mask(f"{s.name}: {s.state}, {s.reason}") for s in own if s.state in ("failed", "stopped", "skipped")],
    )


def _rows(
    expected: Expected, own: str, planned: Mapping[str, Mapping[str, set[int]]], observed: Mapping[str, Observed]
) -> list[Row]:
    """A row for every variant that was planned, whether it has reported or not."""
    variants = [variant for variant in sorted(planned[own]) if expected.target != (own, variant)]
    rows = []
    for variant in variants:
        found, seeds = values(observed[own].get(variant, {}), expected.metrics), planned[own][variant]
        other: Any = expected.against
        if expected.target is not None:
            name = expected.target[0]
            counterpart = expected.counterpart(variant, planned[name])
            assert counterpart is not None  # `expand` has seen to it
            other = values(observed[name].get(counterpart, {}), expected.metrics)
            seeds = seeds & planned[name][counterpart]
        effects = effects_of(found, other, expected.direction, expected.relative)
        verdict = judge(effects, expected.by, len(variants))
        if len(effects) < len(seeds):
            verdict = replace(verdict, word="undecided", would_decide=None)
        mean = fmean(found.values()) if found else None
        rows.append(Row(variant, mean, interval(list(found.values())), verdict, len(effects), len(seeds)))
    return rows


def _verdict(rows: Sequence[Row], ended: bool) -> tuple[str, str]:
    """One word for an experiment that has ended: supported if one variant is, refuted if all are."""
    words = [row.verdict.word for row in rows]
    if ended and "supported" in words:
        which = next(row.variant for row in rows if row.verdict.word == "supported")
        return "supported" + (f" (by {which})" if len(rows) > 1 else ""), ""
    if ended and words and all(word == "refuted" for word in words):
        return "refuted", ""
    word = "undecided" if ended else "open"
    if all(row.mean is None for row in rows):
        return word, "no result reports the metric yet"
    return word, "; ".join(filter(None, map(_needed, rows)))


def _needed(row: Row) -> str:
    named = f"{row.variant}: " if row.variant else ""
    verdict = row.verdict
    if verdict.word != "undecided":
        return ""
    if verdict.seeds == 0:
        return f"{named}nothing to compare with yet"
    if row.seeds < row.planned:
        return f"{named}{row.planned - row.seeds} of {row.planned} seeds are missing"
    if verdict.seeds == 1:
        return f"{named}one seed has no spread; {MIN_SEEDS} are the least that decide"
    if verdict.would_decide is None:
        return f"{named}the mean is too near the claim for any affordable number of seeds"
    return f"{named}{verdict.would_decide} seeds would decide, were mean and spread to stay"


def _expected(expected: Expected | None) -> str:
    if expected is None:
        return ""
    metric = expected.metrics[0] if len(expected.metrics) == 1 else f"mean of {', '.join(expected.metrics)}"
    if expected.relative:
        return f"{metric} {expected.direction} by a factor of {expected.by:g} or more against {expected.against}"
    if expected.by > 0:
        return f"{metric} {expected.direction} by {expected.by:g} or more against {expected.against}"
    lost = f" by more than {-expected.by:g}" if expected.by else ""
    return f"{metric} not {'lower' if expected.direction == 'up' else 'higher'} than {expected.against}{lost}"
