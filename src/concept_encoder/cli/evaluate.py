"""`concept-encoder evaluate CHECKPOINT`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from concept_encoder.data.tasks.table import SUITES

if TYPE_CHECKING:
    from concept_encoder.evaluation.evaluate import Evaluation
    from concept_encoder.evaluation.protocol import Protocol


@click.command("evaluate")
@click.argument("checkpoint", type=click.Path())
@click.option("--suite", type=click.Choice(list(SUITES)), help="The tasks of a benchmark: " + "; ".join(
              f"{name} ({', '.join(tasks)})" for name, tasks in SUITES.items()) + ".")  # fmt: skip
@click.option("--task", "tasks", multiple=True, help="A task, instead of a suite or beside it; may be repeated.")
@click.option("--head", "heads", multiple=True,
              help="A classifier head; each is a system of its own; may be repeated.  [via_decoder]")  # fmt: skip
@click.option("--learning-rate", "rates", multiple=True, type=float,
              help="The grid, one rate at a time.  [3e-5, 1e-4, 3e-4, 1e-3]")  # fmt: skip
@click.option("--seeds", default=5, type=click.IntRange(1, 1000), show_default=True, help="How many, from 0.")
@click.option("--mnli-first", is_flag=True, help="RTE, MRPC and STS-B once more from MNLI; reported apart.")
@click.option("--twin", type=click.Path(), help="A checkpoint to evaluate in the same way, or its evaluation's folder.")
@click.option("--baseline", "baseline", multiple=True, type=click.Choice(["cbow", "bilstm"]),
              help="Train it too, for runs that are still to do; may be repeated.")  # fmt: skip
@click.option("--reference", default="bert-base", show_default=True, help="The published row to measure against.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.FIELD=VALUE",
              help="Change the recipe of all runs, as training.epochs=3; may be repeated.")  # fmt: skip
@click.option("--keep-checkpoints", is_flag=True, help="Keep the weights of every run.")
@click.option("--dry-run", is_flag=True, help="List the runs and stop.")
@click.option("--output", type=click.Path(), help="Folder of the evaluation.  [runs/evaluate-NAME]")
def command(checkpoint: str, output: str | None, twin: str | None, **options: Any) -> None:
    """Fine-tune CHECKPOINT on tasks under one protocol and print what came out.

    Each task gets a small grid of learning rates with the first seed. The rate with the best score on a part cut from
    the training side is run with all seeds; each run keeps its best checkpoint by that part, and the held-out side is
    scored once. CHECKPOINT is a checkpoint or run, any transformers encoder (a folder or a hub id), or the folder of a
    finished evaluation, whose page is printed again. Interrupt the command and give it again: it goes on.
    """
    from concept_encoder.cli.write_tables import writable_folder
    from concept_encoder.evaluation.outcome import ABOUT, read_record
    from concept_encoder.evaluation.published import published

    published(options["reference"])
    if (Path(checkpoint) / ABOUT).is_file():
        _show_finished(Path(checkpoint), output, Path(twin) if twin else None, options)
        return
    folder = writable_folder(Path(output or f"runs/evaluate-{Path(checkpoint).resolve().name}"))
    evaluations = []
    if twin and not (Path(twin) / ABOUT).is_file():
        evaluations.append(_evaluation(twin, folder.with_name(f"{folder.name}-twin"), options, of_twin=True))
    evaluations.append(_evaluation(checkpoint, folder, options))
    if options["dry_run"]:
        _print_runs(evaluations)
        return
    for evaluation in evaluations:
        _run(evaluation, options["baseline"])
    beside = evaluations[0].folder if len(evaluations) > 1 else Path(twin) if twin else None
    record = read_record(folder)
    _print(folder, record, options["reference"], beside, report=True)
    if problems := [line for evaluation in evaluations for line in _problems(evaluation)]:
        for line in problems:
            click.echo(line, err=True)
        click.echo(_remedy(evaluations), err=True)
        raise SystemExit(1)


def _show_finished(folder: Path, output: str | None, twin: Path | None, options: dict[str, Any]) -> None:
    """The page of a finished evaluation."""
    from concept_encoder.errors import UserError
    from concept_encoder.evaluation.outcome import ABOUT, read_record

    if output or any(value for name, value in options.items() if name not in ("seeds", "reference")):
        raise UserError(f"{folder}: a finished evaluation, shown as it is; give its checkpoint to evaluate more")
    if twin and not (twin / ABOUT).is_file():
        raise UserError(f"--twin: {twin} holds no finished evaluation, and {folder} is one already")
    _print(folder, read_record(folder), options["reference"], twin)


def _problems(evaluation: "Evaluation") -> Iterator[str]:
    """What has no score, a line each."""
    yield from (f"failed: {name}: {why}" for name, why in evaluation.failed.items())
    for cell in evaluation.protocol.cells():
        yield from (f"diverged at the chosen rate: {name}: {why}" for name, why in evaluation.lost(cell).items())
        if evaluation.chosen(cell) is None:
            yield f"no score: {cell.task} ({cell.system})"


def _remedy(evaluations: Sequence["Evaluation"]) -> str:
    """How to get what has no score."""
    if any(evaluation.failed for evaluation in evaluations):
        return "the same command tries again what failed, and nothing else"
    folders = [str(evaluation.folder / ".runs") for evaluation in evaluations if any(_problems(evaluation))]
    return f"what diverged is not tried again, unless its folder is deleted in {' or '.join(folders)}"


def protocol_of(options: dict[str, Any], heads: tuple[str, ...], longest: int | None = None) -> "Protocol":
    """The protocol that the options ask for, its recipes checked: says at once what a run would say.

    Args:
        longest: tokens that the checkpoint takes, where the protocol's length is more.
    """
    from concept_encoder.errors import UserError
    from concept_encoder.evaluation.protocol import FIXED, LEARNING_RATES, Protocol
    from concept_encoder.settings import parse_overrides
    from concept_encoder.training.finetune import FinetuneRecipe

    fields = parse_overrides(options["overrides"])
    tasks = (*SUITES.get(options["suite"], ()), *options["tasks"])
    if "data.train" in fields:
        if tasks:
            raise UserError(
                "--task: data.train is a task by itself, named as its file is; leave --task and --suite out"
            )
        tasks = (Path(str(fields["data.train"])).name,)
    if longest is not None and longest < fields.get("data.max_length", FIXED["data"]["max_length"]):
        if "data.max_length" in fields:
            raise UserError(f"--set: data.max_length is more than the {longest} tokens that the checkpoint takes")
        fields["data.max_length"] = longest
    rates = options["rates"] or LEARNING_RATES
    protocol = Protocol(tasks, heads, rates, options["seeds"], options["mnli_first"], fields)
    for cell in protocol.cells():
        sections = protocol.sections(cell)
        sections["model"]["checkpoint"], sections["training"]["output_dir"] = "unused", "unused"
        FinetuneRecipe.from_sections(sections)
    return protocol


def _evaluation(checkpoint: str, folder: Path, options: dict[str, Any], of_twin: bool = False) -> "Evaluation":
    """Checked as a whole before anything is trained."""
    from concept_encoder.data.tasks.config import TaskConfig
    from concept_encoder.data.tasks.load import load_task
    from concept_encoder.evaluation.evaluate import Evaluation
    from concept_encoder.evaluation.protocol import content_of
    from concept_encoder.settings import from_mapping
    from concept_encoder.training.classifiers import find_checkpoint, fitting_head, head_for, longest_input_of

    found = find_checkpoint(checkpoint)
    heads = [(fitting_head if of_twin else head_for)(found, head) for head in options["heads"] or (None,)]
    chosen = tuple(dict.fromkeys(heads) if of_twin else heads)
    protocol = protocol_of(options, chosen, longest_input_of(found))
    if protocol.own_files:  # a wrong name or column is a mistake, not a run that failed
        load_task(from_mapping(TaskConfig, protocol.sections(next(protocol.cells()))["data"], "data"))
    return Evaluation(folder, protocol, checkpoint, content_of(found), options["keep_checkpoints"], whole_of)


def whole_of(sections: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides a run's numbers: its recipe with every default, and what the rows of its data are."""
    from concept_encoder.data.tasks.load import content_of_rows
    from concept_encoder.training.finetune import FinetuneRecipe
    from concept_encoder.training.recipe import resolved

    recipe = FinetuneRecipe.from_sections({**sections, "training": {**sections["training"], "output_dir": "unused"}})
    whole = resolved(model=recipe.model, data=recipe.data, training=recipe.training)
    return {**whole, "rows": content_of_rows(recipe.data)}


