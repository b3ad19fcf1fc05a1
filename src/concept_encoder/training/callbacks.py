"""What happens beside the training loop: the record of metrics and the progress line."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from concept_encoder.training.run_folder import RunFolder
from concept_encoder.training.schedule import StepSizes

console = Console(stderr=True)


class RecordCallback(TrainerCallback):
    """Appends every log of the trainer to the run's metrics.jsonl, with the tokens per second since the last one.

    The loader's time counts, time spent in evaluation and in saving does not.
    """

    def __init__(self, run: RunFolder, sizes: StepSizes, row_length: float | None):
        self.run, self.sizes, self.row_length = run, sizes, row_length
        self.seconds, self.rows, self.started = 0.0, 0, 0.0
        self.rates: list[float] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self._count()
        self.rows += self.sizes.rows(state.global_step - 1)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self.started = time.perf_counter()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self.started = time.perf_counter()

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds, self.started = self.seconds + now - self.started, now

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict | None = None,
        **_: object,
    ) -> None:
        if not state.is_world_process_zero or logs is None or "train_runtime" in logs:
            return
        if "loss" in logs:
            self._count()  # the trainer has just waited for the device to finish these steps
        kept = {name: value for name, value in logs.items() if not name.endswith(("_runtime", "_per_second"))}
        if "loss" in kept and self.row_length and self.seconds:
            self.rates.append(self.row_length * self.rows / self.seconds)
            kept["tokens_per_second"] = round(self.rates[-1], 1)
            self.seconds, self.rows = 0.0, 0
        kept.pop("epoch", None)  # the whole run is one stream, see stream.py
        self.run.append_metrics({"step": state.global_step, **kept})

    @property
    def tokens_per_second(self) -> float | None:
        """Median over the logs, the first (warm-up) left out."""
        rates = sorted(self.rates[1:] or self.rates)
        return rates[len(rates) // 2] if rates else None


class ProgressCallback(TrainerCallback):
    """A progress bar in a terminal, a line every tenth of the run elsewhere."""

    def __init__(self, title: str):
        self.title, self.latest = title, ""
        self.bar: Progress | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if not state.is_world_process_zero:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
        )
        self.bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task(self.title, total=state.max_steps, completed=state.global_step, loss="")
        self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self.bar is None:
            return
        self.bar.update(self.task, completed=state.global_step)
        if not console.is_terminal and state.global_step % max(state.max_steps // 10, 1) == 0:
            console.print(f"{self.title}: step {state.global_step}/{state.max_steps} {self.latest}", highlight=False)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict | None = None,
        **_: object,
    ) -> None:
        if self.bar is not None and logs and "loss" in logs:
            self.latest = f"loss {float(logs['loss']):.3f}"
            self.bar.update(self.task, loss=self.latest)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
