"""`concept-encoder plan check | run | stop | report`: a research plan, run to its end."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from concept_encoder.cli.plan_hosts import hosts
from concept_encoder.cli.plan_options import (
    chosen_engine,
    find_run,
    plan_argument,
    show_counts,
    store_before,
    store_folder,
    store_option,
)
from concept_encoder.cli.plan_watch import logs, status, watch
from concept_encoder.errors import UserError, nearest, printable

SUBCOMMANDS = ("check", "run", "status", "watch", "logs", "stop", "report", "hosts")
_MANY = 100_000  # runs at once, or GPUs
_slots = click.option("--slots", type=click.IntRange(1, _MANY), help="CPU runs at once.  [default: one for two cores]")
_gpus = click.option(
    "--gpus", type=click.IntRange(0, _MANY), help="GPUs to use, the first of those visible.  [default: all]"
)
_on = click.option(
    "--on",
    metavar="ENGINE[:FILE]",
    help="Where runs go, FILE its settings.  [default: where they went before, or local]",
)


class _Plan(click.Group):
    def resolve_command(self, context: click.Context, args: list[str]) -> tuple:
        if args and args[0] not in SUBCOMMANDS and not args[0].startswith("-"):
            raise UserError(f"plan {args[0]}: no such command; {nearest(args[0], SUBCOMMANDS)}")
        return super().resolve_command(context, args)


@click.group("plan", cls=_Plan, invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Run a research plan: its experiments in order, in parallel, with early decisions, gates and a report.

    A plan is a YAML file, see plans/ and docs/plans.md.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for part in (status, watch, logs, hosts):
    command.add_command(part)


@command.command("check")
@plan_argument
@store_option
@_on
@_slots
@_gpus
@click.option("--no-data", is_flag=True, help="Do not look for corpora and tasks, which may be on another machine.")
@click.option("--quick", is_flag=True, help="The plan alone, not its recipes, models and data (no torch).")
def check(
    plan: str, store: str | None, on: str | None, slots: int | None, gpus: int | None, no_data: bool, quick: bool
) -> None:
    """Check everything before a second of compute: plan, recipes, data; then what it will cost.

    With --gpus N it is checked for a machine with N GPUs, with --on for the machines of an engine.
    """
    from concept_encoder.cli.plan_check import check_recipes, measured_rates, size_table
    from concept_encoder.cli.show import show_table
    from concept_encoder.lab.cost import cost
    from concept_encoder.lab.engines.table import open_engine
    from concept_encoder.lab.plan import load_plan
    from concept_encoder.lab.runs import expand

    loaded = load_plan(plan)
    runs = expand(loaded)
    before = store_before(plan, store)
    engine = open_engine(chosen_engine(on, before), slots, gpus)
    found = cost(loaded, runs, engine.room)
    sizes = {} if quick else check_recipes(runs, data=engine.shares_files and not no_data)
    rows = []
    for experiment in loaded.in_order():
        own = [run for run in runs if run.experiment.id == experiment.id]
        resources = experiment.resources
        needs = ", ".join(experiment.all_needs) or "–"
        rows.append([experiment.id, experiment.priority, needs, len(own), resources.gpus, resources.hours])
    show_table(loaded.title, ["experiment", "priority", "needs", "runs", "GPUs a run", "hours a run"], rows)
    if sizes:
        rates = measured_rates(before.states()) if before else {}
        show_table("Estimated size (weights, gradients, AdamW, activations)", *size_table(sizes, rates))
    click.echo(
        f"{found.runs} runs, {found.gpu_hours:,.2f} GPU hours and {found.cpu_hours:,.2f} CPU-slot hours by the plan's "
        "own estimates"
    )
    click.echo(f"critical path: {' -> '.join(found.critical_path)} ({_time(found.critical_hours)})")
    if engine.room.gpus is not None:
        gpus = sum(engine.room.gpus.values())
        click.echo(f"on {engine.room.slots} CPU slots and {gpus} GPUs: at least {_time(found.hours)}")


@command.command("run")
@plan_argument
@store_option
@_on
@_slots
@_gpus
@click.option("--retry", is_flag=True, help="Also start what has failed or was stopped once more.")
@click.option("--no-check", is_flag=True, help="Do not check recipes and data first.")
def run(
    plan: str, store: str | None, on: str | None, slots: int | None, gpus: int | None, retry: bool, no_check: bool
) -> None:
    """Run what is ready, in priority order, in parallel where there is room, until nothing is left.

    Ctrl-C or a kill ends this command, not the runs: the same command finds them again and goes on. A finished run is
    never repeated; an edited recipe runs anew with what depends on it. Exit code 1 when a run failed.
    """
    from concept_encoder.cli.plan_check import check_recipes
    from concept_encoder.lab.cost import cost
    from concept_encoder.lab.engines.table import open_engine
    from concept_encoder.lab.plan import load_plan
    from concept_encoder.lab.runs import expand
    from concept_encoder.lab.scheduler import Scheduler
    from concept_encoder.lab.store import Store

    loaded = load_plan(plan)
    runs = expand(loaded)
    kept = store_before(plan, store)
    on = chosen_engine(on, kept)
    engine = open_engine(on, slots, gpus)
    unseen = on == "local" and _unseen_gpus(gpus or 0)
    cost(loaded, runs, engine.room)
    with ExitStack() as held:
        if kept is not None:
            held.enter_context(kept.lock())
        known = kept.known() if kept else set()
        new = [run for run in runs if run.id not in known]
        if new and not no_check:
            click.echo(f"checking {len(new)} new runs …", err=True)
            check_recipes(new, data=engine.shares_files)
        if kept is None:  # what is refused leaves nothing behind
            kept = Store(store_folder(plan, store))
            held.enter_context(kept.lock())
        kept.set_engine(on)
        if unseen:
            click.echo("note: no GPU can be listed here; a run that finds none trains on the CPU", err=True)
        scheduler = Scheduler(runs, kept, engine, retry, tell=lambda line: click.echo(printable(line), err=True))
        _run_to_the_end(scheduler)
    show_counts(scheduler.states.values())
    if scheduler.halted:
        raise UserError(scheduler.halted)
    sys.exit(1 if any(state.state == "failed" for state in scheduler.states.values()) else 0)


def _unseen_gpus(asked: int) -> bool:
    """Whether GPUs are asked for and none can be listed; more than are listed are refused, as they are somebody's."""
    from concept_encoder.lab.engines.local import visible_gpus

    seen = len(visible_gpus())
    if asked > seen and (seen or "CUDA_VISIBLE_DEVICES" in os.environ):
        raise UserError(f"--gpus: {asked}, but {seen} are visible (CUDA_VISIBLE_DEVICES, nvidia-smi); ask for fewer")
    return asked > seen


