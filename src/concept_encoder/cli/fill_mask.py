"""`concept-encoder fill-mask CHECKPOINT TEXT…`."""

import click


@click.command("fill-mask")
@click.argument("checkpoint", type=click.Path())
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option("--top", default=5, type=click.IntRange(min=1), show_default=True, help="Words to show for each [MASK].")
def command(checkpoint: str, texts: tuple[str, ...], top: int) -> None:
    """Fill the [MASK] of each TEXT with the words that CHECKPOINT (a checkpoint or a run) finds likely."""
    from concept_encoder.cli.show import show_table
    from concept_encoder.data.tokenizer import load_tokenizer
    from concept_encoder.errors import UserError
    from concept_encoder.model import ConceptEncoderForMaskedLM
    from concept_encoder.model.loading import load_checkpoint, resolve_checkpoint
    from concept_encoder.training.predict import fill_masks

    texts = tuple(text.encode("utf-8", "replace").decode() for text in texts)  # bytes that are no UTF-8
    folder = resolve_checkpoint(checkpoint)
    tokenizer = load_tokenizer(str(folder))
    for text in texts:
        if tokenizer.mask_token not in text:
            raise UserError(f"TEXT {text!r}: holds no {tokenizer.mask_token}; put one where a word is asked")
    model = load_checkpoint(ConceptEncoderForMaskedLM, folder)
    for text, found in zip(texts, fill_masks(model, tokenizer, list(texts), top)):
        rows = [[f"{i}", word, share] for i, mask in enumerate(found, start=1) for word, share in mask]
        show_table(text, ["mask", "word", "probability"], rows)
