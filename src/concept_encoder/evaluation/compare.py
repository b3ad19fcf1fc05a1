"""Systems side by side, task by task: scores beside baselines, and differences with a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from concept_encoder.errors import UserError
from concept_encoder.evaluation.resampling import Weights, weighted_scores
from concept_encoder.evaluation.runs import Run, System, check_same_examples
from concept_encoder.evaluation.statistics import (
    MIN_SEEDS,
    MOST_SEEDS,
    Difference,
    Interval,
    difference,
    holm,
    interval,
)

LEVEL = 0.05
AT_MAJORITY = "not above majority"
AT_MAJORITY_NOTE = (
    f"{AT_MAJORITY}: the interval reaches the majority class (of F1: class 1 for every example); without one, the "
    "score less 1 / sqrt(examples) does"
)
_GUESSES = ("majority class", "commonest tag")  # of `baselines`: those that never read the text


@dataclass(frozen=True)
class ScoreRow:
    """The mean of a system's seeds on one metric, and what it has to be seen beside.

    Attributes:
        value: None where the metric is undefined for a seed.
        interval: None without predictions.
        beside: baselines and controls, by name.
        remarks: what a reader must not miss, as "not above majority".
    """

    task: str
    metric: str
    system: str
    value: float | None
    interval: Interval | None
    seeds: int
    beside: dict[str, float | None]
    remarks: list[str]


@dataclass(frozen=True)
class DifferenceRow:
    """Candidate minus reference; `found` is None where there is nothing to test, and the verdict says why."""

    task: str
    metric: str
    candidate: str
    reference: str
    found: Difference | None
    adjusted_p: float | None
    verdict: str


@dataclass(frozen=True)
class Comparison:
    scores: list[ScoreRow]
    differences: list[DifferenceRow]
    notes: list[str]


def compare(systems: Sequence[System]) -> Comparison:
    """Scores of all systems, and the difference of each from the first on the tasks that they share.

    Every difference is one question; their p-values are corrected for all of them together (Holm).

    Raises:
        UserError: no task in common, or runs that were not scored on the same held-out examples.
    """
    first, *others = systems
    for other in others:
        if not set(first.tasks) & set(other.tasks):
            raise UserError(
                f"{other.name}: has runs of {', '.join(other.tasks)}, {first.name} of {', '.join(first.tasks)}; "
                "there is no task in common"
            )
    return compare_pairs(systems, [(first, other) for other in others])


def compare_pairs(systems: Sequence[System], pairs: Sequence[tuple[System, System]]) -> Comparison:
    """Scores of all systems, and the difference within each pair of a reference and a candidate, corrected together."""
    tasks = dict.fromkeys(task for system in systems for task in system.tasks)
    for task in tasks:
        check_same_examples([run for system in systems for run in system.tasks.get(task, [])])
    scores = [
        score_row(system, task, metric)
        for task in tasks
        for metric in _metrics(systems, task)
        for system in systems
        if task in system.tasks
    ]
    return Comparison(scores, _differences(pairs), _notes(systems, tasks))


def score_row(system: System, task: str, metric: str) -> ScoreRow:
    """One system on one metric of a task."""
    runs = system.tasks[task]
    values = [run.scores.get(metric) for run in runs]
    beside, remarks = {}, []
    for name in dict.fromkeys(name for run in runs for name in (*run.baselines, *run.controls)):
        found = [(run.baselines.get(name) or run.controls.get(name) or {}).get(metric) for run in runs]
        known = [value for value in found if value is not None]
        beside[name] = fmean(known) if known else None
        if 0 < len(known) < len(runs):
            remarks.append(f"{name}: of {len(known)} of {len(runs)} seeds")
    if diverged := system.diverged.get(task):
        remarks.append(f"{diverged} of {len(runs) + diverged} seeds diverged")
    undefined = [run for run, value in zip(runs, values) if value is None]
    remarks += [f"undefined for seed {run.seed}: {run.why_undefined(metric)}" for run in undefined[:1]]
    weights = None if undefined else _weights(system, task, metric)
    found = interval(*weights) if weights else None
    value = None if undefined else fmean(values)
    if value is not None:
        remarks += _remarks(runs, value, found, beside)
    return ScoreRow(task, metric, system.name, value, found, len(runs), beside, remarks)


def near_guess(value: float, guess: float, examples: int, found: Interval | None) -> bool:
    """Whether a score is not clearly above guessing: its interval reaches the guess; without one, 1 / sqrt(examples),
    the widest half of a 95 % interval that a share of so many examples can have."""
    low = found.low if found is not None else value - examples**-0.5 if examples else value
    return low <= guess


def _remarks(runs: Sequence[Run], value: float, found: Interval | None, beside: dict[str, float | None]) -> list[str]:
    remarks = []
    guesses = [beside[name] for name in _GUESSES if beside.get(name) is not None]
    if guesses and near_guess(value, guesses[0], runs[0].examples, found):
        remarks.append(AT_MAJORITY)
    one_class = [run for run in runs if run.kind == "classification" and run.predictions and _says_one_thing(run)]
    if one_class:
        remarks.append(f"{len(one_class)} of {len(runs)} seeds predict one class only")
    if any(run.predictions is None for run in runs):
        remarks.append("no predictions.json, so no interval")
    return remarks


def _says_one_thing(run: Run) -> bool:
    return len(set(run.predictions.predictions)) == 1


def _differences(pairs: Sequence[tuple[System, System]]) -> list[DifferenceRow]:
    references = [reference for reference, _ in pairs]
    questions = [
        (task, metric, reference, other)
        for task in dict.fromkeys(task for reference in references for task in reference.tasks)
        for metric in _metrics(references, task)
        for reference, other in pairs
        if task in reference.tasks and task in other.tasks
    ]
    level = LEVEL / max(len(questions), 1)
    tested = [_difference(reference, other, task, metric, level) for task, metric, reference, other in questions]
    adjusted = iter(holm([found.p for found in tested if isinstance(found, Difference)]))
    rows = []
    for (task, metric, reference, other), found in zip(questions, tested):
        if isinstance(found, Difference):
            p = next(adjusted)
            rows.append(DifferenceRow(task, metric, other.name, reference.name, found, p, verdict(found, p)))
        else:
            rows.append(DifferenceRow(task, metric, other.name, reference.name, None, None, found))
    return rows


def _difference(first: System, other: System, task: str, metric: str, level: float) -> Difference | str:
    """The difference, or why there is none."""
    for system in (first, other):
        if diverged := system.diverged.get(task):
            return f"untested: {diverged} of {len(system.tasks[task]) + diverged} seeds of {system.name} diverged"
        for run in system.tasks[task]:
            if run.scores.get(metric) is None:
                return f"undefined for {system.name}: {run.why_undefined(metric)}"
            if run.predictions is None:
                return f"untested: {system.name} has no predictions.json"
    candidate, reference = (_weights(system, task, metric) for system in (other, first))
    if candidate is None or reference is None:
        return "untested: one held-out example"
    paired = first.seeds(task) == other.seeds(task) and None not in first.seeds(task)
    return difference(candidate[0], reference[0], candidate[1], paired, level=level)


def verdict(found: Difference, adjusted_p: float) -> str:
    """What may be said: "higher", "lower", or that it cannot be said yet and what it would take."""
    seeds, needed = found.interval.seeds, found.seeds_needed
    if found.enough_seeds and adjusted_p < LEVEL:
        return "higher" if found.interval.value > 0 else "lower"
    if seeds == 1 or found.interval.value == 0:
        remedy = ""
    elif needed is None:
        remedy = f"; {MOST_SEEDS:,} would not settle it on so few examples"
    else:
        remedy = f"; about {max(needed, seeds + 1, MIN_SEEDS)} would settle it"
    return f"not enough seeds ({seeds} of {MIN_SEEDS}){remedy}" if not found.enough_seeds else f"undecided{remedy}"


def _weights(system: System, task: str, metric: str) -> tuple[Weights, int] | None:
    """None without predictions, or with a single example, of which nothing can be drawn."""
    runs = system.tasks[task]
    if any(run.predictions is None or len(run.predictions.labels) < 2 for run in runs):
        return None
    found = [run.predictions for run in runs]
    return weighted_scores(metric, [each.predictions for each in found], found[0].labels, found[0].label_names)


def _metrics(systems: Sequence[System], task: str) -> list[str]:
    return list(dict.fromkeys(name for system in systems for run in system.tasks.get(task, []) for name in run.scores))


def _notes(systems: Sequence[System], tasks: Sequence[str]) -> list[str]:
    notes = [
        f"{system.name} has no run of {', '.join(missing)}"
        for system in systems
        if (missing := [task for task in tasks if task not in system.tasks])
    ]
    one_checkpoint = [system.name for system in systems if _one_checkpoint(system)]
    if one_checkpoint:
        names = ", ".join(one_checkpoint)
        notes.append(f"the seeds of {names} fine-tune one checkpoint: they say nothing of another pretraining of it")
    return notes


def _one_checkpoint(system: System) -> bool:
    several = any(len(found) > 1 for found in system.tasks.values())
    checkpoints = {run.checkpoint for found in system.tasks.values() for run in found}
    return several and len(checkpoints) == 1 and None not in checkpoints