def _run_to_the_end(scheduler: Any) -> None:
    try:
        scheduler.run()
    except KeyboardInterrupt:
        left = sum(state.state == "running" for state in scheduler.states.values())
        click.echo(
            f"{left} runs go on without this command; give it again to follow them, or plan stop to end them",
            err=True,
        )
        sys.exit(130)


@command.command("stop")
@plan_argument
@click.argument("run_names", metavar="[RUN]...", nargs=-1)
@store_option
@click.option("--all", "everything", is_flag=True, help="All runs that have not ended, of the plan or left over.")
def stop(plan: str, run_names: tuple[str, ...], store: str | None, everything: bool) -> None:
    """Stop runs: they are asked to end (SIGINT, then SIGTERM), and killed after half a minute.

    RUN is the whole name of one. They stay stopped until plan run --retry. Waiting runs are taken off the list.
    """
    from concept_encoder.lab.store import Store

    if not run_names and not everything:
        raise UserError("plan stop: name runs, or give --all")
    if run_names and everything:
        raise UserError("--all: given together with runs; give one of them")
    kept = Store(store_folder(plan, store), create=False)
    states = kept.all_states()
    chosen = [find_run(states, name, whole=True) for name in run_names] or [
        state for state in states if not state.final
    ]
    for state in chosen:
        if state.final:
            click.echo(f"{state.name}: already {state.state}")
        else:
            kept.request_stop(state.id)
    if kept.holder():
        click.echo("asked; the running plan run does it")
        return
    _stop_here(plan, kept)


def _stop_here(plan: str, kept: Any) -> None:
    """Carry out the requests when nobody schedules."""
    import time

    from concept_encoder.lab.engines.table import open_engine
    from concept_encoder.lab.plan import load_plan
    from concept_encoder.lab.runs import expand
    from concept_encoder.lab.scheduler import Scheduler

    with kept.lock():
        scheduler = Scheduler(expand(load_plan(plan)), kept, open_engine(chosen_engine(None, kept)), tell=click.echo)
        scheduler.halted = "stopping"  # nothing starts
        while scheduler.tick() and scheduler.stopping:
            time.sleep(0.2)


@command.command("report")
@plan_argument
@store_option
@click.option("--output", type=click.Path(), help="Folder for report.html and report.md.  [default: the store]")
def report(plan: str, store: str | None, output: str | None) -> None:
    """One page: what was expected, what was observed with its interval, the verdicts, the costs, what the gates say."""
    from concept_encoder.lab.plan import load_plan
    from concept_encoder.lab.report import write_report
    from concept_encoder.lab.runs import expand
    from concept_encoder.lab.store import Store

    kept = Store(store_folder(plan, store), create=False)
    loaded = load_plan(plan)
    runs = expand(loaded)
    if not kept.known() & {run.id for run in runs}:
        raise UserError(f"{kept.folder}: holds no run of {plan}; name its own store with --store")
    page = write_report(loaded, runs, kept, Path(output) if output else kept.folder)
    click.echo(f"report: {page} and {page.with_suffix('.md')}")


def _time(hours: float) -> str:
    from concept_encoder.lab.progress import duration

    return duration(3600 * hours)
