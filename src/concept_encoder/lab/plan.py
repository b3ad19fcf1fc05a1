"""The plan file: experiments with what they claim, need, cost and decide; every field is checked when it is read."""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from concept_encoder.errors import UserError, nearest
from concept_encoder.lab.early import EarlyStops
from concept_encoder.lab.gates import Gate, parse_gate
from concept_encoder.lab.verbs import VERBS
from concept_encoder.settings import from_mapping, load_yaml

GATES = ("go on if", "stop if")


@dataclass(frozen=True)
class Expected:
    """What an experiment claims: `metric` goes `direction` by at least `by`, against another experiment or a number.

    Attributes:
        metric: a metric of the runs' results; of several the mean is taken, seed by seed.
        against: an experiment of the plan (compared seed by seed; `experiment/variant` picks one), or a number.
        relative: `by` is a factor, 2 for twice as much (or half as much, going down).
    """

    metric: str | list[str]
    direction: Literal["up", "down"]
    by: float
    against: float | str
    relative: bool = False

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("metric: an empty list; name one at least")
        if not math.isfinite(self.by) or (self.relative and self.by <= 0):
            raise ValueError(f"by: {self.by} is no {'factor' if self.relative else 'size of an effect'}")

    @property
    def metrics(self) -> list[str]:
        return [self.metric] if isinstance(self.metric, str) else self.metric

    @property
    def target(self) -> tuple[str, str] | None:
        """Experiment and variant ("" where none is named) of `against`; None when it is a number."""
        if not isinstance(self.against, str):
            return None
        name, _, variant = self.against.partition("/")
        return name, variant

    def counterpart(self, variant: str, planned: Collection[str]) -> str | None:
        """Which of the planned variants one is compared with: that of `against`, else its namesake, else the only one.

        What has finished so far plays no part: a comparison never changes while a plan runs.
        """
        if self.target is not None and self.target[1]:
            return self.target[1]
        return variant if variant in planned else next(iter(planned)) if len(planned) == 1 else None


@dataclass(frozen=True)
class Resources:
    """What one run needs: GPUs (0: a CPU slot) and an estimate of its hours."""

    gpus: int = 0
    hours: float = 1.0

    def __post_init__(self) -> None:
        if self.gpus < 0:
            raise ValueError(f"gpus: {self.gpus} is negative")
        if not 0 < self.hours < float("inf"):
            raise ValueError(f"hours: {self.hours} is not a positive number")


@dataclass(frozen=True)
class Experiment:
    """One line of the research plan: a run for every seed and every cell of `rows` times `grid`.

    Attributes:
        hypothesis: in words; the report judges `expect`, its measurable form.
        priority: what is ready starts in this order, 1 first.
        needs: experiments that must have ended, with their gates met, before this one starts.
        verb: the command, see `verbs.py`.
        recipe: a recipe file; relative to the plan's folder, or to the working folder.
        overrides: `section.field: value` for every run. A value `{run: other}` is the run of another experiment with
            the same seed, `{run: other/variant}` that of one of its variants; the other is needed, then, too.
        rows: named variants, `name: {section.field: value}`.
        grid: `section.field: [values]`, all combinations.
        gates: `go on if` and `stop if`, one gate or a list each, on the mean over seeds.
    """

    id: str
    hypothesis: str = ""
    phase: int | str | None = None
    expect: Expected | None = None
    priority: int = 100
    needs: list[str] = field(default_factory=list)
    verb: str = "pretrain"
    recipe: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    resources: Resources = field(default_factory=Resources)
    gates: dict[str, str | list[str]] = field(default_factory=dict)
    early: EarlyStops = field(default_factory=EarlyStops)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", self.id):
            raise ValueError(f"id: {self.id!r} cannot name a folder; use letters, digits, '-' and '_'")
        if self.verb not in VERBS:
            raise ValueError(f"verb: no run is called {self.verb!r}; {nearest(self.verb, VERBS)}")
        if VERBS[self.verb].takes_recipe and self.recipe is None:
            raise ValueError(f"recipe: {self.verb} needs a recipe file")
        if not VERBS[self.verb].takes_recipe and self.recipe is not None:
            raise ValueError(f"recipe: {self.verb} takes none; set options.… in overrides")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds: {self.seeds} is not a list of different numbers from 0 up")
        for name in self.grid:
            if not self.grid[name]:
                raise ValueError(f"grid.{name}: an empty list of values")
        self.gate_list()

    def gate_list(self) -> list[tuple[str, Gate]]:
        """The gates as pairs of `go on if` or `stop if` and the gate."""
        found = []
        for kind, texts in self.gates.items():
            if kind not in GATES:
                raise ValueError(f"gates.{kind}: no such gate; {nearest(kind, GATES)}")
            for text in [texts] if isinstance(texts, str) else texts:
                try:
                    gate = parse_gate(text)
                except ValueError as error:
                    raise ValueError(f"gates.{kind}: {error}") from None
                if gate.after is not None and kind == "go on if":
                    raise ValueError(f"gates.{kind}: {text!r}: only stop if can judge a run as it goes (after N steps)")
                found.append((kind, gate))
        return found

    def references(self) -> list[tuple[str, str]]:
        """Pairs of the field and the `experiment[/variant]` whose run it takes."""
        cells = [self.overrides, *self.rows.values()]
        pairs = [(name, value) for cell in cells for name, value in cell.items()]
        pairs += [(name, value) for name, values in self.grid.items() for value in values]
        return [(name, value["run"]) for name, value in pairs if is_reference(value)]

    @property
    def most_hours(self) -> float:
        """After which a run is stopped; twice the estimate where no budget says so."""
        return self.resources.hours * (self.early.budget or 2.0)

    @property
    def all_needs(self) -> list[str]:
        """The experiments that come first: `needs`, and those whose runs are used."""
        return list(dict.fromkeys([*self.needs, *(target.partition("/")[0] for _, target in self.references())]))


