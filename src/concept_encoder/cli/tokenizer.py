"""`concept-encoder tokenizer train | report`."""

from pathlib import Path

import click

KINDS = ["wordpiece", "bpe", "unigram"]


@click.group("tokenizer", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Tokenizers: train one, or compare some on texts."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@command.command("train")
@click.argument("corpus")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--type", "kind", type=click.Choice(KINDS), default="wordpiece", show_default=True)
@click.option("--vocab-size", type=click.IntRange(64), default=8192, show_default=True, help="Specials included.")
@click.option("--max-documents", type=click.IntRange(1), help="Read no more than the first so many documents.")
@click.option("--text-column", default="text", show_default=True)
def train_command(
    corpus: str, folder: Path, kind: str, vocab_size: int, max_documents: int | None, text_column: str
) -> None:
    """Train a tokenizer on CORPUS (a name, a file, a folder, a hub id) and leave it in FOLDER.

    It reads the first 100 million characters. Documents that `pretrain` would hold out (2 %, by a hash of the
    text) are left out, so that `tokenizer report … --held-out` is fair. A model's embedding has the vocabulary rounded
    up to a multiple of 64.
    """
    from concept_encoder.cli.show import progress
    from concept_encoder.data.corpus import DataConfig, labelled_documents
    from concept_encoder.data.packing import tokenizer_texts
    from concept_encoder.data.tokenizer import padded_vocab_size, train_tokenizer
    from concept_encoder.errors import UserError
    from concept_encoder.settings import from_mapping

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already and not empty; give a new folder")
    fields = {"corpus": corpus, "tokenizer_type": kind, "vocab_size": vocab_size, "text_column": text_column}
    config = from_mapping(DataConfig, {**fields, "max_documents": max_documents}, "data")
    read = 0
    with progress("reading") as step:

        def done(count: int) -> None:
            nonlocal read
            read += count
            step("documents", read, None)

        tokenizer = train_tokenizer(tokenizer_texts(labelled_documents(config), done), kind, vocab_size)
    tokenizer.save_pretrained(folder)
    click.echo(
        f"tokenizer: {folder} ({kind}, {len(tokenizer):,} entries, {padded_vocab_size(tokenizer):,} embedding rows)"
    )


@command.command("report")
@click.argument("tokenizers", nargs=-1, required=True)
@click.option("--texts", required=True, help="A corpus to measure on: a name, a file, a folder, a hub id.")
@click.option("--text-column", default="text", show_default=True)
@click.option("--documents", type=click.IntRange(1), default=2000, show_default=True, help="The first so many.")
@click.option("--held-out", is_flag=True, help="Only documents that `tokenizer train` leaves out.")
def report_command(tokenizers: tuple[str, ...], texts: str, text_column: str, documents: int, held_out: bool) -> None:
    """Compare TOKENIZERS (folders, vocab.txt files, hub ids) on held-out texts.

    Entries of the vocabulary and rows of a model's embedding; tokens per word (fertility); bytes per token; share of
    unknown tokens; share of the vocabulary that is used.
    """
    from itertools import islice

    from concept_encoder.cli.show import show_table
    from concept_encoder.data.corpus import DataConfig, labelled_documents
    from concept_encoder.data.fertility import fertility
    from concept_encoder.data.tokenizer import load_tokenizer

    loaded = {name: load_tokenizer(name) for name in tokenizers}
    pairs = labelled_documents(DataConfig(corpus=texts, text_column=text_column))
    chosen = list(islice((text for out, text in pairs if out or not held_out), documents))
    last = [Path(name).name for name in tokenizers]
    names = last if len(set(last)) == len(last) else tokenizers
    rows = []
    for name, tokenizer in zip(names, loaded.values()):
        found = fertility(tokenizer, chosen)
        sizes, rates = [found.vocabulary, found.embedding_rows], [found.tokens_per_word, found.bytes_per_token]
        rows.append([name, *sizes, *rates, f"{found.unk_share:.3%}", f"{found.used_share:.1%}"])
    header = ["tokenizer", "entries", "rows", "tokens/word", "bytes/token", "unknown", "used"]
    show_table(f"Tokenizers on {len(chosen):,} documents of {texts}", header, rows)
