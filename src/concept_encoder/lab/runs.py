"""From experiments to runs: rows, grids and seeds multiplied, references resolved, each run named by its content."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from concept_encoder.errors import UserError, naming, nearest
from concept_encoder.lab.metrics import STREAMED, reported, reports
from concept_encoder.lab.plan import Expected, Experiment, Plan, is_reference
from concept_encoder.lab.verbs import SECTIONS, VERBS, Verb
from concept_encoder.records import FREE_TO_CHANGE
from concept_encoder.settings import coerce, load_yaml, set_fields

_MOST_RUNS = 20_000
_OURS = {"training.seed": "use seeds:", "training.output_dir": "leave it out; the store has a folder for every run"}
_COUNTS = ("max_steps", "batch_size", "micro_batch_size")  # of a training, which the scheduler reads


@dataclass(frozen=True)
class Run:
    """One command with its content.

    Attributes:
        id: hash of verb, sections and the ids of the runs it reads: the same content is the same run.
        name: `experiment.variant.task.s0`, as people call it.
        variant: the cell of the grid, the task left out; seeds and tasks of a variant are reported together.
        sections: of the recipe; a reference is still a reference, see `resolved`.
        inputs: field -> id of the run that it takes.
    """

    id: str
    name: str
    experiment: Experiment = field(repr=False)
    variant: str
    seed: int
    sections: Mapping[str, Any] = field(repr=False)
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def verb(self) -> Verb:
        return VERBS[self.experiment.verb]

    @property
    def folder_name(self) -> str:
        start = self.name.encode()[:150].decode(errors="ignore")  # file systems take 255 bytes
        return f"{start}-{self.id[:8]}"

    def resolved(self, folders: Mapping[str, Path], changes: Mapping[str, Any]) -> dict[str, Any]:
        """The sections as the command takes them: references are folders, `changes` are set."""
        fields = {name: str(folders[run]) for name, run in self.inputs.items()}
        return set_fields(self.sections, {**fields, **changes})

    def out_of_memory_remedy(self, changes: Mapping[str, Any]) -> dict[str, Any] | None:
        """Half the micro-batch, which leaves the effective batch as it is; None when it cannot be halved."""
        training = {**dict(self.sections.get("training") or {})}
        share = training.get("batch_size", 64) // max(self.experiment.resources.gpus, 1)  # of a batch, on one device
        micro = min(changes.get("training.micro_batch_size") or training.get("micro_batch_size") or share, share)
        if not self.verb.takes_recipe or micro < 2:
            return None
        half = next(size for size in range(micro // 2, 0, -1) if share % size == 0)
        return {**changes, "training.micro_batch_size": half}


@dataclass(frozen=True)
class _Cell:
    parts: tuple[str, ...]  # of the variant's name
    task: str
    fields: Mapping[str, Any]


def expand(plan: Plan) -> list[Run]:
    """All runs of a plan, those that are needed first. Raises `UserError` naming the plan's file and the field."""
    with naming(plan.file):
        return _expand(plan)


def _expand(plan: Plan) -> list[Run]:
    runs: list[Run] = []
    of_experiment: dict[str, list[Run]] = {}
    for experiment in plan.in_order():
        recipe = _recipe(plan, experiment)
        values = prod(map(len, experiment.grid.values())) * len(experiment.seeds)
        if len(runs) + len(experiment.rows or [0]) * values > _MOST_RUNS:
            raise UserError(
                f"experiments.{experiment.id}: a plan has at most {_MOST_RUNS:,} runs; leave out some values"
            )
        own = []
        for cell in _cells(experiment, recipe.pop("rows", {})):
            for seed in experiment.seeds:
                own.append(_run(experiment, recipe, cell, seed, of_experiment))
        names = [run.name for run in own]
        twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if twice:
            rows = len({_slug(row) for row in experiment.rows}) < len(experiment.rows)
            where, remedy = ("rows", "rename one") if rows else ("grid", "name them in rows")
            raise UserError(f"experiments.{experiment.id}.{where}: two cells are called {twice!r}; {remedy}")
        _check_seeds(experiment, own)
        of_experiment[experiment.id] = own
        runs += own
    for experiment in plan.experiments:
        _check_metrics(experiment, of_experiment)
    return runs


