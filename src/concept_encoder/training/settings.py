"""The recipe's section `training`, and its one translation to `transformers.TrainingArguments`."""

import math
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from concept_encoder.errors import UserError
from concept_encoder.training.schedule import FIRST, StepSizes, steps_for
from concept_encoder.training.sharding import adjust, sharding_options

SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup", "wsd": "warmup_stable_decay"}


@dataclass(frozen=True)
class TrainingConfig:
    """How a model learns.

    Attributes:
        output_dir: the run's folder.
        seed: of weights, order and masks.
        max_steps: optimiser steps; 0 means that `epochs` decides.
        epochs: passes over the data when `max_steps` is 0.
        batch_size: texts (or packed rows) in one optimiser step, over all devices.
        micro_batch_size: texts on one device at a time; None means all of `batch_size`. Accumulation follows from the
            two.
        batch_warmup: share of the steps in which the batch grows from an eighth of `batch_size`, doubling three times
            (see `training/schedule.py`); the learning rate does not follow.
        length_warmup: the same for the length of packed rows, which are cut into pieces of an eighth first.
        learning_rate: of AdamW, or of Muon's matrices when `optimizer` is muon.
        adamw_learning_rate: with muon, the rate for embeddings, norms and heads.
        weight_decay: on matrices and embeddings, not on norms and biases. 0.1 keeps Muon from diverging on concept
            models.
        warmup: share of the steps in which the rate rises.
        decay: with the schedule wsd, share of the steps at the end in which the rate falls.
        precision: `fp32`, or `bf16` (autocast).
        attention: the kernel; `varlen` (padded batches without padding, see model/kernels.py) needs CUDA and bf16, the
            flash ones also their packages, flex a GPU to train on.
        report_to: any of wandb, tensorboard, trackio, each an extra of the same name.
        eval_every, save_every: in steps; 0 means at the end only (fine-tuning evaluates after every epoch).
        log_every: in steps.
        keep_checkpoints: how many of the last checkpoints stay.
        max_eval_rows: held-out rows that one evaluation reads; 0 means all.
        patience: fine-tuning with `data.selection_fraction` stops after so many evaluations without a better one; None
            means that it runs to its end.
        threads: CPU threads; 0 leaves the choice to torch.
    """

    output_dir: Path
    seed: int = 0
    max_steps: int = 0
    epochs: float = 1.0
    batch_size: int = 64
    micro_batch_size: int | None = None
    batch_warmup: float = 0.0
    length_warmup: float = 0.0
    eval_batch_size: int = 64
    learning_rate: float = 3e-4
    adamw_learning_rate: float = 2e-4
    weight_decay: float = 0.01
    optimizer: Literal["adamw", "muon"] = "adamw"
    adam_beta2: float = 0.98
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup: float = 0.06
    decay: float = 0.2
    max_grad_norm: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    torch_compile: bool = False
    attention: Literal["sdpa", "varlen", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"] = "sdpa"
    eval_every: int = 0
    save_every: int = 0
    log_every: int = 10
    keep_checkpoints: int = 2
    max_eval_rows: int = 0
    patience: int | None = None
    num_workers: int = 0
    threads: int = 0
    report_to: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_batch_size", "log_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not positive")
        for name in ("max_steps", "eval_every", "save_every", "num_workers", "threads", "seed", "max_eval_rows"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience: {self.patience} is not positive; leave it out to train to the end")
        if not self.max_steps and not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs: {self.epochs} is not a positive number; give epochs or max_steps")
        for name in ("learning_rate", "adamw_learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)} is not a positive number")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay: {self.weight_decay} is not a number from 0 up")
        if not 0 <= self.adam_beta2 < 1:
            raise ValueError(f"adam_beta2: {self.adam_beta2} is not a share below 1; 0.98 is usual for encoders")
        if self.seed >= 2**32:
            raise ValueError(f"seed: {self.seed} is too large; give a number below 2**32")
        if self.threads > (os.cpu_count() or 1):
            raise ValueError(f"threads: {self.threads} is more than this machine's {os.cpu_count()} cores")
        if self.num_workers > 8 * (os.cpu_count() or 1):
            raise ValueError(f"num_workers: {self.num_workers} is more than 8 for each of {os.cpu_count()} cores")
        for name in ("warmup", "decay", "batch_warmup", "length_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not a share between 0 and 1")
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(f"decay: {self.decay} and warmup {self.warmup} are more than all steps; lower one of them")
        if self.batch_warmup and self.batch_size % FIRST:
            raise ValueError(
                f"batch_warmup: starts at batch_size / {FIRST}, but {self.batch_size} is no multiple of it"
            )
        if self.micro_batch_size is not None and (self.micro_batch_size < 1 or self.batch_size % self.micro_batch_size):
            raise ValueError(f"micro_batch_size: {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        unknown = set(self.report_to) - {"wandb", "tensorboard", "trackio"}
        if unknown:
            raise ValueError(f"report_to: {sorted(unknown)[0]!r} is not one of wandb, tensorboard, trackio")
        for name in self.report_to:
            if find_spec(name) is None:
                raise ValueError(f'report_to: {name} is not installed; pip install "concept-encoder[{name}]"')

    def steps(self, num_rows: int) -> int:
        """Optimiser steps of the whole run."""
        return self.max_steps or steps_for(self.epochs * num_rows, self.batch_size, self.batch_warmup)

    def sizes(self, num_rows: int) -> StepSizes:
        """What each of these steps reads."""
        return StepSizes(self.steps(num_rows), self.batch_size, self.batch_warmup, self.length_warmup)


def micro_batches(config: TrainingConfig, world_size: int) -> tuple[int, int]:
    """Texts of a micro-batch, and micro-batches of a step in each process. Raises `UserError` when they do not fit."""
    per_device, rest = divmod(config.batch_size, world_size)
    if rest:
        raise UserError(f"training.batch_size: {config.batch_size} is not divisible by {world_size} processes")
    micro = min(config.micro_batch_size or per_device, per_device)
    if per_device % micro:
        raise UserError(f"training.micro_batch_size: {micro} does not divide the {per_device} texts of a process")
    parts = world_size * (per_device // micro)
    if config.batch_warmup and config.batch_size // FIRST % parts:
        raise UserError(
            f"training.batch_warmup: the first steps read {config.batch_size // FIRST} rows, which {parts} "
            f"micro-batches cannot share; make batch_size a multiple of {FIRST * parts}"
        )
    return micro, per_device // micro


def training_arguments(config: TrainingConfig, steps: int, world_size: int = 1) -> TrainingArguments:
    """The one place where our settings become transformers' (whose names change; a test checks them)."""
    if world_size == 1 and torch.cuda.device_count() > 1:
        raise UserError(
            f"training: {torch.cuda.device_count()} GPUs are visible to one process; start with torchrun "
            f"--nproc-per-node {torch.cuda.device_count()} -m concept_encoder.cli.main …, or set CUDA_VISIBLE_DEVICES=0"
        )
    micro, accumulation = micro_batches(config, world_size)
    arguments = TrainingArguments(
        output_dir=str(config.output_dir / "checkpoints"),
        seed=config.seed,
        max_steps=steps,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=config.eval_batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type=SCHEDULERS[config.schedule],
        lr_scheduler_kwargs=_scheduler_options(config, steps),
        warmup_steps=round(config.warmup * steps),
        bf16=config.precision == "bf16",
        torch_compile=config.torch_compile,
        eval_strategy="steps",
        eval_steps=config.eval_every or steps,
        save_strategy="steps",
        save_steps=config.save_every or steps,
        logging_strategy="steps",
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        dataloader_num_workers=config.num_workers,
        dataloader_prefetch_factor=2 if config.num_workers else None,
        dataloader_persistent_workers=config.num_workers > 0,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        prediction_loss_only=True,
        label_names=["labels"],
        report_to=config.report_to or "none",
        disable_tqdm=True,  # our own progress line, see callbacks.py
        use_cpu=not torch.cuda.is_available(),
        **sharding_options(),
    )
    if arguments.fsdp:
        adjust(arguments)
    return arguments


def _scheduler_options(config: TrainingConfig, steps: int) -> dict[str, Any]:
    if config.schedule == "wsd":
        return {"num_decay_steps": round(config.decay * steps)}
    return {}
