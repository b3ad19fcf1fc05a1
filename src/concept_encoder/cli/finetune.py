"""`concept-encoder finetune RECIPE [section.field=value …]`."""

import click


@click.command("finetune")
@click.argument("recipe", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[section.field=value]...")
def command(recipe: str, overrides: tuple[str, ...]) -> None:
    """Fine-tune model.checkpoint on a task as RECIPE says; print the scores beside majority class and bag of words.

    The task is a named one (data.task=mrpc) or your own files (data.train=mine.csv data.text=sentence
    data.label=topic). With data.kind=token_classification every word has a tag (data.train=mine.conllu
    data.text=tokens data.label=upos).
    """
    from concept_encoder.cli.show import show_scores
    from concept_encoder.data.tasks.load import load_task
    from concept_encoder.evaluation.baselines import baselines
    from concept_encoder.evaluation.metrics import scorer
    from concept_encoder.training.finetune import FinetuneRecipe, finetune
    from concept_encoder.training.recipe import load_sections

    checked = FinetuneRecipe.from_sections(load_sections(recipe, overrides))
    task = load_task(checked.data)
    beside = {other.name: baselines(other) for other in task.also}
    result = finetune(checked, scorer(task), task, baselines(task), also_baselines=beside)
    name = checked.training.output_dir.name
    counts = result["examples"]
    for judged, found in ((task, result), *((other, result["also"][other.name]) for other in task.also)):
        scores = {**found["baselines"], name: found["scores"]}
        scores |= {f"{name}, {what}": changed for what, changed in found["controls"].items()}
        sizes = f"{len(judged.validation)} held-out examples, {counts['train']} to train on"
        show_scores(f"{judged.name}: {sizes}", scores)
    if counts["validation"] < 100:
        click.echo(f"note: {counts['validation']} held-out examples say little; give more with data.validation=FILE")
    if cut := result.get("words", {}).get("cut_off"):
        words = result["words"]["scored"] + cut
        click.echo(
            f"note: {cut} of {words} held-out words have no token within data.max_length; "
            "the model is not scored on them, the baselines are"
        )
    click.echo(f"run: {checked.training.output_dir}")
