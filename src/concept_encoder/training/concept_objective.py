"""Training with a concept loss beside the task: the sum of the two, what each does to the concepts, and the guard.

Both losses pass through the last concepts, so that is where their gradients are compared. The task has one there too: a
model whose last concepts neither the decoder nor a later move reads is refused (`model/compatibility.py`). Where tokens
hear concepts earlier as well (`woven`), what the task says there is not counted.

Nothing is differentiated twice: the concept loss reads an alias of the concepts. After the one backward pass the alias
holds the gradient of the concept loss alone, the concepts hold that of both, and the difference is the task's.

What the share can say: who moves the concepts now. At first the concept loss leads whatever becomes of the run, longest
where tokens hear concepts early; then the task's share rises, to 0.6 and more in runs that took no harm, while it stays
low or falls again where learned weights run away. So the guard speaks of a share that is below its floor and no longer
rises. Where training has come to rest the two gradients balance at one half, so a floor lies below that. And a task
that holds the larger share can still pay for the concept loss: compare held-out losses. LOG.md has the numbers.
"""

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from concept_encoder.errors import UserError
from concept_encoder.model.heads import ConceptEncoderForMaskedLM
from concept_encoder.model.streams import Streams
from concept_encoder.objectives.concept_losses import CONCEPT_LOSSES
from concept_encoder.objectives.masked_lm import ObjectiveConfig
from concept_encoder.objectives.weighting import WEIGHTINGS, Seen, effective_rank_share
from concept_encoder.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

FILE = "concept_objective.safetensors"
WINDOW = 100  # steps over which the task's share is averaged before it is judged, beside those before them


