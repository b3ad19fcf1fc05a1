"""`concept-encoder data corpora | prepare | stats | pmi`: corpora, before anything is trained on them."""

import importlib
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import click

from concept_encoder.errors import UserError, nearest

LAZY = {"pmi": "concept_encoder.cli.data_pmi"}  # subcommands with a file of their own, function `command`
LAZY = {name: module for name, module in LAZY.items() if find_spec(module)}


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
        [c.name, f"{c.source} {c.config or ''}".rstrip(), c.split, c.text_column, c.documents, c.licence]
        for c in CORPORA.values()
    ]
    show_table("Corpora", ["name", "hub id", "split", "column", "documents", "licence"], rows)


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
    from concept_encoder.data.packing import prepare

    for name, config in _data_sections(recipe, overrides).items():
        corpus = prepare(config, processes=processes or os.cpu_count() or 1)
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
        show_table(f"Rows of {config.sequence_length} tokens", ["side", "rows", "documents", "tokens"], sides)
        click.echo(f"prepared: {corpus.folder}")


@command.command("stats")
@click.argument("recipe", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[section.field=value]...")
@click.option("--task", "tasks", multiple=True, help="A task whose validation texts should not be in the corpus.")
@click.option("--documents", type=click.IntRange(1), help="Read no more than so many documents.  [default: all]")
@click.option("--sample", type=click.IntRange(1), default=10_000, show_default=True, help="For near duplicates.")
def stats_command(recipe: str, overrides: tuple[str, ...], tasks: tuple[str, ...], documents: int | None, sample: int):
    """Print what the corpus of RECIPE is made of, preparing it first if need be.

    Documents, tokens, lengths, duplicates, languages, how much of the vocabulary is used, and for every --task how
    many of its validation texts share 8 to 13 words in a row with the corpus (arXiv:2005.14165, appendix C).
    """
    from concept_encoder.cli.show import progress
    from concept_encoder.data.packing import prepare
    from concept_encoder.data.stats import Contamination, evaluation_texts

    for name, config in _data_sections(recipe, overrides).items():
        contamination = Contamination({task: evaluation_texts(task) for task in tasks})
        corpus = prepare(config)
        if name:
            click.echo(name)
        _show_counts(corpus)
        with progress("reading") as step:
            _read_and_show(config, corpus, contamination, documents, sample, step)


def _show_counts(corpus: "PreparedCorpus") -> None:  # noqa: F821
    from concept_encoder.cli.show import show_table

    statistics, counts = corpus.statistics, corpus.unigram_counts
    documents = statistics.documents + statistics.validation_documents
    ordinary = [i for i in range(len(counts)) if i not in set(corpus.tokenizer.all_special_ids)]
    rows = [
        ["documents", documents, statistics.validation_documents],
        ["tokens", statistics.tokens + statistics.validation_tokens, statistics.validation_tokens],
        ["tokens in a document", (statistics.tokens + statistics.validation_tokens) / documents, None],
        ["unknown tokens", _percent(statistics.unk_share), None],
        ["vocabulary in use", _percent(float((counts[ordinary] > 0).mean())), None],
    ]
    show_table("Corpus", ["", "all", "held out"], rows)
    lengths = [
        [f"{2**i:,} to {2 ** (i + 1) - 1:,}", count, _percent(count / documents)]
        for i, count in enumerate(statistics.length_histogram)
        if count
    ]
    show_table("Length of documents", ["tokens", "documents", "share"], lengths)


def _read_and_show(
    config: "DataConfig",  # noqa: F821
    corpus: "PreparedCorpus",  # noqa: F821
    contamination: "Contamination",  # noqa: F821
    limit: int | None,
    sample_size: int,
    step: Callable[[str, int, int], None],
) -> None:
    from itertools import islice

    from concept_encoder.cli.show import show_table
    from concept_encoder.data.stats import ExactDuplicates, Sample, languages, near_duplicates, packed_documents

    statistics = corpus.statistics
    total = min(limit or sys.maxsize, statistics.documents + statistics.validation_documents)
    exact, sample = ExactDuplicates(), Sample(sample_size)
    for held_out, text in islice(packed_documents(config, statistics), limit):
        exact.add(text)
        sample.add(text)
        if not held_out:
            contamination.add(text)
        step("documents", exact.documents, total)
    step("near duplicates", total, total)
    rows = [
        ["exact duplicates", exact.documents, exact.duplicates, _percent(exact.duplicates / exact.documents)],
        ["near duplicates in a sample", len(sample), *_share(near_duplicates(sample), len(sample))],
    ]
    show_table("Duplicates", ["", "documents read", "found", "share"], rows)
    found = list(languages(sample).items())[:10]
    show_table(
        "Languages of the sample", ["language", "share"], [[language, _percent(share)] for language, share in found]
    )
    overlaps = [
        [task, it.n, it.texts, it.checked, *_share(it.found, it.checked)] for task, it in contamination.overlaps.items()
    ]
    if overlaps:
        header = ["task", "n", "texts", "of n words or more", "found in the corpus", "share"]
        show_table("Validation texts that share n words in a row with the training documents", header, overlaps)


def _share(count: int, total: int) -> tuple[int, str | None]:
    return count, _percent(count / total) if total else None


def _data_sections(recipe: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """The data section of every row of a recipe, each once."""
    from concept_encoder.data.corpus import DataConfig
    from concept_encoder.training.recipe import load_rows, section

    found: dict[str, Any] = {}
    for name, sections in load_rows(recipe, overrides).items():
        config = section(sections, "data", DataConfig)
        if config not in found.values():
            found[name] = config
    return found


def _percent(share: float) -> str:
    return f"{share:.2%}"