def _check_seeds(experiment: Experiment, own: Sequence[Run]) -> None:
    """Refuse seeds that change nothing: one run would stand for all of them, with no spread at all."""
    ids: dict[str, set[str]] = {}
    for run in own:
        ids.setdefault(run.name.rpartition(".")[0], set()).add(run.id)
    if any(len(found) < len(experiment.seeds) for found in ids.values()):
        raise UserError(
            f"experiments.{experiment.id}.seeds: {experiment.verb} takes no seed, so {len(experiment.seeds)} seeds are "
            "one run; give seeds: [0], or let it read the run of each seed ({run: …})"
        )


def _recipe(plan: Plan, experiment: Experiment) -> dict[str, Any]:
    if experiment.recipe is None:
        return {}
    beside, here = plan.file.parent / experiment.recipe, Path(experiment.recipe)
    found = next((path for path in (beside, here, plan.file.parent.parent / here) if path.is_file()), None)
    if found is None:
        raise UserError(f"experiments.{experiment.id}.recipe: no file {beside} and no file {here}")
    content = load_yaml(found)
    with naming(found):
        return _checked(content)


def _checked(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a recipe and its rows, as far as every recipe has them."""
    for name in recipe:
        if name not in (*SECTIONS, "rows"):
            raise UserError(f"{name}: no such section of a recipe; {nearest(name, SECTIONS)}")
    checked = {name: coerce(value, dict[str, Any] | None, name) for name, value in recipe.items()}
    rows = checked.pop("rows", None) or {}
    rows = {row: coerce(fields, dict[str, Any] | None, f"rows.{row}") or {} for row, fields in rows.items()}
    for row, fields in rows.items():
        if any(is_reference(value) for value in fields.values()):
            raise UserError(f"rows.{row}: {{run: …}} is for a plan; write these rows into the experiment")
    return {**checked, "rows": rows}


def _cells(experiment: Experiment, recipe_rows: Mapping[str, Mapping]) -> Iterator[_Cell]:
    rows = experiment.rows or recipe_rows or {"": {}}
    for row, fields in rows.items():
        if twice := sorted(set(fields) & set(experiment.grid)):
            raise UserError(f"experiments.{experiment.id}.rows.{row}.{twice[0]}: the grid sets it too; leave one out")
    task_field = VERBS[experiment.verb].task
    for (row, fields), *values in product(rows.items(), *experiment.grid.values()):
        chosen = {**experiment.overrides, **fields, **dict(zip(experiment.grid, values))}
        parts = [_slug(row)] if row else []
        parts += [_slug(value) for name, value in zip(experiment.grid, values) if name != task_field]
        task = _slug(chosen[task_field]) if task_field in experiment.grid else ""
        _check_fields(experiment, chosen)
        yield _Cell(tuple(parts), task, chosen)


def _check_fields(experiment: Experiment, names: Iterable[str]) -> None:
    """Refuse what is no field of this verb's, or is not a plan's to set."""
    where, verb = f"experiments.{experiment.id}", VERBS[experiment.verb]
    allowed = SECTIONS if verb.takes_recipe else ("options",)
    for name in names:
        section, dot, _ = name.partition(".")
        if section not in allowed or not dot:
            hint = nearest(section, allowed) if verb.takes_recipe else f"{verb.name} takes options.name"
            raise UserError(f"{where}.overrides.{name}: write section.field; {hint}")
        if name in _OURS:
            raise UserError(f"{where}.{name}: {_OURS[name]}")
        option = name.partition(".")[2].replace("-", "_")
        if not verb.takes_recipe and not re.fullmatch(r"[a-z][a-z_]*", option):  # an option, and nothing but one
            raise UserError(f"{where}.overrides.{name}: no option of {verb.name} can be called so")
        if not verb.takes_recipe and option in ("output", "help", *verb.refused):
            raise UserError(f"{where}.overrides.{name}: not in a plan; call {verb.name} yourself for that")


def _slug(value: Any) -> str:
    text = str(value["run"]).replace("/", "-") if is_reference(value) else str(value)
    return re.sub(r"[^\w-]+", "-", text).strip("-")[:60] or "empty"


def _run(
    experiment: Experiment, recipe: Mapping[str, Any], cell: _Cell, seed: int, of_experiment: Mapping[str, list[Run]]
) -> Run:
    where = f"experiments.{experiment.id}"
    verb = VERBS[experiment.verb]
    inputs = {
        name: _referred(value["run"], seed, of_experiment, f"{where}.{name}").id
        for name, value in cell.fields.items()
        if is_reference(value)
    }
    plain = {name: value for name, value in cell.fields.items() if name not in inputs}
    if verb.takes_recipe:
        plain["training.seed"] = seed
    sections = set_fields(recipe, plain)
    for count in _COUNTS:
        coerce(dict(sections.get("training") or {}).get(count), int | None, f"{where}.training.{count}")
    variant = "-".join(cell.parts)
    name = ".".join(part for part in (experiment.id, variant, cell.task, f"s{seed}") if part)
    identity = _identity(verb, sections, inputs, seed if verb.repeats else None)
    return Run(identity, name, experiment, variant, seed, sections, inputs)


def _referred(target: str, seed: int, of_experiment: Mapping[str, list[Run]], where: str) -> Run:
    name, _, variant = target.partition("/")
    candidates = [run for run in of_experiment[name] if run.variant == variant or not variant]
    if not candidates:
        variants = sorted({run.variant for run in of_experiment[name]})
        raise UserError(f"{where}: {name} has no variant {variant!r}; {nearest(variant, variants)}")
    same_seed = [run for run in candidates if run.seed == seed]
    if not same_seed:
        raise UserError(f"{where}: {target} has no run with seed {seed}; give both experiments the same seeds")
    if len(same_seed) > 1:
        raise UserError(f"{where}: {target} has {len(same_seed)} runs with seed {seed}; write run: {name}/VARIANT")
    return same_seed[0]


def _identity(verb: Verb, sections: Mapping[str, Any], inputs: Mapping[str, str], repetition: int | None) -> str:
    training = sections.get("training") or {}
    kept = {**sections}
    if isinstance(training, Mapping):
        kept["training"] = {name: value for name, value in training.items() if name not in FREE_TO_CHANGE}
    content = {"verb": verb.name, "sections": kept, "inputs": dict(inputs)}
    if repetition:
        content["repetition"] = repetition
    text = json.dumps(content, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _check_metrics(experiment: Experiment, of_experiment: Mapping[str, list[Run]]) -> None:
    """Refuse a gate or an expectation on a metric that no run reports."""
    where, own = f"experiments.{experiment.id}", of_experiment[experiment.id]
    gates = [(f"{where}.gates.{kind}", gate) for kind, gate in experiment.gate_list()]
    asked = [(field_name, gate.metric, own) for field_name, gate in gates if gate.after is None]
    for field_name, gate in gates:
        if gate.after is not None and gate.metric not in STREAMED:
            raise UserError(f"{field_name}: {gate.metric}: not in metrics.jsonl; {nearest(gate.metric, STREAMED)}")
    for metric in experiment.expect.metrics if experiment.expect else ():
        asked.append((f"{where}.expect.metric", metric, own))
        if experiment.expect.target is not None:
            asked.append((f"{where}.expect.against", metric, _against(experiment, experiment.expect, of_experiment)))
    for field_name, metric, runs in asked:
        names = {name for run in runs for name in reported(run.verb, run.sections)}
        if not reports(names, metric):
            raise UserError(
                f"{field_name}: {metric}: no run of {runs[0].experiment.id} reports it; {nearest(metric, names)}"
            )


def _against(experiment: Experiment, expected: Expected, of_experiment: Mapping[str, list[Run]]) -> list[Run]:
    """The runs that a claim compares with; refused when a variant has none, or when it is not clear which."""
    where, own = f"experiments.{experiment.id}.expect.against", of_experiment[experiment.id]
    assert expected.target is not None
    name, wanted = expected.target
    others = of_experiment[name]
    planned = sorted({run.variant for run in others})
    if wanted and wanted not in planned:
        raise UserError(f"{where}: {name} has no variant {wanted!r}; {nearest(wanted, planned)}")
    if name == experiment.id and not wanted:
        raise UserError(f"{where}: {name} itself; name one of its variants, {name}/VARIANT")
    variants = {run.variant for run in own if expected.target != (experiment.id, run.variant)}
    unclear = next((variant for variant in sorted(variants) if expected.counterpart(variant, planned) is None), None)
    if unclear is not None:
        none = f", none of them called {unclear}" if unclear else ""
        raise UserError(
            f"{where}: {name} has {len(planned)} variants{none}; write {name}/ and one of {', '.join(planned)}"
        )
    if not {run.seed for run in own} & {run.seed for run in others}:
        raise UserError(f"{where}: {name} has none of these seeds, and seeds are compared in pairs; give both the same")
    return [run for run in others if run.variant == wanted or not wanted]
