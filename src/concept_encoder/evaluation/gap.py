"""How far to a published row: per task and on average, metric against the same metric, each average under its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from concept_encoder.evaluation.averages import AVERAGES, CORRELATION
from concept_encoder.evaluation.compare import AT_MAJORITY, AT_MAJORITY_NOTE, near_guess, score_row
from concept_encoder.evaluation.published import DEV_SIZES, MAJORITY_DEV, PUBLISHED, Published
from concept_encoder.evaluation.runs import System
from concept_encoder.evaluation.tables import Table, short

_SPLITS = {"dev": "GLUE's dev sets", "test": "GLUE's test server", "babylm": "BabyLM's vocabulary-filtered sets"}


@dataclass(frozen=True)
class Standing:
    """The scores of a system or of a published row, in points.

    Attributes:
        scores: `task.metric` -> points.
        intervals: 95 %, where predictions and seeds allow one.
        guesses: the majority class, by the same names.
        remarks: what a reader must not miss, by the same names.
        split: of a published row; None for one's own runs.
    """

    name: str
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    guesses: dict[str, float]
    remarks: dict[str, list[str]]
    split: str | None = None


def standing_of(system: System) -> Standing:
    """The means over the seeds of a system's runs, in points."""
    found = Standing(system.name, {}, {}, {}, {})
    for task, runs in system.tasks.items():
        for metric in runs[0].scores:
            row, name = score_row(system, task, metric), f"{task}.{metric}"
            found.remarks[name] = list(row.remarks)
            if row.value is not None:
                found.scores[name] = 100 * row.value
            if row.interval is not None:
                found.intervals[name] = (100 * row.interval.low, 100 * row.interval.high)
            if (guess := row.beside.get("majority class")) is not None:
                found.guesses[name] = 100 * guess
            if task in DEV_SIZES and runs[0].examples not in (0, DEV_SIZES[task]):
                found.remarks[name].append(f"on {runs[0].examples:,} examples; GLUE's dev set has {DEV_SIZES[task]:,}")
    return found


def standing_of_published(row: Published) -> Standing:
    """A published row in the place of one's own runs."""
    found = Standing(row.name, dict(row.scores), {}, {}, {}, row.split)
    for name, (guess, examples) in MAJORITY_DEV.items() if row.split == "dev" else ():
        if name in row.scores:
            found.guesses[name] = guess
            if near_guess(row.scores[name] / 100, guess / 100, examples, None):
                found.remarks[name] = [AT_MAJORITY]
    return found


def tables(standings: Sequence[Standing], reference: Published) -> list[Table]:
    """A table by task and one by definition of the average; positive gaps are points behind."""
    return [*(_by_task(standing, reference) for standing in standings), _by_average(standings, reference)]


def _by_task(standing: Standing, reference: Published) -> Table:
    rows, only_one_side = [], []
    for theirs, score in reference.scores.items():
        ours = _same(theirs, standing.scores)
        if ours is None:
            only_one_side.append(theirs)
            continue
        task, metric = ours.split(".")
        low_high = standing.intervals.get(ours)
        rows.append(
            [
                *(task, short(metric), f"{standing.scores[ours]:.1f}"),
                "–" if low_high is None else f"{low_high[0]:.1f} to {low_high[1]:.1f}",
                *(f"{score:.1f}", f"{score - standing.scores[ours]:+.1f}", _points(standing.guesses.get(ours))),
                "; ".join(standing.remarks.get(ours, [])),
            ]
        )
    notes = [f"{reference.name}: {reference.title}; {reference.source}{_read(reference)}", reference.note]
    notes += _split_notes(standing, reference)
    if any(AT_MAJORITY in row[-1] for row in rows):
        notes.append(AT_MAJORITY_NOTE)
    if only_one_side:
        notes.append(f"not compared, as {standing.name} has no such score: {', '.join(only_one_side)}")
    header = ["task", "metric", standing.name, "95 % interval", reference.name, "gap", "majority", "remarks"]
    return Table(f"{standing.name} and {reference.name}, by task", header, rows, [note for note in notes if note], 2)


