"""What a run of each verb is called with, what it leaves, and which metrics it reports."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = (sys.executable, "-m", "concept_encoder.cli.main")
SECTIONS = ("model", "data", "objective", "training", "evaluation")
STREAMED = ("loss", "eval_loss", "tokens_per_second", "grad_norm", "learning_rate")  # of metrics.jsonl
_PRETRAINING = (
    "eval_loss", "unigram_loss", "steps", "tokens_seen", "tokens_per_second", "parameters", "flops_per_token",
    "concepts",
)  # fmt: skip


@dataclass(frozen=True)
class Verb:
    """A command that a plan may run.

    Attributes:
        takes_recipe: called with a recipe file; otherwise with the fields `options.…`.
        positional: the option that is given without its name.
        refused: options that no plan may give, as they would run code; nor may it give `--output` and `--help`.
        result: the file that a finished run leaves in its folder.
        task: the field that names the task; in a grid, the tasks of a variant are judged together.
    """

    name: str
    takes_recipe: bool
    result: str = "result.json"
    positional: str = ""
    refused: tuple[str, ...] = ()
    task: str = "data.task"


VERBS = {
    verb.name: verb
    for verb in (
        Verb("pretrain", takes_recipe=True),
        Verb("finetune", takes_recipe=True),
        Verb("analyze", takes_recipe=False, result="analysis.json", positional="checkpoint"),
        Verb(
            "evaluate",
            takes_recipe=False,
            result="evaluation.json",
            positional="checkpoint",
            refused=("twin", "dry_run"),
            task="options.task",
        ),
        Verb("probe", takes_recipe=False, result="probe.json", positional="checkpoint"),
        Verb("bench", takes_recipe=False, result="bench.json", positional="mode", refused=("peer",)),
    )
}


def command_line(
    verb: Verb, sections: Mapping[str, Any], recipe: Path, folder: Path, gpus: int, program: Sequence[str] = PROGRAM
) -> list[str]:
    """The command of a run, as a list: no shell ever reads it. Several GPUs start through torchrun."""
    if verb.takes_recipe:
        start = list(program)
        if gpus > 1 and program == PROGRAM:
            start = [*torchrun(gpus), *program[1:]]
        return [*start, verb.name, str(recipe), f"training.output_dir={json.dumps(str(folder))}"]
    options = dict(sections.get("options") or {})
    positional = [str(options.pop(verb.positional))] if verb.positional in options else []
    output = folder / verb.result if verb.name == "bench" else folder
    words = [f"--output={output}"]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value not in (False, None):
            words += [f"{flag}={each}" for each in (value if isinstance(value, list) else [value])]
    return [*program, verb.name, *words, "--", *positional]


def torchrun(gpus: int) -> list[str]:
    """The words before `-m MODULE` that start it once for each GPU of this machine."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)]


def read_result(verb: Verb, folder: Path) -> dict[str, Any] | None:
    """The final numbers of a run, or None as long as there are none (or only a damaged file)."""
    try:
        found = json.loads((folder / verb.result).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def metrics_of(verb: Verb, result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a result by the names in a plan: `eval_loss`, `mnli.accuracy`, `rank.content_rank`."""
    if verb.name == "bench":  # bert.512.tokens_per_second
        rows = result.get("rows") or []
        return {
            key: value
            for row in rows
            for key, value in _numbers(row, f"{row['model']}.{row['length']}.".replace(":", "-"))
        }
    if verb.name == "evaluate":  # of several heads, each by its name: cls_query.mnli.accuracy
        systems, found = result.get("systems") or {}, {}
        for system, each in systems.items():
            start = f"{system}." if len(systems) > 1 else ""
            for task, scores in each["tasks"].items():
                found |= _scores(f"{start}{task}", scores)
            found |= dict(_numbers(each["averages"], f"{start}average."))
        return found
    if verb.name != "finetune":
        return dict(_numbers(result, ""))
    scores = _scores(result.get("task", "task"), result)
    for task, also in (result.get("also") or {}).items():
        scores |= _scores(task, also)
    return scores


def _scores(task: str, result: Mapping[str, Any]) -> dict[str, float]:
    scores = dict(_numbers(result.get("scores") or {}, f"{task}."))
    for control, found in (result.get("controls") or {}).items():  # "concepts shuffled" -> mnli.shuffled.accuracy
        scores |= dict(_numbers(found, f"{task}.{control.split()[-1]}."))
    for baseline, found in (result.get("baselines") or {}).items():
        scores |= dict(_numbers(found, f"{task}.baseline.{'-'.join(baseline.split(' (')[0].split())}."))
    return scores


def reports(verb: Verb, sections: Mapping[str, Any], metric: str) -> bool:
    """Whether a run with these sections reports the metric when it has finished."""
    if verb.name == "pretrain":
        return metric in _PRETRAINING
    if verb.name == "bench":  # bert.512.tokens_per_second
        options, given = sections.get("options") or {}, metric.split(".", 2)
        asked = [
            str(options.get(name, part)).replace(":", "-").split(",")
            for name, part in zip(("models", "lengths"), given)
        ]
        return len(given) == 3 and all(part in parts for part, parts in zip(given, asked))
    if verb.name not in ("finetune", "evaluate"):
        return "." in metric  # a path into the record
    from concept_encoder.data.tasks.table import SUITES, TASKS

    if verb.name == "evaluate":
        options = sections.get("options") or {}
        given = options.get("task") or []
        tasks = [*SUITES.get(str(options.get("suite")), ()), *(given if isinstance(given, list) else [given])]
        parts = metric.split(".")[:-1][:2]  # the head may come first
        name = metric.rpartition(".")[2]
        return "average" in parts or any(task in TASKS and name in TASKS[task].metrics for task in {*parts} & {*tasks})
    task, _, name = metric.partition(".")
    data = sections.get("data") or {}
    named = TASKS.get(str(data.get("task")))
    name = name.rpartition(".")[2]
    if named and task in (data.get("also") or ()):
        named = TASKS.get(task)
    return bool(name) and (task == named.name and name in named.metrics if named else data.get("train") is not None)


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{name}", float(value)
