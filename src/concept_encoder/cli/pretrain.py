"""`concept-encoder pretrain RECIPE [section.field=value …]`."""

import click


@click.command("pretrain")
@click.argument("recipe", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[section.field=value]...")
def command(recipe: str, overrides: tuple[str, ...]) -> None:
    """Pretrain a model as RECIPE says and leave the run in training.output_dir.

    The same command goes on where an interrupted run stopped. Any field is overridden, e.g.
    `training.output_dir=runs/mine model.preset=woven`.
    """
    from concept_encoder.cli.show import show_pretraining
    from concept_encoder.training.pretrain import PretrainRecipe, pretrain
    from concept_encoder.training.recipe import load_sections

    checked = PretrainRecipe.from_sections(load_sections(recipe, overrides))
    result = pretrain(checked)
    show_pretraining({checked.training.output_dir.name: result})
    click.echo(f"run: {checked.training.output_dir}")
