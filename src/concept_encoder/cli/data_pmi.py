"""`concept-encoder data pmi RECIPE FILE`: the collocations of a corpus, for `pmi` masking."""

from pathlib import Path

import click

ROWS_TOKENS = 4_000_000  # read at a time


@click.command("pmi")
@click.argument("recipe", type=click.Path())
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[section.field=value]...")
@click.option("--size", type=click.IntRange(1), help="N-grams in all.  [default: as many as hold half of the words]")
@click.option("--min-count", type=click.IntRange(2), default=10, show_default=True, help="Leave out what is rarer.")
def command(recipe: str, file: Path, overrides: tuple[str, ...], size: int | None, min_count: int) -> None:
    """Find the collocations of the corpus of RECIPE and write them to FILE, for objective.masking=pmi.

    Word n-grams of 2 to 5 words, ranked by how much more often they occur than their worst segmentation predicts
    (PMI-Masking, arXiv:2010.01825), in one pass over the training rows. The corpus is prepared first if need be. Half
    of the n-grams have 2 words, a quarter 3, an eighth 4 and an eighth 5, as in the paper.
    """
    from concept_encoder.cli.data import data_sections
    from concept_encoder.cli.show import progress, show_table
    from concept_encoder.data.packing import prepare
    from concept_encoder.data.pmi import NgramCounter, choose
    from concept_encoder.errors import UserError
    from concept_encoder.objectives.masking_ngrams import WordNumbers

    configs = list(data_sections(recipe, overrides).values())
    if len(configs) > 1:
        raise UserError(
            f"{recipe}: its rows read {len(configs)} corpora; n-grams are made of one, override data.corpus"
        )
    corpus = prepare(configs[0])
    try:
        numbers = WordNumbers(corpus.tokenizer)
    except ValueError as error:
        raise UserError(f"data.tokenizer: {error}") from None
    counter = NgramCounter()
    with progress("collocations") as step:
        for ids, done in _row_tokens(corpus.train):
            counter.add(numbers.add(ids))
            step("counting", done, len(corpus.train))
        step("scoring", len(corpus.train), len(corpus.train))
        found = counter.collocations(min_count)
        chosen, share = choose(found, counter.blocks, size)
    if not any(len(ngrams.counts_G) for ngrams in chosen.values()):
        raise UserError(f"{recipe}: no collocation was seen {min_count} times; give more text or a smaller --min-count")
    made = numbers.file(tuple(vars(ngrams).values()) for ngrams in chosen.values())
    try:
        made.save(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror})") from None
    rows = []
    for n, ngrams in chosen.items():
        best = [" ".join(_text(corpus.tokenizer, numbers, words)) for words in ngrams.words_GN[:4].tolist()]
        rows.append([str(n), len(found[n].counts_G), len(ngrams.counts_G), "; ".join(best)])
    show_table("Collocations", ["words", f"seen {min_count} times", "chosen", "the best"], rows)
    click.echo(f"they hold {share:.1%} of {counter.num_words:,} words")
    click.echo(f"n-grams: {file}")


def _row_tokens(rows: "datasets.Dataset"):  # noqa: F821
    """The tokens of the rows, some millions at a time, and how many rows have been read."""
    import numpy as np

    at_once = max(ROWS_TOKENS // len(rows[0]["input_ids"]), 1)
    for start in range(0, len(rows), at_once):
        block = rows[start : start + at_once]["input_ids"]
        yield np.concatenate(list(block)), min(start + at_once, len(rows))


def _text(tokenizer: "PreTrainedTokenizerFast", numbers: "WordNumbers", words: list[int]) -> list[str]:  # noqa: F821
    return [tokenizer.decode(numbers.tokens[number]).strip() for number in words]