def _run(evaluation: "Evaluation", more_baselines: Sequence[str]) -> None:
    """Make what is missing and write the record."""
    import gc
    import json

    from concept_encoder.data.tasks.config import TaskConfig
    from concept_encoder.data.tasks.load import TaskData, load_task
    from concept_encoder.evaluation.baselines import baselines
    from concept_encoder.evaluation.metrics import scorer
    from concept_encoder.evaluation.outcome import ABOUT, record_of
    from concept_encoder.evaluation.protocol import Run
    from concept_encoder.records import write_atomically
    from concept_encoder.settings import from_mapping
    from concept_encoder.training.finetune import FinetuneRecipe, finetune

    known: dict[str, Any] = {}  # the task at hand, with its baselines

    def beside_of(task: TaskData) -> dict[str, Any]:
        return baselines(task) | (baselines(task, more_baselines) if more_baselines else {})

    def train(run: Run, folder: Path) -> None:
        sections = {**run.sections, "training": {**run.sections["training"], "output_dir": str(folder)}}
        if repr(sections["data"]) not in known:
            known.clear()
            task = load_task(from_mapping(TaskConfig, sections["data"], "data"))
            known[repr(sections["data"])] = task, {each.name: beside_of(each) for each in (task, *task.also)}
        task, beside = known[repr(sections["data"])]
        recipe, title = FinetuneRecipe.from_sections(sections), run.name.rpartition("-")[0]
        finetune(recipe, scorer(task), task, beside[task.name], title=title, also_baselines=beside)
        gc.collect()  # trainers refer to themselves; a GPU would hold the models of all runs

    evaluation.run(train)
    write_atomically(evaluation.folder / ABOUT, json.dumps(record_of(evaluation), indent=1) + "\n")


def _print_runs(evaluations: list["Evaluation"]) -> None:
    from concept_encoder.cli.write_tables import write_tables
    from concept_encoder.evaluation.tables import Table

    for evaluation in evaluations:
        planned = list(evaluation.planned())
        done = sum(state == "done" for *_, state in planned)
        rows = [
            [cell.task, cell.system, "the best" if rate is None else f"{rate:g}", str(seed), state]
            for cell, rate, seed, state in planned
        ]
        title = f"{evaluation.checkpoint}: {len(planned)} runs in {evaluation.folder}, {done} of them done"
        table = Table(title, ["task", "system", "learning rate", "seed", ""], rows, [], 2)
        write_tables(title, [table], "terminal", None)


def _print(folder: Path, record: dict[str, Any], reference: str, twin: Path | None, report: bool = False) -> None:
    from concept_encoder.cli.write_tables import write_tables
    from concept_encoder.evaluation.outcome import outcome

    found = outcome(folder, record, reference, twin)
    title = f"Evaluation of {record['checkpoint']}"
    write_tables(title, found, "terminal", None)
    for name, kind in (("report.md", "markdown"), ("report.html", "html")) if report else ():
        write_tables(title, found, kind, folder / name)
