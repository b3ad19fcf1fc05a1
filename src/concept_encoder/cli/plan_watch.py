"""`concept-encoder plan status | watch | logs`: looking on, which changes nothing."""

import time

import click

from concept_encoder.cli.plan_options import find_run, plan_argument, show_counts, store_folder, store_option
from concept_encoder.errors import UserError


@click.command("status")
@plan_argument
@store_option
@click.option("--all", "everything", is_flag=True, help="Every run; else of those that wait or are done a few.")
def status(plan: str, store: str | None, everything: bool) -> None:
    """Where the runs of a plan stand."""
    from concept_encoder.cli.plan_table import status_table
    from concept_encoder.cli.show import console
    from concept_encoder.lab.store import Store

    kept = Store(store_folder(plan, store), create=False)
    states = kept.all_states()
    console.print(status_table(states, kept, console.width, everything))
    show_counts(states)
    holder = kept.holder()
    if holder:
        click.echo(f"scheduled by {holder}")
    elif states and all(state.final for state in states):
        click.echo(f"the plan has ended: concept-encoder plan report {plan}")
    else:
        click.echo(f"nobody schedules: concept-encoder plan run {plan} goes on")


@click.command("watch")
@plan_argument
@store_option
@click.option(
    "--every", default=1, type=click.IntRange(1, 86_400), show_default=True, help="Seconds between two looks."
)
def watch(plan: str, store: str | None, every: int) -> None:
    """The same table, live, until the plan has ended or you press Ctrl-C (which stops no run)."""
    from rich.live import Live

    from concept_encoder.cli.plan_table import status_table
    from concept_encoder.cli.show import console
    from concept_encoder.lab.store import Store

    kept = Store(store_folder(plan, store), create=False)
    states = kept.all_states()
    try:
        with Live(status_table(states, kept, console.width), console=console, auto_refresh=False) as live:
            while not all(state.final for state in states):
                time.sleep(every)
                states = kept.all_states()
                live.update(status_table(states, kept, console.width), refresh=True)
    except KeyboardInterrupt:
        pass
    if not console.is_terminal:
        click.echo()
    show_counts(states)


@click.command("logs")
@plan_argument
@click.argument("run_name", metavar="RUN")
@store_option
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended, over all further attempts.")
def logs(plan: str, run_name: str, store: str | None, follow: bool) -> None:
    """What RUN prints (its latest attempt) and how its states changed; secrets are masked."""
    from concept_encoder.lab.failures import mask
    from concept_encoder.lab.progress import LogTail
    from concept_encoder.lab.store import Store

    kept = Store(store_folder(plan, store), create=False)
    state = find_run(kept.all_states(), run_name)
    for when, _, to, reason in kept.events(state.id):
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
        click.echo(f"{stamp} {to}{f': {reason}' if reason else ''}", err=True)
    if not state.attempt and not follow:
        raise UserError(f"{state.name}: has not been started")
    attempt, log = state.attempt, LogTail(kept.attempt_folder(state) / "log.txt")
    while True:
        now = kept.state(state.id)  # before the log: what is printed until it ends is read
        over = not follow or now.final or now.attempt != attempt
        for line in log.read(over):
            click.echo(mask(line), nl=False)
        if now.attempt != attempt and follow:
            attempt, log = now.attempt, LogTail(kept.attempt_folder(now) / "log.txt")
            click.echo(f"attempt {attempt}", err=True)
        elif over:
            break
        else:
            time.sleep(0.3)
