"""`concept-encoder pretrain RECIPE [section.field=value …]`."""

import json
from typing import Any

import click

# --smoke: what a recipe of any size is cut down to
SMOKE = {
    "model.hidden_size": 64,
    "model.num_attention_heads": 4,
    "data.corpus": "quickstart",
    "data.corpus_config": None,
    "data.split": "train",
    "data.text_column": "text",
    "data.validation_corpus": None,
    "data.validation_fraction": 0.1,
    "data.max_documents": 1000,
    "data.tokenizer": None,
    "data.vocab_size": 4096,
    "data.sequence_length": 64,
    "training.max_steps": 20,
    "training.batch_size": 16,
    "training.micro_batch_size": None,
    "training.eval_batch_size": 16,
    "training.max_eval_rows": 64,
    "training.eval_every": 10,
    "training.save_every": 10,
    "training.log_every": 1,
    "training.num_workers": 0,
    "training.precision": "fp32",
    "training.attention": "sdpa",
    "training.torch_compile": False,
    "training.report_to": [],
}
# of the model, where the recipe gives the field
SMOKE_AT_MOST = {"num_concepts": 16, "token_dim": 32, "local_window": 16}
SMOKE_INSTEAD = {"intermediate_size": None, "vocab_size": 4096, "max_position_embeddings": 64}


@click.command("pretrain")
@click.argument("recipe", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[section.field=value]...")
@click.option("--smoke", is_flag=True, help="The same recipe at toy size on local text, in a minute.")
def command(recipe: str, overrides: tuple[str, ...], smoke: bool) -> None:
    """Pretrain a model as RECIPE says and leave the run in training.output_dir.

    The same command goes on where an interrupted run stopped. Any field is overridden, e.g.
    `training.output_dir=runs/mine model.preset=woven`. A recipe with rows runs them one after the
    other; all are checked before the first begins.
    """
    from concept_encoder.cli.show import show_pretraining
    from concept_encoder.training.pretrain import PretrainRecipe, pretrain
    from concept_encoder.training.recipe import load_rows

    if smoke:
        overrides = (*_smoke(recipe), *overrides)
    rows = {name: PretrainRecipe.from_sections(sections) for name, sections in load_rows(recipe, overrides).items()}
    results = {}
    for name, checked in rows.items():
        run = checked.training.output_dir
        results[name or run.name] = pretrain(checked, title=name or "pretrain")
        click.echo(f"run: {run}")
    show_pretraining(results)


def _smoke(recipe: str) -> list[str]:
    """The overrides that cut a recipe down; the user's own go on top of them."""
    from concept_encoder.settings import load_yaml

    content = load_yaml(recipe)
    model, training = (content.get(name) or {} for name in ("model", "training"))
    fields: dict[str, Any] = dict(SMOKE)
    for name, most in SMOKE_AT_MOST.items():
        if isinstance(model.get(name), int):
            fields[f"model.{name}"] = min(model[name], most)
    fields |= {f"model.{name}": value for name, value in SMOKE_INSTEAD.items() if name in model}
    if training.get("output_dir"):
        fields["training.output_dir"] = f"{training['output_dir']}-smoke"
    return [f"{name}={json.dumps(value)}" for name, value in fields.items()]
