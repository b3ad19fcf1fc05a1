"""`concept-encoder variants [FAMILY]`."""

import inspect

import click
from rich.table import Table
from rich.text import Text


@click.command("variants")
@click.argument("family", required=False)
def command(family: str | None) -> None:
    """List the presets and every family of variants: what a recipe may name, and where it comes from."""
    from concept_encoder.cli.show import console
    from concept_encoder.errors import UserError, nearest

    families = all_families()
    if family is not None and family not in families:
        raise UserError(f"{family}: no such family; {nearest(family, families)}")
    for name in families if family is None else [family]:
        field, members = families[name]
        table = Table(title=f"{name}: {field}", title_justify="left", title_style="bold")
        table.add_column("name", no_wrap=True)
        table.add_column("what it is", overflow="fold")
        table.add_column("source", overflow="fold")
        table.add_column("its fields", no_wrap=True)
        for member, (text, options) in members.items():
            about, _, source = text.partition("Source: ")
            table.add_row(*map(Text, (member, about.strip(), source.strip(), "\n".join(options))))
        console.print(table)


def all_families() -> dict[str, tuple[str, dict[str, tuple[str, tuple[str, ...]]]]]:
    """Family -> (the recipe's field, member -> (docstring in one line, the fields that only it reads))."""
    from concept_encoder.model import PRESETS
    from concept_encoder.model.decoders import DECODERS
    from concept_encoder.model.moves import MOVES
    from concept_encoder.model.pooling import CLASSIFIER_HEADS
    from concept_encoder.model.positions import POSITIONS
    from concept_encoder.model.sources import SOURCES
    from concept_encoder.objectives.concept_losses import CONCEPT_LOSSES
    from concept_encoder.objectives.masking import MASKINGS
    from concept_encoder.objectives.masking_replacement import REPLACEMENTS
    from concept_encoder.objectives.weighting import WEIGHTINGS

    registries = {
        "moves": ("model.layer_types, model.decoder_layer_types", MOVES),
        "sources": ("model.concept_source", SOURCES),
        "decoders": ("model.decoder", DECODERS),
        "positions": ("model.token_position, model.concept_position", POSITIONS),
        "heads": ("model.classifier_head", CLASSIFIER_HEADS),
        "maskings": ("objective.masking", MASKINGS),
        "replacements": ("objective.replacement", REPLACEMENTS),
        "concept-losses": ("objective.concept_loss", CONCEPT_LOSSES),
        "weightings": ("objective.loss_weighting", WEIGHTINGS),
    }
    families = {
        name: (field, {member: (_one_line(cls), getattr(cls, "options", ())) for member, cls in registry.items()})
        for name, (field, registry) in registries.items()
    }
    presets = {
        p.name: (f"{p.about}: {p.layout}, {', '.join(f'{k} {v}' for k, v in p.options.items())}", ())
        for p in PRESETS.values()
    }
    return {"presets": ("model.preset", presets), **families}


def _one_line(cls: type) -> str:
    """The docstring up to its source; formulas and examples are left to the reader of the code."""
    text = inspect.cleandoc(cls.__doc__ or "")
    about = text.split("\n\n")[0]
    source = "" if "Source: " in about else next((p for p in text.split("\n\n") if "Source: " in p), "")
    return " ".join(f"{about} {source[source.find('Source: ') :] if source else ''}".split())
