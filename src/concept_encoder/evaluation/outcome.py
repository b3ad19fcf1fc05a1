"""What an evaluation came to: one page of tables, and the numbers that a plan reads, both from the folder alone."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from concept_encoder.errors import UserError
from concept_encoder.evaluation import gap
from concept_encoder.evaluation.averages import AVERAGES, averages
from concept_encoder.evaluation.compare import compare_pairs, score_row
from concept_encoder.evaluation.compare_tables import tables
from concept_encoder.evaluation.evaluate import ABOUT, Evaluation
from concept_encoder.evaluation.protocol import EPOCHS_OF_LARGE, FIXED, LARGE, MNLI_FIRST, Cell
from concept_encoder.evaluation.published import Published, published
from concept_encoder.evaluation.runs import System, read_systems
from concept_encoder.evaluation.tables import Table, points, short
from concept_encoder.settings import set_fields

DEFAULT_HEAD = "via_decoder"


def record_of(evaluation: Evaluation) -> dict[str, Any]:
    """`evaluation.json`: protocol, choices, failures, and every score with what it stands beside."""
    protocol = evaluation.protocol
    cells = list(protocol.cells())
    tasks: dict[str, set[str]] = {}
    for cell in cells:
        also = protocol.sections(cell)["data"].get("also") or ()
        tasks.setdefault(cell.system, set()).update((cell.task, *also))
    found = _read((evaluation.folder, tasks))
    return {
        "verb": "evaluate",
        "checkpoint": evaluation.checkpoint,
        "protocol": [list(row) for row in _protocol_rows(evaluation)],
        "choices": [_choice(evaluation, cell) for cell in cells],
        "failed": evaluation.failed,
        "diverged": evaluation.diverged,
        "systems": {_own_name(system): _scores(system) for system in found},
    }


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a finished evaluation. Raises `UserError` when there is none, or a damaged one."""
    file = folder / ABOUT
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: holds no {ABOUT}; has the evaluation finished?") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or "choices" not in found:
        raise UserError(f"{file}: damaged; give the command of the evaluation again")
    return found


def outcome(folder: Path, record: Mapping[str, Any], reference: str, twin: Path | None = None) -> list[Table]:
    """The page: protocol, choices, scores beside everything, differences from the twin, gaps, averages, failures.

    Args:
        twin: the folder of the twin's evaluation.
    """
    row = published(reference)
    beside = read_record(twin) if twin else None
    tasks = {name: system["tasks"] for name, system in record["systems"].items()}
    everything = {task for names in tasks.values() for task in names}
    of_twin = {name: {*system["tasks"]} & everything for name, system in beside["systems"].items()} if beside else {}
    notes = _unlike_protocol(record, beside) if beside else []
    found = [
        Table("Protocol", ["what", "how"], record["protocol"], notes, 2, remarks=False),
        _choices(record["choices"]),
    ]
    systems = _read(*([(twin, of_twin)] if twin else []), (folder, tasks))
    own = [system for system in systems if not _is_of(twin, system)]
    twins = [system for system in systems if _is_of(twin, system)]
    if own:
        pairs = _pairs(own, twins)
        compared = compare_pairs(systems, pairs)
        alone = [system.name for system in own if twins and system not in [candidate for _, candidate in pairs]]
        notes = [f"the twin has no like of {', '.join(alone)}: no difference is given"] if alone else []
        found += tables(replace(compared, notes=[*compared.notes, *notes]))
        found += _gaps(own, row)
    if failures := {**record["failed"], **record["diverged"]}:
        found.append(Table("Runs that failed", ["run", "why"], [[*pair] for pair in failures.items()], [], 2))
    return found


def _read(*evaluations: tuple[Path, Mapping[str, Collection[str]]]) -> list[System]:
    """The systems of evaluations: those named, with the tasks named, and nothing that an earlier command asked for."""
    asked = [(folder / name, tasks) for folder, systems in evaluations for name, tasks in systems.items() if tasks]
    asked = [(path, tasks) for path, tasks in asked if path.is_dir()]
    found = [
        replace(system, tasks={task: runs for task, runs in system.tasks.items() if task in tasks})
        for system, (_, tasks) in zip(read_systems([path for path, _ in asked]), asked)
    ]
    return [system for system in found if system.tasks]


def _own_name(system: System) -> str:
    """The name of its folder: head and stage."""
    return system.name.rpartition("/")[2]


def _is_late(system: System) -> bool:
    return system.name.endswith(f"-{MNLI_FIRST}")


def _pairs(own: Sequence[System], twins: Sequence[System]) -> list[tuple[System, System]]:
    """Whom each system is compared with: its like of the twin; without a twin, the first head of its stage."""
    pairs = []
    for system in own:
        rival = _like(system, twins) if twins else next(each for each in own if _is_late(each) == _is_late(system))
        if rival and rival is not system and {*rival.tasks} & {*system.tasks}:
            pairs.append((rival, system))
    return pairs


def _like(system: System, twins: Sequence[System]) -> System | None:
    """The twin's system of the same head, else of the default one, else its only one; from MNLI if this one is."""
    likes = {_own_name(twin): twin for twin in twins if _is_late(twin) == _is_late(system)}
    default = f"{DEFAULT_HEAD}-{MNLI_FIRST}" if _is_late(system) else DEFAULT_HEAD
    only = [*likes.values()] if len(likes) == 1 else [None]
    return likes.get(_own_name(system)) or likes.get(default) or only[0]


