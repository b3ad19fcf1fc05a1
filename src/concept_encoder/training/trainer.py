"""The one `transformers.Trainer` subclass: our order of examples, our optimisers, checkpoints whole or absent."""

import errno
import inspect
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, set_seed
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import rotate_checkpoints

from concept_encoder.errors import UserError
from concept_encoder.model.loading import list_checkpoints
from concept_encoder.model.losses import IGNORE
from concept_encoder.training import sharding
from concept_encoder.training.callbacks import ProgressCallback, RecordCallback
from concept_encoder.training.concept_objective import ConceptObjective, ConceptObjectiveCallback
from concept_encoder.training.optimizers import make_optimizer
from concept_encoder.training.run_folder import RunFolder
from concept_encoder.training.schedule import MicroBatches, StepSizes
from concept_encoder.training.selection import EarlyStop, Selection, log_of
from concept_encoder.training.settings import TrainingConfig, micro_batches, training_arguments

_NO_SPACE = ("No space left", "PytorchStreamWriter failed", "inline_container", "os error 28")


class ConceptTrainer(Trainer):
    """Trains on an `ExampleStream` from first to last; resuming repeats not a single example.

    Args:
        sizes: what each step reads.
        eval_collator: collates held-out rows (with masks that no run's seed changes).
        model_card: text of the README.md written with every checkpoint, given the trainer's state.
        concept_objective: adds a concept loss to the loss of training steps; evaluation stays with the task's.
        selection: scores every evaluation and keeps the best checkpoint beside the last ones.
    """

    def __init__(
        self,
        *args: Any,
        config: TrainingConfig,
        sizes: StepSizes,
        eval_collator: Callable[[list], dict],
        model_card: Callable[[Any], str],
        concept_objective: ConceptObjective | None = None,
        selection: Selection | None = None,
        **kwargs: Any,
    ):
        self.config, self.sizes, self.eval_collator, self.model_card = config, sizes, eval_collator, model_card
        self.concept_objective, self.selection = concept_objective, selection
        self._saving = config.output_dir / "checkpoints" / ".saving"
        super().__init__(*args, **kwargs)
        # Trap: with **kwargs in a model's forward the Trainer guesses; ours says it in its signature.
        self.model_accepts_loss_kwargs = "num_items_in_batch" in inspect.signature(self.model.forward).parameters
        if concept_objective is not None:
            concept_objective.to(self.args.device).attach(self.model)

    def get_train_dataloader(self) -> DataLoader:
        """Every process reads its own part of each step; resuming skips what was read."""
        args = self.args
        return DataLoader(
            self.train_dataset,
            batch_sampler=MicroBatches(
                self.sizes, args.gradient_accumulation_steps, args.world_size, args.process_index
            ),
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            persistent_workers=args.dataloader_persistent_workers,
            pin_memory=args.dataloader_pin_memory,
        )

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.model if model is None else model, self.config)
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self.concept_objective is None or not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        task_loss = super().compute_loss(model, inputs, *args, **kwargs)
        return self.concept_objective.total(task_loss, self.current_gradient_accumulation_steps)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.concept_objective is not None:
            self.concept_objective.after_backward()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.concept_objective is not None and "loss" in logs:
            logs = {**logs, **self.concept_objective.latest}
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The held-out loss: the mean over labels, the same for any number of processes (each reads all rows)."""
        model = self.model if self.model_wrapped is None else self.model_wrapped
        model.eval()
        total = count = 0.0
        loader = DataLoader(self.eval_dataset, self.args.per_device_eval_batch_size, collate_fn=self.eval_collator)
        with torch.no_grad(), self.compute_loss_context_manager():
            for batch in loader:
                batch = self._prepare_inputs(batch)
                asked = int((batch["labels"] != IGNORE).sum())
                total, count = total + float(model(**batch).loss) * asked, count + asked
        metrics = {"eval_loss": total / count}
        if self.selection is not None:
            scores = self.selection.score(self.model)
            metrics |= {f"eval_{name}": value for name, value in scores.items() if value is not None}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager:
        """Autocast around the loss of a sharded model; accelerate puts it around the forward pass of the others."""
        if self.is_fsdp_enabled:
            return self.accelerator.autocast()
        return super().autocast_smart_context_manager(cache_enabled)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            sharding.load_weights(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        sharding.save_optimizer(self.optimizer.optimizer, Path(output_dir), self.args.should_save)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        sharding.load_optimizer(self.optimizer.optimizer, Path(checkpoint))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def final_eval_loss(self) -> float:
        """The held-out loss of the final weights, evaluated now unless the last step did it."""
        last = next((entry for entry in reversed(self.state.log_history) if "eval_loss" in entry), None)
        if last is not None and last["step"] == self.state.global_step:
            return last["eval_loss"]
        return self.evaluate()["eval_loss"]

    def _get_output_dir(self, trial: object) -> str:
        return str(self._saving)

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        """Write the checkpoint aside and rename it when complete: a kill or a full disk leaves the last one valid."""
        name = f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                (self._saving / name / "README.md").write_text(self.model_card(self.state), encoding="utf-8")
                if self.concept_objective is not None:
                    self.concept_objective.save(self._saving / name)
        except Exception as error:
            shutil.rmtree(self._saving, ignore_errors=True)
            if getattr(error, "errno", None) == errno.ENOSPC or any(text in str(error) for text in _NO_SPACE):
                raise UserError(
                    f"training.output_dir: no space left in {self.config.output_dir} while saving {name}; "
                    "free some and run the same command again, earlier checkpoints are whole"
                ) from error

            raise
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            final = self._saving.parent / name
            shutil.rmtree(final, ignore_errors=True)
            os.replace(self._saving / name, final)
            shutil.rmtree(self._saving)
            best = None
            if self.selection is not None:
                best = str(self.selection.best_checkpoint(self.config.output_dir, self.state.log_history))
            rotate_checkpoints(str(final.parent), self.config.keep_checkpoints, best_model_checkpoint=best)
        self.accelerator.wait_for_everyone()


def run_trainer(
    model: nn.Module,
    run: RunFolder,
    config: TrainingConfig,
    sizes: StepSizes,
    title: str,
    row_length: float | None = None,
    **trainer_options: Any,
) -> tuple[ConceptTrainer, RecordCallback]:
    """Train to the end, from the last checkpoint if the run has one. Returns the trainer and the record of rates.

    Args:
        row_length: tokens of a row, in the mean; without it no rate is recorded.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    arguments = training_arguments(config, sizes.steps, world_size)
    record = RecordCallback(run, sizes, row_length)
    callbacks = [record, ProgressCallback(title)]
    trainer = ConceptTrainer(
        model=model, args=arguments, config=config, sizes=sizes, callbacks=callbacks, **trainer_options
    )
    trainer.remove_callback(PrinterCallback)
    shutil.rmtree(config.output_dir / "checkpoints" / ".saving", ignore_errors=True)
    checkpoints = list_checkpoints(config.output_dir)
    if trainer.concept_objective is not None:
        trainer.add_callback(ConceptObjectiveCallback(trainer.concept_objective, run))
        if checkpoints:
            trainer.concept_objective.load(checkpoints[-1])
    set_seed(config.seed)
    if trainer.selection is not None:
        trainer.add_callback(EarlyStop(trainer.selection))
        if trainer.selection.is_over(log_of(checkpoints)):
            return trainer, record
    trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
    return trainer, record


def prepare_kernels(model: PreTrainedModel, config: TrainingConfig) -> None:
    """Let the model attend with the kernel that is asked for, before anything is written.

    Raises:
        UserError: the machine does not have it, or the batch cannot be shared as asked.
    """
    micro_batches(config, int(os.environ.get("WORLD_SIZE", "1")))
    sharding.check_devices()
    name, cuda = config.attention, torch.cuda.is_available()
    if name in ("varlen", "flex_attention") and not cuda:
        raise UserError(f"training.attention: {name!r} trains on a GPU only; use sdpa")
    if name == "varlen" and config.precision != "bf16":
        raise UserError("training.attention: 'varlen' needs training.precision=bf16; set it, or use sdpa")
    try:
        model.set_attn_implementation(name)
    except (ImportError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"training.attention: {name!r} cannot run here ({reason}); use sdpa") from None
