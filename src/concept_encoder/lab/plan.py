"""The plan file: experiments with what they claim, need, cost and decide; every field is checked when it is read."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from concept_encoder.errors import UserError, naming, nearest, shown
from concept_encoder.lab.early import EarlyStops
from concept_encoder.lab.gates import Gate, parse_gate
from concept_encoder.lab.verbs import VERBS
from concept_encoder.settings import from_mapping, load_yaml

GATES = ("go on if", "stop if")
_MOST = 100_000  # GPUs, or hours, of one run


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
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError("metric: one is given twice; the mean counts each once")
        if self.relative and self.by <= 0:
            raise ValueError(f"by: {self.by} is no factor")

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
        if not 0 <= self.gpus <= _MOST:
            raise ValueError(f"gpus: {self.gpus} is not between 0 and {_MOST:,}")
        if not 0 < self.hours <= _MOST:
            raise ValueError(f"hours: {self.hours:g} is not above 0 and at most {_MOST:,}")


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
            raise ValueError(f"id: {shown(self.id)} cannot name a folder; use letters, digits, '-' and '_'")
        if self.verb not in VERBS:
            raise ValueError(f"verb: no run is called {shown(self.verb)}; {nearest(self.verb, VERBS)}")
        if VERBS[self.verb].takes_recipe and self.recipe is None:
            raise ValueError(f"recipe: {self.verb} needs a recipe file")
        if not VERBS[self.verb].takes_recipe and self.recipe is not None:
            raise ValueError(f"recipe: {self.verb} takes none; set options.… in overrides")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds: {shown(self.seeds)} is not a list of different numbers from 0 up")
        for name in self.grid:
            if not self.grid[name]:
                raise ValueError(f"grid.{name}: an empty list of values")
        for name, value in self._values():
            _check_reference(name, value)
        self.gate_list()

    def gate_list(self) -> list[tuple[str, Gate]]:
        """The gates as pairs of `go on if` or `stop if` and the gate."""
        found = []
        for kind, texts in self.gates.items():
            if kind not in GATES:
                raise ValueError(f"gates.{kind}: no such gate; {nearest(kind, GATES)}")
            if not texts:
                raise ValueError(f"gates.{kind}: an empty list; name a gate, or leave it out")
            for text in [texts] if isinstance(texts, str) else texts:
                try:
                    gate = parse_gate(text)
                except ValueError as error:
                    raise ValueError(f"gates.{kind}: {error}") from None
                if gate.after is not None and kind == "go on if":
                    raise ValueError(f"gates.{kind}: {text!r}: only stop if can judge a run as it goes (after N steps)")
                if gate.after is not None and not VERBS[self.verb].takes_recipe:
                    raise ValueError(f"gates.{kind}: {text!r}: {self.verb} takes no steps; leave out after N steps")
                found.append((kind, gate))
        return found

    def references(self) -> list[tuple[str, str]]:
        """Pairs of the field and the `experiment[/variant]` whose run it takes."""
        return [(name, value["run"]) for name, value in self._values() if is_reference(value)]

    def _values(self) -> list[tuple[str, Any]]:
        """Pairs of a field and a value that it takes in some run."""
        cells = [self.overrides, *self.rows.values()]
        pairs = [(name, value) for cell in cells for name, value in cell.items()]
        return pairs + [(name, value) for name, values in self.grid.items() for value in values]

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
    file: Path = Path()

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


def _check_reference(field: str, value: Any) -> None:
    """Refuse what looks like a reference, and is none."""
    if is_reference(value) and not isinstance(value["run"], str):
        raise ValueError(f"{field}.run: expected the name of an experiment, found {shown(value['run'])}; quote it")
    inside = value if isinstance(value, list) else value.values() if isinstance(value, Mapping) else ()
    if any(is_reference(each) for each in inside):
        raise ValueError(f"{field}: {{run: …}} inside a value; it has to be the value (of a grid: one of its values)")


def load_plan(path: str | Path) -> Plan:
    """Read and check a plan file. Raises `UserError` in one line that names the field."""
    path = Path(path)
    content = load_yaml(path, "plan")
    with naming(path):
        return _plan(content, path)


def _plan(content: Mapping[str, Any], path: Path) -> Plan:
    for name in ("title", "experiments"):
        if name not in content:
            raise UserError(f"{name}: missing; a plan has title and experiments")
    plan = from_mapping(Plan, content, "plan", file=path)
    if not plan.experiments:
        raise UserError("plan.experiments: empty; a plan has at least one")
    experiments = [_experiment(raw, place, plan.defaults) for place, raw in enumerate(plan.experiments)]
    _check_names(experiments)
    _check_cycles(experiments)
    return replace(plan, experiments=experiments)


def _experiment(raw: Any, place: int, defaults: Mapping[str, Any]) -> Experiment:
    if not isinstance(raw, Mapping):
        raise UserError(f"plan.experiments[{place}]: expected fields, found {shown(raw)}")
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
    where = f"experiments.{raw['id']}"
    if not VERBS.get(str(merged.get("verb", "pretrain")), VERBS["pretrain"]).takes_recipe:
        _leave_out_training(merged, raw, where)
    return from_mapping(Experiment, merged, where)


def _leave_out_training(merged: dict[str, Any], raw: Mapping[str, Any], where: str) -> None:
    """Take the defaults that only a training has out of an experiment that trains nothing, and refuse its own."""
    mine, both = raw.get("overrides") or {}, merged.get("overrides")
    if isinstance(mine, Mapping) and isinstance(both, Mapping):
        merged["overrides"] = {k: v for k, v in both.items() if k in mine or str(k).startswith("options.")}
    own = raw.get("early")
    for name in own if isinstance(own, Mapping) else ():
        if name != "budget":
            raise UserError(f"{where}.early.{name}: {merged['verb']} takes no steps; budget alone can stop it")
    if isinstance(merged.get("early"), Mapping):
        merged["early"] = {name: value for name, value in merged["early"].items() if name == "budget"}


def _check_names(experiments: Iterable[Experiment]) -> None:
    by_id: dict[str, Experiment] = {}
    for experiment in experiments:
        if experiment.id in by_id:
            raise UserError(f"experiments.{experiment.id}.id: given twice; every experiment has an id of its own")
        by_id[experiment.id] = experiment
    for experiment in experiments:
        where = f"experiments.{experiment.id}"
        asked = [("needs", need) for need in experiment.needs] + experiment.references()
        if experiment.expect and isinstance(experiment.expect.against, str):
            asked.append(("expect.against", experiment.expect.against))
        for name, target in asked:
            of, variant, _ = target.partition("/")
            if of not in by_id:
                raise UserError(f"{where}.{name}: no experiment is called {shown(target)}; {nearest(target, by_id)}")
            if name == "needs" and variant:
                raise UserError(f"{where}.needs: {target}: name the experiment, {of}")
            if name.endswith(".checkpoint") and not VERBS[by_id[of].verb].takes_recipe:
                raise UserError(f"{where}.{name}: {of} is a run of {by_id[of].verb}, which leaves no checkpoint")


def _check_cycles(experiments: Iterable[Experiment]) -> None:
    sorter = TopologicalSorter({experiment.id: experiment.all_needs for experiment in experiments})
    try:
        sorter.prepare()
    except CycleError as error:
        circle = error.args[1][::-1]
        first = next(experiment for experiment in experiments if experiment.id == circle[0])
        reads = {target.partition("/")[0]: name for name, target in first.references()}
        name = "needs" if circle[1] in first.needs else reads[circle[1]]
        raise UserError(f"experiments.{circle[0]}.{name}: a circle, {' needs '.join(circle)}; break it") from None