@dataclass(frozen=True)
class Reference:
    """A published row to stand beside: its name, where it is from, and its metrics."""

    name: str
    source: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """A research plan; `defaults` are fields that every experiment has unless it says otherwise."""

    title: str
    experiments: list[Any]
    reference: Reference | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def by_id(self) -> dict[str, Experiment]:
        return {experiment.id: experiment for experiment in self.experiments}

    def in_order(self) -> list[Experiment]:
        """Every experiment after those it needs, otherwise by priority and place in the file."""
        depth: dict[str, int] = {}
        by_id = self.by_id
        for name in TopologicalSorter({e.id: e.all_needs for e in self.experiments}).static_order():
            depth[name] = 1 + max((depth[need] for need in by_id[name].all_needs), default=0)
        return sorted(self.experiments, key=lambda e: (depth[e.id], e.priority))


def is_reference(value: Any) -> bool:
    """Whether a field's value means the run of another experiment."""
    return isinstance(value, Mapping) and set(value) == {"run"}


def load_plan(path: str | Path) -> Plan:
    """Read and check a plan file. Raises `UserError` in one line that names the field."""
    path = Path(path)
    content = load_yaml(path, "plan")
    for name in ("title", "experiments"):
        if name not in content:
            raise UserError(f"{path}: {name}: missing; a plan has title and experiments")
    plan = from_mapping(Plan, content, "plan", folder=path.parent)
    if not plan.experiments:
        raise UserError("plan.experiments: empty; a plan has at least one")
    experiments = [_experiment(raw, place, plan.defaults) for place, raw in enumerate(plan.experiments)]
    plan = Plan(plan.title, experiments, plan.reference, plan.defaults, plan.folder)
    _check_names(experiments)
    _check_cycles(experiments)
    return plan


def _experiment(raw: Any, place: int, defaults: Mapping[str, Any]) -> Experiment:
    if not isinstance(raw, Mapping):
        raise UserError(f"plan.experiments[{place}]: expected fields, found {raw!r}")
    if "id" not in raw:
        raise UserError(f"plan.experiments[{place}].id: missing; every experiment has an id of its own")
    known = [each.name for each in fields(Experiment)]
    for name in defaults:
        if name not in known:
            raise UserError(f"plan.defaults.{name}: no such field; {nearest(str(name), known)}")
    merged = {**defaults, **raw}
    for name in ("overrides", "resources", "early"):  # field by field
        parts = [source.get(name) for source in (defaults, raw)]
        if all(isinstance(part, Mapping) for part in parts):
            merged[name] = {**parts[0], **parts[1]}
    if not VERBS.get(str(merged.get("verb", "pretrain")), VERBS["pretrain"]).takes_recipe and "overrides" not in raw:
        merged.pop("overrides", None)
    return from_mapping(Experiment, merged, f"experiments.{raw.get('id', place)}")


def _check_names(experiments: Iterable[Experiment]) -> None:
    ids = [experiment.id for experiment in experiments]
    for name in ids:
        if ids.count(name) > 1:
            raise UserError(f"experiments.{name}.id: given twice; every experiment has an id of its own")
    for experiment in experiments:
        where = f"experiments.{experiment.id}"
        asked = [("needs", need) for need in experiment.needs] + experiment.references()
        if experiment.expect and isinstance(experiment.expect.against, str):
            asked.append(("expect.against", experiment.expect.against))
        for name, target in asked:
            if str(target).partition("/")[0] not in ids:
                raise UserError(f"{where}.{name}: no experiment is called {target!r}; {nearest(str(target), ids)}")


def _check_cycles(experiments: Iterable[Experiment]) -> None:
    sorter = TopologicalSorter({experiment.id: experiment.all_needs for experiment in experiments})
    try:
        sorter.prepare()
    except CycleError as error:
        circle = error.args[1][::-1]
        raise UserError(f"experiments.{circle[0]}.needs: a circle, {' needs '.join(circle)}; break it") from None