class ConceptObjective(nn.Module):
    """The task loss and a concept loss as one number, and the record of both.

    `attach` it to a model once. One micro-batch: `total` after the forward pass, `after_backward`. One optimiser step:
    `finish_step`. All that must survive a restart is in the buffers.

    Args:
        objective: a section with a `concept_loss`.
        measure: whether gradients can be compared: not inside a compiled model.
    """

    def __init__(self, objective: ObjectiveConfig, measure: bool = True):
        super().__init__()
        self.objective, self.measure = objective, measure
        self.concept_loss = CONCEPT_LOSSES[objective.concept_loss]()
        weighting = WEIGHTINGS[objective.loss_weighting]
        self.weighting = weighting(objective.concept_loss_weight, objective.rank_target)
        self.register_buffer("window_share", torch.tensor(0.0))  # of the window that is running, summed
        self.register_buffer("last_share", torch.tensor(0.0))  # mean of the window before
        self.register_buffer("steps_seen", torch.tensor(0))
        self.register_buffer("warned", torch.tensor(False))
        self.latest: dict[str, float] = {}
        self._start_step()

    def attach(self, model: ConceptEncoderForMaskedLM) -> None:
        """Keep an eye on the concepts that leave the encoder, at the door of the decoder.

        A hook rather than an output of the model: wrappers (DDP, autocast) hand out copies of outputs, which no longer
        stand between the task loss and the encoder.
        """
        model.model.decoder.register_forward_pre_hook(self._watch)

    def _watch(self, decoder: nn.Module, arguments: tuple[Streams, ...]) -> None:
        if torch.is_grad_enabled():
            self._z_BCD, self._mask_BC = arguments[0].z_BCD, arguments[0].z_mask_BC

    def total(self, task_loss: Tensor, parts: int) -> Tensor:
        """What to differentiate for one of `parts` micro-batches.

        Args:
            task_loss: the micro-batch's part of the task loss: the parts add up to the loss of the whole batch.
        """
        self._alias_BCD = self._z_BCD.view_as(self._z_BCD)
        if self.measure:
            self._z_BCD.retain_grad()
            self._alias_BCD.retain_grad()
        concept_loss = self.concept_loss(self._alias_BCD, self._mask_BC)
        self._loss_2 = self._loss_2 + torch.stack([task_loss, concept_loss / parts]).detach()
        if self.weighting.needs_rank:
            share = effective_rank_share(self._z_BCD.detach(), self._mask_BC)
            self._rank_share = self._rank_share + share / parts
        return self.weighting(task_loss * parts, concept_loss) / parts

    def after_backward(self) -> None:
        """Take down the gradients of a micro-batch. Its concepts are others than the last one's: squares add up."""
        if self.measure:
            concept_BCD = self._alias_BCD.grad.float()
            task_BCD = self._z_BCD.grad.float() - concept_BCD
            squares_2 = torch.stack([task_BCD.square().sum(), concept_BCD.square().sum()])
            self._square_2 = self._square_2 + squares_2
        self._z_BCD = self._mask_BC = self._alias_BCD = None

    @torch.no_grad()
    def finish_step(self) -> dict[str, float]:
        """Update the weights by what the step has shown; returns the record for metrics.jsonl."""
        weights_2 = self.weighting.weights().clone()
        seen = Seen(
            loss_2=_mean_over_devices(self._loss_2),
            grad_2=_mean_over_devices(self._square_2).sqrt() if self.measure else None,
            rank_share=_mean_over_devices(self._rank_share) if self.weighting.needs_rank else None,
        )
        self.weighting.update(seen)
        record = {"task_loss": seen.loss_2[0], "concept_loss": seen.loss_2[1]}
        record |= {"task_weight": weights_2[0], "concept_weight": weights_2[1]}
        if self.measure:
            both = seen.grad_2.sum()
            share = torch.where(both > 0, seen.grad_2[0] / both, 1.0)
            self.steps_seen += 1
            self.window_share += share
            record["task_grad_share"] = share
        if seen.rank_share is not None:
            record["rank_share"] = seen.rank_share
        self._start_step()
        self.latest = {name: float(value) for name, value in record.items()}
        return self.latest

    def _start_step(self) -> None:
        self._loss_2: Tensor | float = 0.0  # sums over micro-batches: of losses, of squared gradients, of rank shares
        self._square_2: Tensor | float = 0.0
        self._rank_share: Tensor | float = 0.0

    def low_share(self, step: int) -> str | None:
        """What to say, once, when a window ends in which the task's share was below the floor and did not rise."""
        if self.steps_seen == 0 or self.steps_seen % WINDOW:
            return None
        share, before = float(self.window_share) / WINDOW, float(self.last_share)
        self.last_share.fill_(share)
        self.window_share.zero_()
        objective = self.objective
        if self.warned or not (share < objective.task_share_floor and share <= before):
            return None
        self.warned.fill_(objective.on_low_task_share == "warn")
        return (
            f"objective.task_share_floor: at step {step} the masked-LM loss holds {share:.1%} of the gradient at the "
            f"concepts and no longer gains (mean of {WINDOW} steps, {before:.1%} before, floor "
            f"{objective.task_share_floor:.1%}), the concept loss {objective.concept_loss!r} the rest; lower "
            "objective.concept_loss_weight or use objective.loss_weighting=constraint"
        )

    def save(self, folder: Path) -> None:
        """Write the state beside the model's weights."""
        save_file(self.state_dict(), folder / FILE)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises `UserError` when it is missing or damaged."""
        try:
            self.load_state_dict(load_file(folder / FILE))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{folder / FILE}: not readable ({reason}); delete this checkpoint to go on") from None
        self._start_step()


class ConceptObjectiveCallback(TrainerCallback):
    """After every step: the weights move, the record is written, the guard looks."""

    def __init__(self, objective: ConceptObjective, run: RunFolder):
        self.objective, self.run = objective, run

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        record, low = self.objective.finish_step(), self.objective.low_share(state.global_step)
        stop = low is not None and self.objective.objective.on_low_task_share == "stop"
        if state.is_world_process_zero and (stop or not control.should_log):  # else the trainer's own record has it
            self.run.append_metrics({"step": state.global_step, **record})
        if stop:
            raise UserError(low)
        if low is not None and state.is_world_process_zero:
            logger.warning(low)


def _mean_over_devices(value: Tensor) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        value = value / torch.distributed.get_world_size()
    return value
