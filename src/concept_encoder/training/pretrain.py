"""Pretraining by masked language modelling: from a recipe to a run's folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from concept_encoder.data.corpus import DataConfig
from concept_encoder.data.packing import PreparedCorpus, prepare
from concept_encoder.data.tokenizer import padded_vocab_size
from concept_encoder.errors import UserError
from concept_encoder.model import ConceptEncoderConfig, ConceptEncoderForMaskedLM
from concept_encoder.model.accounting import cost
from concept_encoder.model.loading import resolve_checkpoint
from concept_encoder.objectives.masked_lm import MaskedLMCollator, ObjectiveConfig, unigram_loss
from concept_encoder.objectives.weighting import WEIGHTINGS
from concept_encoder.training.concept_objective import ConceptObjective
from concept_encoder.training.model_card import model_card
from concept_encoder.training.recipe import model_config, resolved, section
from concept_encoder.training.run_folder import RunFolder
from concept_encoder.training.schedule import FIRST, CutStream
from concept_encoder.training.settings import TrainingConfig
from concept_encoder.training.stream import ExampleStream, LengthGrouped
from concept_encoder.training.trainer import prepare_kernels, run_trainer

_EVAL_SEED = 20_101  # the held-out masks are the same for every run, whatever its seed


@dataclass(frozen=True)
class PretrainRecipe:
    """A checked recipe. The model's section stays a mapping until the tokenizer is known."""

    model: Mapping[str, Any]
    data: DataConfig
    objective: ObjectiveConfig
    training: TrainingConfig

    @classmethod
    def from_sections(cls, sections: Mapping[str, Any]) -> "PretrainRecipe":
        """Check all sections, the model's with a stand-in vocabulary, before any work is done."""
        if "evaluation" in sections:
            raise UserError("evaluation: pretraining has no such section; use it with finetune")
        model = sections.get("model")
        model = {} if model is None else model
        if isinstance(model, Mapping) and "checkpoint" in model:
            raise UserError("model.checkpoint: pretraining starts from new weights; it belongs to finetune")
        data = section(sections, "data", DataConfig)
        recipe = cls(
            model, data, section(sections, "objective", ObjectiveConfig), section(sections, "training", TrainingConfig)
        )
        config = model_config(model, **recipe.model_defaults())
        if data.sequence_length > config.max_position_embeddings:
            raise UserError(
                f"data.sequence_length: {data.sequence_length} tokens exceed model.max_position_embeddings "
                f"{config.max_position_embeddings}; raise the latter or shorten the former"
            )
        recipe.check_objective(config)
        recipe.check_length_warmup()
        return recipe

    def check_length_warmup(self) -> None:
        """Refuse to cut rows that cannot be cut evenly."""
        length, warmup = self.data.sequence_length, self.training.length_warmup
        if warmup and (length % FIRST or length < 8 * FIRST):
            raise UserError(
                f"training.length_warmup: starts at data.sequence_length / {FIRST}; "
                f"make {length} a multiple of {FIRST} and {8 * FIRST} at least"
            )
        if warmup and self.data.packing != "full":
            raise UserError("training.length_warmup: cuts rows of one length; set data.packing=full")

    def check_objective(self, config: ConceptEncoderConfig) -> None:
        """Refuse an objective that this model or this way of training cannot have."""
        objective = self.objective
        objective.check_model(config)
        if objective.concept_loss is None:
            return
        if not config.has_concepts:
            raise UserError(
                f"objective.concept_loss: {objective.concept_loss!r} needs concepts, but model.concept_source is "
                "'none'; drop it or choose a preset with concepts"
            )
        guarded = objective.task_share_floor > 0
        if self.training.torch_compile and (guarded or WEIGHTINGS[objective.loss_weighting].needs_gradients):
            field = "task_share_floor" if guarded else "loss_weighting"
            raise UserError(
                f"objective.{field}: gradients inside a compiled model cannot be compared; set "
                f"training.torch_compile=false{' or objective.task_share_floor=0' if guarded else ''}"
            )

    def concept_objective(self) -> ConceptObjective | None:
        """The concept loss with its weighting, when the recipe has one."""
        if self.objective.concept_loss is None:
            return None
        return ConceptObjective(self.objective, measure=not self.training.torch_compile)

    def model_defaults(self) -> dict[str, Any]:
        """What the data decide, as far as it is known before there is a tokenizer."""
        return {
            "max_position_embeddings": self.data.sequence_length,
            "vocab_size": self.data.vocab_size,
            "mask_token_id": 4,  # a stand-in, as for the vocabulary: the tokenizer's comes with `pretraining_config`
        }


