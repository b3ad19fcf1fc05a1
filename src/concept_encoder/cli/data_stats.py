"""`concept-encoder data stats RECIPE`: what the corpus of a recipe is made of."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from concept_encoder.data.corpus import DataConfig
    from concept_encoder.data.packing import PreparedCorpus
    from concept_encoder.data.stats import Contamination, ExactDuplicates, Sample


@click.command("stats")
@click.argument("recipe", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[section.field=value]...")
@click.option("--task", "tasks", multiple=True, help="A task whose validation texts should not be in the corpus.")
@click.option("--documents", type=click.IntRange(1), help="Read no more than so many documents.  [default: all]")
@click.option("--sample", type=click.IntRange(1), default=10_000, show_default=True, help="For near duplicates.")
def command(recipe: str, overrides: tuple[str, ...], tasks: tuple[str, ...], documents: int | None, sample: int):
    """Print what the corpus of RECIPE is made of, preparing it first if need be.

    Documents, tokens, lengths, duplicates, languages, how much of the vocabulary is used, and for every --task how
    many of its validation texts share 8 to 13 words in a row with the corpus (arXiv:2005.14165, appendix C).
    """
    from concept_encoder.cli.data import data_sections
    from concept_encoder.cli.show import progress
    from concept_encoder.data.packing import prepare
    from concept_encoder.data.stats import Contamination, evaluation_texts

    for name, config in data_sections(recipe, overrides).items():
        contamination = Contamination({task: evaluation_texts(task) for task in tasks})
        corpus = prepare(config)
        if name:
            click.echo(name)
        _show_counts(corpus)
        with progress("reading") as step:
            _read_and_show(config, corpus, contamination, documents, sample, step)


def _show_counts(corpus: "PreparedCorpus") -> None:
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
    config: "DataConfig",
    corpus: "PreparedCorpus",
    contamination: "Contamination",
    limit: int | None,
    sample_size: int,
    step: Callable[[str, int, int], None],
) -> None:
    from itertools import islice

    from concept_encoder.data.stats import ExactDuplicates, Sample, packed_documents

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
    _show_sample(exact, sample)
    _show_overlaps(contamination)


def _show_sample(exact: "ExactDuplicates", sample: "Sample") -> None:
    from concept_encoder.cli.show import show_table
    from concept_encoder.data.stats import languages, near_duplicates

    rows = [
        ["exact duplicates", exact.documents, exact.duplicates, _percent(exact.duplicates / exact.documents)],
        ["near duplicates in a sample", len(sample), *_share(near_duplicates(sample), len(sample))],
    ]
    show_table("Duplicates", ["", "documents read", "found", "share"], rows)
    found = [[language, _percent(share)] for language, share in list(languages(sample).items())[:10]]
    show_table("Languages of the sample", ["language", "share"], found)


def _show_overlaps(contamination: "Contamination") -> None:
    from concept_encoder.cli.show import show_table

    overlaps = [
        [task, it.n, it.texts, it.checked, *_share(it.found, it.checked)] for task, it in contamination.overlaps.items()
    ]
    if overlaps:
        header = ["task", "n", "texts", "of n words or more", "found in the corpus", "share"]
        show_table("Validation texts that share n words in a row with the training documents", header, overlaps)


def _share(count: int, total: int) -> tuple[int, str | None]:
    return count, _percent(count / total) if total else None


def _percent(share: float) -> str:
    return f"{share:.2%}"
