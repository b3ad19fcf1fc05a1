"""What a run of each verb is called with, and what it leaves."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = (sys.executable, "-m", "concept_encoder.cli.main")
SECTIONS = ("model", "data", "objective", "training", "evaluation")


@dataclass(frozen=True)
class Verb:
    """A command that a plan may run.

    Attributes:
        takes_recipe: called with a recipe file; otherwise with the fields `options.…`.
        positional: the option that is given without its name.
        refused: options that no plan may give, as they would run code; nor may it give `--output` and `--help`.
        result: the file that a finished run leaves in its folder.
        task: the field that names the task; in a grid, the tasks of a variant are judged together.
        repeats: another seed is the same command once more: what it measures is never twice the same.
    """

    name: str
    takes_recipe: bool
    result: str = "result.json"
    positional: str = ""
    refused: tuple[str, ...] = ()
    task: str = "data.task"
    repeats: bool = False


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
        Verb("bench", takes_recipe=False, result="bench.json", positional="mode", refused=("peer",), repeats=True),
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
    """The final numbers of a run, or None as long as there are none (or not all, or only a damaged file)."""
    try:
        found = json.loads((folder / verb.result).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and not (verb.name == "evaluate" and found.get("failed"))  # given again, they run
    return found if whole else None
