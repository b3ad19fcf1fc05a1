"""What an evaluation came to: one page of tables, and the numbers that a plan reads, both from the folder alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from concept_encoder.errors import UserError
from concept_encoder.evaluation import gap
from concept_encoder.evaluation.averages import averages
from concept_encoder.evaluation.compare import compare, score_row
from concept_encoder.evaluation.compare_tables import tables
from concept_encoder.evaluation.evaluate import Evaluation
from concept_encoder.evaluation.protocol import EPOCHS_OF_LARGE, FIXED, LARGE, MNLI_FIRST, Cell
from concept_encoder.evaluation.published import Published, published
from concept_encoder.evaluation.runs import System, read_systems
from concept_encoder.evaluation.tables import Table, points, short
from concept_encoder.settings import set_fields

ABOUT = "evaluation.json"


def systems_of(folder: Path) -> list[Path]:
    """The folders of an evaluation's systems: one a head, and one a head that starts from MNLI."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def record_of(evaluation: Evaluation) -> dict[str, Any]:
    """`evaluation.json`: protocol, choices, failures, and every score with what it stands beside."""
    protocol = evaluation.protocol
    cells = list(protocol.cells())
    return {
        "verb": "evaluate",
        "checkpoint": evaluation.checkpoint,
        "protocol": [list(row) for row in _protocol_rows(evaluation)],
        "choices": [_choice(evaluation, cell) for cell in cells],
        "failed": evaluation.failed,
        "diverged": evaluation.diverged,
        "systems": {system.name: _scores(system) for system in _read(evaluation.folder)},
    }


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a finished evaluation. Raises `UserError` when there is none, or a damaged one."""
    file = folder / ABOUT
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: holds no {ABOUT}; has the evaluation finished?") from None
    except ValueError:
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
    found = [Table("Protocol", ["what", "how"], record["protocol"], [], 2, remarks=False), _choices(record["choices"])]
    folders = [*(systems_of(twin) if twin else []), *systems_of(folder)]
    systems = read_systems([path for path in folders if any(path.iterdir())])
    if systems:
        others = [other for other in systems[1:] if set(other.tasks) & set(systems[0].tasks)]
        found += tables(compare([systems[0], *others]))
        found += _gaps([system for system in systems if not _is_of(twin, system)], row)
    if failures := {**record["failed"], **record["diverged"]}:
        found.append(Table("Runs that failed", ["run", "why"], [[*pair] for pair in failures.items()], [], 2))
    return found


def _read(folder: Path) -> list[System]:
    """The systems, by the names of their own folders."""
    found = read_systems([path for path in systems_of(folder) if any(path.iterdir())])
    return [replace(system, name=system.name.rpartition("/")[2]) for system in found]


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
    rate = evaluation.chosen(cell)
    return {
        "system": cell.system,
        "task": cell.task,
        "metric": metric if tried else None,
        "tried": tried,
        "learning_rate": rate,
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
        for kind, names in (("baselines", runs[0].baselines), ("controls", runs[0].controls)):
            for name in names:
                beside[kind][name] = {metric: row.beside.get(name) for metric, row in rows.items()}
        tasks[task] = {
            "seeds": system.seeds(task),
            "scores": {metric: row.value for metric, row in rows.items()},
            "intervals": {m: [row.interval.low, row.interval.high] for m, row in rows.items() if row.interval},
            "remarks": {metric: row.remarks for metric, row in rows.items() if row.remarks},
            **beside,
        }
        flat |= {f"{task}.{metric}": row.value for metric, row in rows.items() if row.value is not None}
    known = {name: value for name, value in averages(flat).items() if value is not None}
    return {"tasks": tasks, "averages": known}


def _gaps(systems: Sequence[System], reference: Published) -> list[Table]:
    """Gaps of every system that has a task of the reference; what starts from MNLI, against the row that does too."""
    found: list[Table] = []
    plain = [system for system in systems if not system.name.endswith(MNLI_FIRST)]
    standings = [gap.standing_of(system) for system in plain]
    standings = [standing for standing in standings if any(name in standing.scores for name in reference.scores)]
    if standings:
        found += gap.tables(standings, reference)
    for system in systems:
        if system not in plain:
            head = next(each for each in plain if each.name == system.name.removesuffix(f"-{MNLI_FIRST}"))
            both = replace(system, tasks={**head.tasks, **system.tasks})
            found += gap.tables([gap.standing_of(both)], published("bert-base-mnli"))
    return [table for table in found if table.rows]