def _unlike_protocol(record: Mapping[str, Any], beside: Mapping[str, Any]) -> list[str]:
    """Where a twin's evaluation did not do the same."""
    one, two = (dict(each["protocol"]) for each in (record, beside))
    of_its_own = ("checkpoint", "tasks", "heads", MNLI_FIRST)
    unlike = [what for what in {**one, **two} if what not in of_its_own and one.get(what) != two.get(what)]
    return [f"the twin's evaluation has another protocol: {', '.join(unlike)}"] if unlike else []


def _is_of(folder: Path | None, system: System) -> bool:
    run = next(iter(system.tasks.values()))[0]
    return folder is not None and folder.resolve() in run.folder.resolve().parents


def _protocol_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    protocol = evaluation.protocol
    used = set_fields(FIXED, protocol.fields)
    training, data = used["training"], used["data"]
    fewer = "" if "training.epochs" in protocol.fields else f"; {EPOCHS_OF_LARGE} of {', '.join(LARGE)}"
    rows = [
        ("checkpoint", evaluation.checkpoint),
        ("tasks", ", ".join(protocol.tasks)),
        ("heads", ", ".join(protocol.heads)),
        ("learning rates", ", ".join(f"{rate:g}" for rate in protocol.learning_rates)),
        ("chosen by", f"the main metric on {data['selection_fraction']:.0%} cut from the training side"),
        ("seeds", f"{protocol.seeds}; the grid is run with the first"),
        ("epochs", f"{training['epochs']}{fewer}"),
        ("stops", f"after {training['patience']} epochs without a better one; the best checkpoint is scored, once"),
        ("batch", f"{training['batch_size']} texts of at most {data['max_length']} tokens"),
        ("schedule", str(training["schedule"])),
    ]
    if protocol.mnli_first:
        rows.append((MNLI_FIRST, "rte, mrpc and stsb once more, each seed from the MNLI run of that seed"))
    return [*rows, *((f"--set {name}", str(value)) for name, value in protocol.fields.items())]


def _choice(evaluation: Evaluation, cell: Cell) -> dict[str, Any]:
    tried = {}
    for rate, selection in evaluation.selections(cell).items():
        tried[f"{rate:g}"] = selection["scores"].get(selection["metric"])
        metric = selection["metric"]
    return {
        "system": cell.system,
        "task": cell.task,
        "metric": metric if tried else None,
        "tried": tried,
        "learning_rate": evaluation.chosen(cell),
        "diverged": evaluation.lost(cell),
    }


def _choices(choices: Sequence[Mapping[str, Any]]) -> Table:
    rates = sorted({rate for choice in choices for rate in choice["tried"]}, key=float)
    rows = [
        [
            *(choice["task"], choice["system"], short(choice["metric"] or "–")),
            "–" if choice["learning_rate"] is None else f"{choice['learning_rate']:g}",
            *(points(choice["tried"].get(rate)) for rate in rates),
        ]
        for choice in choices
    ]
    edge = [rates[0], rates[-1]] if len(rates) > 2 else []
    chosen = {f"{choice['task']} ({choice['system']})": choice["learning_rate"] for choice in choices}
    outer = [name for name, rate in chosen.items() if rate is not None and f"{rate:g}" in edge]
    note = f"chosen at the edge of the grid, so that another --learning-rate may be better: {', '.join(outer)}"
    notes = [note] if outer else []
    header = ["task", "system", "metric", "chosen rate", *rates]
    return Table("Learning rates, by the score on the selection part, x 100", header, rows, notes, 3, remarks=False)


def _scores(system: System) -> dict[str, Any]:
    """Every task's means over seeds, as a run's result has them, with intervals and remarks; and the averages."""
    tasks, flat = {}, {}
    for task, runs in system.tasks.items():
        rows = {metric: score_row(system, task, metric) for metric in runs[0].scores}
        beside: dict[str, dict[str, dict[str, float | None]]] = {"baselines": {}, "controls": {}}
        for run in runs:  # a baseline that was asked for later is not in the first
            for kind, names in (("baselines", run.baselines), ("controls", run.controls)):
                beside[kind] |= {name: {metric: row.beside.get(name) for metric, row in rows.items()} for name in names}
        tasks[task] = {
            "seeds": system.seeds(task),
            "scores": {metric: row.value for metric, row in rows.items()},
            "intervals": {m: [row.interval.low, row.interval.high] for m, row in rows.items() if row.interval},
            "remarks": {metric: row.remarks for metric, row in rows.items() if row.remarks},
            **beside,
        }
        flat |= {f"{task}.{metric}": row.value for metric, row in rows.items() if row.value is not None}
    of_dev = {n: value for n, value in averages(flat).items() if value is not None and AVERAGES[n].split == "dev"}
    return {"tasks": tasks, "averages": of_dev}


def _gaps(systems: Sequence[System], reference: Published) -> list[Table]:
    """Gaps of every system that has a task of the reference; what starts from MNLI, against the row that does too."""
    found: list[Table] = []
    plain = [system for system in systems if not _is_late(system)]
    standings = [gap.standing_of(system) for system in plain]
    standings = [standing for standing in standings if any(name in standing.scores for name in reference.scores)]
    if standings:
        found += gap.tables(standings, reference)
    for system in systems:
        if system not in plain:
            of_head = [each.tasks for each in plain if each.name == system.name.removesuffix(f"-{MNLI_FIRST}")]
            both = replace(system, tasks={**(of_head[0] if of_head else {}), **system.tasks})
            found += gap.tables([gap.standing_of(both)], published("bert-base-mnli"))
    return [table for table in found if table.rows]