def _by_average(standings: Sequence[Standing], reference: Published) -> Table:
    rows, notes = [], []
    for standing in standings:
        notes += _not_computed(standing)
        for name, average in AVERAGES.items():
            ours, theirs = average(standing.scores), average(reference.scores)
            if ours is None:
                continue
            why = _unlike(standing, {name: average.split, reference.name: reference.split})
            gap = "–" if why else _behind(ours, theirs)
            if lacks := average.missing(reference.scores):
                why.append(f"{reference.name} lacks {', '.join(lacks)}")
            rows.append([name, standing.name, *map(_points, (ours, theirs)), gap, "; ".join(why)])
    shown = [f"{name}: {AVERAGES[name].users}" for name in dict.fromkeys(row[0] for row in rows)]
    header = ["average", "system", "its own", reference.name, "gap", "remarks"]
    title = "On average, under the name of each definition"
    return Table(title, header, rows, [*shown, *notes, *plan_notes()], 2)


def _unlike(standing: Standing, others: Mapping[str, str]) -> list[str]:
    """Which of these are on another split, so that no difference from them means anything."""
    own = standing.split or "dev"
    unlike = [f"{name} is {split}" for name, split in others.items() if split != own]
    return [f"{standing.name} is {own}, {' and '.join(unlike)}"] if unlike else []


def _not_computed(standing: Standing) -> list[str]:
    """Which averages need scores that are not there: those that few scores would complete, and the others."""
    missing = {name: average.missing(standing.scores) for name, average in AVERAGES.items()}
    near = [f"{name} ({', '.join(lacks)})" for name, lacks in missing.items() if 0 < len(lacks) <= 4]
    far = [name for name, lacks in missing.items() if len(lacks) > 4]
    notes = [f"scores that {standing.name} lacks for an average: {'; '.join(near)}"] if near else []
    return [*notes, f"{standing.name} has too few tasks for {', '.join(far)}"] if far else notes


def plan_notes() -> list[str]:
    """What the gap of the research plan comes to when like is compared with like."""
    plan, bert = PUBLISHED["plan"].scores, PUBLISHED["bert-base-mnli"].scores
    average = AVERAGES["AVG8-acc"]
    theirs, ours = average(bert), average(plan)
    return [
        f"the plan's 24 points are {theirs - ours:.0f} like for like (AVG8-acc: {theirs:.1f} against {ours:.1f}): its "
        "table sets F1 on MRPC and QQP against accuracy",
        f"the plan's MRPC, {plan['mrpc.f1']} F1, is the majority class ({MAJORITY_DEV['mrpc.f1'][0]}); by accuracy it "
        f"is {plan['mrpc.accuracy']}, the majority class {MAJORITY_DEV['mrpc.accuracy'][0]}, BERT-Base "
        f"{bert['mrpc.accuracy']}",
    ]


def published_table() -> Table:
    """All published rows, each with its average under the name of its definition, and its source."""
    rows = []
    for row in PUBLISHED.values():
        name, value = row.average or ("–", None)
        of_eight = AVERAGES["AVG8-acc"](row.scores)
        source = f"{row.source}{_read(row)}" + (f"; {row.note}" if row.note else "")
        rows.append([row.name, row.title, row.parameters, row.split, name, _points(value), _points(of_eight), source])
    header = ["name", "model", "parameters", "split", "average", "as printed", "AVG8-acc", "source"]
    notes = ["AVG8-acc is computed from each row's own scores; that of a test row is not comparable with dev"]
    return Table("Published GLUE results", header, rows, notes, 5)


def _same(name: str, scores: dict[str, float]) -> str | None:
    """The score of this name; where either side leaves open which correlation it is, Pearson's, else Spearman's."""
    if name in scores or not name.startswith("stsb."):
        return name if name in scores else None
    if name == CORRELATION:
        return next((other for other in ("stsb.pearson", "stsb.spearman") if other in scores), None)
    return CORRELATION if CORRELATION in scores else None


def _split_notes(standing: Standing, reference: Published) -> list[str]:
    ours = standing.split or "dev"
    if reference.split != ours:
        where = f"{reference.name} is on {_SPLITS[reference.split]}, {standing.name} on {_SPLITS[ours]}"
        return [f"not like for like: {where}"]
    if standing.split is None:
        return [
            f"{standing.name} is on the held-out side of its data section; like for like if that is GLUE's dev split"
        ]
    return []


def _read(row: Published) -> str:
    return "" if row.read == "source" else " (read in a text that quotes it)"


def _behind(ours: float, theirs: float | None) -> str:
    return "–" if theirs is None else f"{theirs - ours:+.1f}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
