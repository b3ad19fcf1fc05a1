"""What the runs of an experiment report together, by variant and seed, and what its gates make of that."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from concept_encoder.lab.gates import Gate
from concept_encoder.lab.plan import Experiment
from concept_encoder.lab.runs import Run

Metrics = Mapping[str, float]
Observed = dict[str, dict[int, dict[str, float]]]  # variant -> seed -> metric -> value


@dataclass(frozen=True)
class GateVerdict:
    """A gate of a finished experiment: whether it opens the way for those who need the experiment, and why."""

    gate: Gate
    kind: str
    opens: bool
    why: str


def observe(runs: Iterable[Run], metrics: Callable[[Run], Metrics | None]) -> Observed:
    """The metrics of finished runs; the tasks of a variant and seed are together, as their metrics' names differ."""
    observed: Observed = {}
    for run in runs:
        found = metrics(run)
        if found is not None:
            observed.setdefault(run.variant, {}).setdefault(run.seed, {}).update(found)
    return observed


def seeds_by_variant(runs: Iterable[Run]) -> dict[str, set[int]]:
    """What was planned: variant -> its seeds."""
    planned: dict[str, set[int]] = {}
    for run in runs:
        planned.setdefault(run.variant, set()).add(run.seed)
    return planned


def values(seeds: Mapping[int, Metrics], metrics: Iterable[str]) -> dict[int, float]:
    """Seed -> the mean of these metrics, for seeds that report them all."""
    metrics = list(metrics)
    return {
        seed: fmean(found[name] for name in metrics)
        for seed, found in sorted(seeds.items())
        if all(name in found for name in metrics)
    }


def judge_gates(experiment: Experiment, observed: Observed) -> list[GateVerdict]:
    """The gates on results. `go on if` asks for one variant that meets it, `stop if` for all of them to meet it.

    A gate on a metric that nobody has reported is closed: nothing says that it is safe to go on.
    """
    verdicts = []
    for kind, gate in experiment.gate_list():
        if gate.after is not None:
            continue
        by_variant = {variant: values(seeds, [gate.metric]) for variant, seeds in observed.items()}
        means = {variant: fmean(found.values()) for variant, found in by_variant.items() if found}
        if not means:
            verdicts.append(GateVerdict(gate, kind, False, f"{gate.metric}: not reported by any run"))
            continue
        met = {variant: gate.holds(mean) for variant, mean in means.items()}
        opens = any(met.values()) if kind == "go on if" else not all(met.values())
        largest = gate.comparison.startswith(">")
        variant = (max if largest else min)(means, key=means.__getitem__)
        named = f" ({variant})" if variant else ""
        why = f"{gate.metric} is {means[variant]:.4g}{named}, mean of {len(by_variant[variant])} seeds; {kind} {gate}"
        verdicts.append(GateVerdict(gate, kind, opens, why))
    return verdicts