def pretrain(recipe: PretrainRecipe, corpus: PreparedCorpus | None = None, title: str = "pretrain") -> dict[str, Any]:
    """Train (or go on training, or return what is finished) and write the run's folder. Returns `result.json`.

    Args:
        corpus: a prepared corpus, when several models share one; otherwise made from `recipe.data`.
    """
    training = recipe.training
    plain = resolved(model=recipe.model, data=recipe.data, objective=recipe.objective, training=training)
    run = RunFolder(training.output_dir, plain, training.seed)
    if run.result is not None:
        return run.result
    if training.threads:
        torch.set_num_threads(training.threads)
    corpus = corpus or prepare(recipe.data)
    config = pretraining_config(recipe, corpus)
    torch.manual_seed(training.seed)
    model = ConceptEncoderForMaskedLM(config)
    prepare_kernels(model, training)
    sizes = training.sizes(len(corpus.train))
    length = recipe.data.sequence_length
    held_out = _held_out(corpus, training)
    lengths = corpus.row_lengths
    order = LengthGrouped(lengths, sizes.first_row) if recipe.data.packing == "documents" else None
    stream: Dataset = ExampleStream(corpus.train, int(sizes.first_row[-1]), training.seed, order)
    if training.length_warmup:
        stream = CutStream(stream, sizes, corpus.tokenizer.cls_token_id)
    collator = MaskedLMCollator(corpus.tokenizer, recipe.objective, training.seed, num_examples=len(stream))
    eval_collator = MaskedLMCollator(corpus.tokenizer, recipe.objective.for_evaluation(), _EVAL_SEED)
    run.begin()
    trainer, record = run_trainer(
        model,
        run,
        training,
        sizes,
        title,
        row_length=float(lengths.mean()),
        train_dataset=stream,
        eval_dataset=held_out,
        data_collator=collator,
        eval_collator=eval_collator,
        processing_class=corpus.tokenizer,
        model_card=lambda state: model_card(config, plain, state.log_history),
        concept_objective=recipe.concept_objective(),
    )
    result = {
        "verb": "pretrain",
        "eval_loss": trainer.final_eval_loss(),
        "unigram_loss": unigram_loss(corpus.unigram_counts, held_out, eval_collator),
        "steps": sizes.steps,
        "tokens_seen": round(int(sizes.first_row[-1]) * float(lengths.mean())),
        "tokens_per_second": record.tokens_per_second,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops_per_token": cost(config, length, recipe.objective.asked_share).flops_per_token,
        "concepts": config.concepts_at(length),
        "sequence_length": length,
        "strict": model.model.decoder.strict,
        "checkpoint": str(resolve_checkpoint(training.output_dir).relative_to(training.output_dir)),
    }
    if trainer.is_world_process_zero():
        run.write_json("result.json", result)
    return result


def pretraining_config(recipe: PretrainRecipe, corpus: PreparedCorpus) -> ConceptEncoderConfig:
    """The model's configuration with what the tokenizer decides."""
    tokenizer = corpus.tokenizer
    size = padded_vocab_size(tokenizer)
    given = recipe.model.get("vocab_size")
    if given is not None and given < len(tokenizer):
        raise UserError(f"model.vocab_size: {given} is smaller than the tokenizer's {len(tokenizer)}; leave it out")
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "mask", "cls", "sep")}
    for name, own in special.items():
        if recipe.model.get(name, own) != own:
            raise UserError(f"model.{name}: {recipe.model[name]} is not the tokenizer's {own}; leave it out")
    return model_config(recipe.model, **{**recipe.model_defaults(), "vocab_size": size, **special})


def _held_out(corpus: PreparedCorpus, training: TrainingConfig) -> ExampleStream:
    rows = len(corpus.validation)
    return ExampleStream(corpus.validation, min(training.max_eval_rows or rows, rows), seed=None)
