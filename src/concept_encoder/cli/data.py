"""`concept-encoder data corpora | tasks | prepare | stats | pmi`: corpora, before anything is trained on them."""

import importlib
from typing import Any

import click

from concept_encoder.errors import UserError, nearest

# subcommands with a file of their own, function `command`
LAZY = {"stats": "concept_encoder.cli.data_stats", "pmi": "concept_encoder.cli.data_pmi"}


class _Data(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return [*super().list_commands(context), *LAZY]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in LAZY:
            return importlib.import_module(LAZY[name]).command
        return super().get_command(context, name)

    def resolve_command(self, context: click.Context, args: list[str]) -> tuple:
        commands = self.list_commands(context)
        if args and args[0] not in commands and not args[0].startswith("-"):
            raise UserError(f"data {args[0]}: no such command; {nearest(args[0], commands)}")
        return super().resolve_command(context, args)


@click.group("data", cls=_Data, invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Corpora: list those known by name, prepare them, look into them."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@command.command("corpora")
def corpora() -> None:
    """List the corpora that a recipe may call by name in data.corpus."""
    from concept_encoder.cli.show import show_table
    from concept_encoder.data.corpus_table import CORPORA

    rows: list[list[Any]] = [
        [c.name, c.source, c.config, c.text_column, c.documents, c.bytes and f"{c.bytes / 1e9:.1f}", c.licence]
        for c in CORPORA.values()
    ]
    show_table("Corpora", ["name", "hub id", "config", "column", "documents", "GB", "licence"], rows)


@command.command("tasks")
def tasks() -> None:
    """List the tasks that data.task and `probe --task` may call by name, with the sizes of the official splits."""
    from concept_encoder.cli.show import show_table
    from concept_encoder.data.tasks.table import TASKS

    rows: list[list[Any]] = [
        [
            t.name,
            f"{t.source} {t.config or ''}".rstrip(),
            t.validation or "part of train",
            " + ".join(filter(None, (t.text, t.text_pair))),
            ", ".join(t.label_names or ()) or t.kind,
            ", ".join(t.metrics),
            *(t.sizes or (None, None)),
            t.majority,
        ]
        for t in TASKS.values()
    ]
    header = ["name", "hub id", "scored on", "texts", "labels", "metrics", "train", "held out", "majority"]
    show_table("Tasks", header, rows)


@command.command("prepare")
@click.argument("recipe", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[section.field=value]...")
@click.option("--processes", type=click.IntRange(1), help="Processes that tokenise.  [default: one a core]")
def prepare_command(recipe: str, overrides: tuple[str, ...], processes: int | None) -> None:
    """Tokenise and pack the corpus of RECIPE, which `pretrain` then finds ready.

    Memory stays small whatever the corpus. Killed, the same command goes on after the last finished shard; the
    number of processes changes nothing in the result.
    """
    from concept_encoder.cli.show import show_table
    from concept_encoder.cores import usable_cores
    from concept_encoder.data.packing import prepare

    for name, config in data_sections(recipe, overrides).items():
        corpus = prepare(config, processes=processes or usable_cores())
        statistics, weights = corpus.statistics, config.weights
        tokens = sum(member["tokens"] for member in statistics.members.values())
        rows = [
            [member, found["documents"], found["tokens"], found["tokens"] / max(tokens, 1), weights[member]]
            for member, found in statistics.members.items()
        ]
        asked = "weight" if config.mixture_by == "tokens" else "weight (documents)"
        show_table(name or "Corpus", ["drawn from", "documents", "tokens", "share of tokens", asked], rows)
        if statistics.ended_by:
            click.echo(f"the mixture ended when {statistics.ended_by} had no more documents")
        sides = [
            ["train", len(corpus.train), statistics.documents, statistics.tokens],
            ["held out", len(corpus.validation), statistics.validation_documents, statistics.validation_tokens],
        ]
        title = f"Rows ({config.packing}, {config.sequence_length} tokens at most)"
        show_table(title, ["side", "rows", "documents", "tokens"], sides)
        click.echo(f"prepared: {corpus.folder}")


def data_sections(recipe: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """The data section of every row of a recipe, each once."""
    from concept_encoder.data.corpus import DataConfig
    from concept_encoder.training.recipe import load_rows, section

    found: dict[str, Any] = {}
    for name, sections in load_rows(recipe, overrides).items():
        config = section(sections, "data", DataConfig)
        if config not in found.values():
            found[name] = config
    return found
