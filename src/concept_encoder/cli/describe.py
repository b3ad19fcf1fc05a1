"""`concept-encoder describe RECIPE [section.field=value …]`."""

import click


@click.command("describe")
@click.argument("recipe", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[section.field=value]...")
def command(recipe: str, overrides: tuple[str, ...]) -> None:
    """Print what RECIPE's model costs, before anything is built: parameters by part, FLOPs, memory, compression.

    FLOPs count a forward pass, two a multiply-add; a training step is about three times that. Activations are those a
    backward
    pass needs, in fp32 and with attention weights kept, for one text.
    """
    from concept_encoder.cli.show import show_table
    from concept_encoder.model.accounting import build_without_weights, cost, parameters_by_part
    from concept_encoder.model.layout import format_layout
    from concept_encoder.training.pretrain import PretrainRecipe
    from concept_encoder.training.recipe import load_sections, model_config

    checked = PretrainRecipe.from_sections(load_sections(recipe, overrides))
    config = model_config(checked.model, **checked.model_defaults())
    parts = parameters_by_part(build_without_weights(config))
    click.echo(
        f"layers: {format_layout(config.layer_types)}; decoder {config.decoder}: "
        f"{format_layout(config.decoder_layer_types) or 'no layers'}"
    )
    show_table(
        "Parameters", ["part", "parameters"], [[*item] for item in parts.items()] + [["all", sum(parts.values())]]
    )
    lengths = sorted({checked.data.sequence_length, 512, 4096, 16384})
    rows = []
    for length in lengths:
        found = cost(config, length, checked.objective.mask_rate)
        ratio = f"{found.concepts} / {length}" if found.concepts else "none"
        rows.append(
            [
                f"N = {length:,}",
                ratio,
                f"{found.flops_per_token / 1e6:,.1f} M",
                f"{found.encoder_flops_per_token / 1e6:,.1f} M",
                f"{found.activation_bytes / 2**20:,.0f} MiB",
            ]
        )
    show_table(
        "Cost of one text", ["length", "concepts per tokens", "FLOPs/token", "encoder alone", "activations"], rows
    )
