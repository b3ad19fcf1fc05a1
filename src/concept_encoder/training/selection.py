"""Which checkpoint of a fine-tuning run is kept, and when it may stop: decided on a part cut from the training side.

`load_best_model_at_end` and `EarlyStoppingCallback` of transformers keep a counter and a path; here both are read from
the log inside the checkpoints, which are renamed when they are whole, so that a run killed at any moment ends with the
same weights. Of equal scores, which small parts often give, the lower loss decides.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from concept_encoder.model.loading import list_checkpoints

Log = Sequence[dict[str, Any]]  # what the trainer logged, a dictionary a log
Scores = dict[str, float | None]


@dataclass(frozen=True)
class Selection:
    """The rule.

    Attributes:
        metric: what is to be high.
        score: all metrics of a model on the selection part; empty when it answers nothing finite.
        patience: evaluations without a better one, after which training stops; None never stops it.
    """

    metric: str
    score: Callable[[nn.Module], Scores]
    patience: int | None = None

    def best(self, log: Log) -> dict[str, Any]:
        """The evaluation with the highest score, of equals that with the lowest loss, of those the first.

        An undefined score is below all others.
        """
        return max(_evaluations(log), key=self._rank)

    def is_over(self, log: Log) -> bool:
        """Whether the last `patience` evaluations were no better than an earlier one."""
        found = _evaluations(log)
        return self.patience is not None and bool(found) and len(found) - found.index(self.best(log)) > self.patience

    def best_checkpoint(self, run: Path, log: Log) -> Path:
        """The checkpoint of the best evaluation; it was saved right after it."""
        return run / "checkpoints" / f"checkpoint-{self.best(log)['step']}"

    def summary(self, log: Log) -> dict[str, Any]:
        """What `result.json` says of the choice."""
        best = self.best(log)
        scores = {name.removeprefix("eval_"): value for name, value in best.items() if name.startswith("eval_")}
        loss = scores.pop("loss")
        return {
            "metric": self.metric,
            "step": best["step"],
            "stopped_at": _evaluations(log)[-1]["step"],
            "loss": loss,
            "scores": scores,
        }

    def _rank(self, entry: dict[str, Any]) -> tuple[float, float]:
        score, loss = entry.get(f"eval_{self.metric}"), entry["eval_loss"]
        return -math.inf if score is None else score, -loss if math.isfinite(loss) else -math.inf


class EarlyStop(TrainerCallback):
    """Ends the training when the selection says so."""

    def __init__(self, selection: Selection):
        self.selection = selection

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self.selection.is_over(state.log_history):
            control.should_training_stop = True


def log_of(checkpoints: Sequence[Path]) -> Log:
    """What was logged up to the last of these checkpoints."""
    return TrainerState.load_from_json(str(checkpoints[-1] / "trainer_state.json")).log_history if checkpoints else []


def drop_later_checkpoints(best: Path) -> None:
    """Leave the best checkpoint the last one, which is the one that a run's folder stands for.

    The latest go first: a run killed here goes on from what is left and comes to the same end.
    """
    later = list_checkpoints(best.parents[1])
    for checkpoint in reversed(later[later.index(best) + 1 :]):
        shutil.rmtree(checkpoint)


def _evaluations(log: Log) -> list[dict[str, Any]]:
    return [entry for entry in log if "eval_loss" in entry]
