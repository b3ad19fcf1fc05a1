"""`concept-encoder describe RECIPE [section.field=value …]`."""

import click


@click.command("describe")
@click.argument("recipe", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[section.field=value]...")
def command(recipe: str, overrides: tuple[str, ...]) -> None:
    """Print what the model of RECIPE costs, before anything is built: parameters, FLOPs, memory, compression.

    FLOPs count a forward pass, two a multiply-add; a training step is about three times that. Activations are what a
    backward pass needs, in fp32, for one text, with a fused attention kernel. The bert twin is the same model without
    concepts: how many of its layers come nearest. A recipe with rows prints each.
    """
    from concept_encoder.cli.show import console
    from concept_encoder.training.pretrain import PretrainRecipe
    from concept_encoder.training.recipe import load_rows

    rows = {name: PretrainRecipe.from_sections(sections) for name, sections in load_rows(recipe, overrides).items()}
    for name, checked in rows.items():
        if name:
            console.rule(name)
        _describe(checked)


def _describe(recipe: "PretrainRecipe") -> None:  # noqa: F821
    from concept_encoder.cli.show import show_table
    from concept_encoder.model.accounting import build_without_weights, cost, matched_layers, parameters_by_part
    from concept_encoder.model.layout import format_layout
    from concept_encoder.training.recipe import model_config

    config = model_config(recipe.model, **recipe.model_defaults())
    parts = parameters_by_part(build_without_weights(config))
    answer = format_layout(config.decoder_layer_types) or "no layers"
    click.echo(f"layers: {format_layout(config.layer_types)}; decoder {config.decoder}: {answer}")
    rows = [*map(list, parts.items()), ["all", sum(parts.values())]]
    show_table("Parameters", ["part", "parameters"], rows)
    costs = []
    for length in sorted({recipe.data.sequence_length, 512, 4096, 16384}):
        found = cost(config, length, recipe.objective.asked_share)
        ratio = f"{found.concepts} / {length}" if found.concepts else "none"
        flops = [f"{value / 1e6:,.1f} M" for value in (found.flops_per_token, found.encoder_flops_per_token)]
        costs.append([f"N = {length:,}", ratio, *flops, f"{found.activation_bytes / 2**20:,.0f} MiB"])
    header = ["length", "concepts per tokens", "FLOPs/token", "encoder alone", "activations"]
    show_table("Cost of one text", header, costs)
    if config.has_concepts:
        length = recipe.data.sequence_length
        size, work = (matched_layers(config, length, on) for on in ("parameters", "compute"))
        click.echo(f"bert twin: {size} layers have as many parameters, {work} cost as much at N = {length:,}")
