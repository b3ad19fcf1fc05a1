"""`concept-encoder pretrain RECIPE [section.field=value …]`."""

import click


@click.command("pretrain")
@click.argument("recipe", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[section.field=value]...")
def command(recipe: str, overrides: tuple[str, ...]) -> None:
    """Pretrain a model as RECIPE says and leave the run in training.output_dir.

    The same command goes on where an interrupted run stopped. Any field is overridden, e.g.
    `training.output_dir=runs/mine model.preset=woven`. A recipe with rows runs them one after the
    other; all are checked before the first begins.
    """
    from concept_encoder.cli.show import show_pretraining
    from concept_encoder.training.pretrain import PretrainRecipe, pretrain
    from concept_encoder.training.recipe import load_rows

    rows = {name: PretrainRecipe.from_sections(sections) for name, sections in load_rows(recipe, overrides).items()}
    results = {}
    for name, checked in rows.items():
        run = checked.training.output_dir
        results[name or run.name] = pretrain(checked, title=name or "pretrain")
        click.echo(f"run: {run}")
    show_pretraining(results)
