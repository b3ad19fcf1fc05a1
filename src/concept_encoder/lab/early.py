"""Early decisions: what in the stream of a run's metrics is reason enough to stop it, and the sentence that says so."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Literal

from concept_encoder.errors import UserError
from concept_encoder.lab.gates import Gate

Record = Mapping[str, Any]  # a line of metrics.jsonl
_WINDOW = 5  # logs that are averaged, so that one odd batch decides nothing


@dataclass(frozen=True)
class EarlyStops:
    """The section `early` of an experiment. None switches a rule off.

    Attributes:
        nan: stop when a loss is NaN or infinite.
        divergence: stop when the training loss (mean of five logs) exceeds its best such mean by this factor.
        plateau_steps: stop when the held-out loss has not improved by `plateau_by` for so many steps. Off at first:
            masked language models with concepts stay at the unigram loss for long before they leave it.
        throughput: stop when tokens/s (median of five logs) fall below this share of the run's own median.
        budget: stop a run that takes longer than this factor times `resources.hours`.
        pruner: `median` or `halving`: stop what is hopeless against the other variants of the experiment with the same
            seed, by optuna's pruner of that name (`pip install "concept-encoder[prune]"`).
        pruner_steps: the pruner judges nothing before this step.
    """

    nan: bool = True
    divergence: float | None = 1.5
    plateau_steps: int | None = None
    plateau_by: float = 0.005
    throughput: float | None = 0.2
    budget: float | None = 2.0
    pruner: Literal["median", "halving"] | None = None
    pruner_steps: int = 1000

    def __post_init__(self) -> None:
        if self.divergence is not None and self.divergence <= 1:
            raise ValueError(f"divergence: {self.divergence} is not a factor above 1")
        for name in ("plateau_steps", "budget", "pruner_steps"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not positive")
        if self.plateau_by < 0:
            raise ValueError(f"plateau_by: {self.plateau_by} is negative")
        if self.throughput is not None and not 0 < self.throughput < 1:
            raise ValueError(f"throughput: {self.throughput} is not a share between 0 and 1")


def reason_to_stop(
    records: Sequence[Record], rules: EarlyStops, gates: Sequence[Gate], hours: float, hours_planned: float
) -> str | None:
    """Why a run should end now, in one sentence; None while it should go on.

    Args:
        records: its metrics so far, in order of steps.
        gates: those of the experiment with `stop if … after N steps`.
        hours: that the run has taken.
    """
    if rules.budget is not None and hours > rules.budget * hours_planned:
        return f"budget spent: {hours:.2f} h, {rules.budget:g} times the {hours_planned:g} h planned"
    losses = [(record["step"], record["loss"]) for record in records if _number(record, "loss")]
    held_out = [(record["step"], record["eval_loss"]) for record in records if _number(record, "eval_loss")]
    for step, value in [*losses, *held_out] if rules.nan else ():
        if not math.isfinite(value):
            return f"NaN: the loss is {value} at step {step}"
    for gate in gates:
        for record in records:
            if _number(record, gate.metric) and record["step"] >= (gate.after or 0) and gate.holds(record[gate.metric]):
                return f"gate: {gate.metric} is {record[gate.metric]:.4g} at step {record['step']} (stop if {gate})"
    return _diverged(losses, rules) or _plateau(held_out, rules) or _slow(records, rules)


def _diverged(losses: Sequence[tuple[int, float]], rules: EarlyStops) -> str | None:
    if rules.divergence is None or len(losses) < 2 * _WINDOW:
        return None
    means = [fmean(loss for _, loss in losses[i : i + _WINDOW]) for i in range(len(losses) - _WINDOW + 1)]
    best = min(means)
    if best > 0 and means[-1] > rules.divergence * best:
        factor = means[-1] / best
        return f"divergence: loss {means[-1]:.3f} at step {losses[-1][0]}, {factor:.2f} times its best {best:.3f}"
    return None


def _plateau(held_out: Sequence[tuple[int, float]], rules: EarlyStops) -> str | None:
    if rules.plateau_steps is None or not held_out:
        return None
    best_step, best = held_out[0]
    for step, value in held_out:
        if value < best - rules.plateau_by:
            best_step, best = step, value
    last = held_out[-1][0]
    if last - best_step >= rules.plateau_steps:
        return (
            f"plateau: the held-out loss has not fallen by {rules.plateau_by:g} below {best:.4f} since step {best_step}"
        )
    return None


def _slow(records: Sequence[Record], rules: EarlyStops) -> str | None:
    rates = [record["tokens_per_second"] for record in records if _number(record, "tokens_per_second")]
    if rules.throughput is None or len(rates) < 3 * _WINDOW:
        return None
    usual, now = median(rates), median(rates[-_WINDOW:])
    if now < rules.throughput * usual:
        return f"throughput collapse: {now:,.0f} tokens/s, usual for this run are {usual:,.0f}"
    return None


def hopeless(records: Sequence[Record], others: Sequence[Sequence[Record]], rules: EarlyStops) -> str | None:
    """Why a run is hopeless against others at the same step, by optuna's pruner; None when it is not.

    Args:
        others: the metrics of the experiment's other variants with the same seed, finished or not.
    """
    own = _held_out(records)
    if rules.pruner is None or not own or max(own) < rules.pruner_steps or not others:
        return None
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    step = max(own)
    values = [found for found in map(_held_out, others) if found and max(found) >= step]
    study = optuna.create_study(direction="minimize")
    for found in values:
        until = {at: value for at, value in found.items() if at <= step}
        finished = optuna.create_trial(value=min(until.values(), default=math.inf), intermediate_values=until)
        if until:
            study.add_trial(finished)
    if rules.pruner == "median":
        pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=rules.pruner_steps)
        trial = optuna.create_trial(value=min(own.values()), intermediate_values=own)
        if not pruner.prune(study, trial):
            return None
    elif not _halved_away(optuna, study, values, own, rules.pruner_steps):
        return None
    best = min((min(found.values()) for found in values), default=math.nan)
    return (
        f"hopeless ({rules.pruner} pruner): held-out loss {own[step]:.4f} at step {step}, the best other has {best:.4f}"
    )


def _halved_away(
    optuna: Any, study: Any, values: Sequence[Mapping[int, float]], own: Mapping[int, float], first: int
) -> bool:
    """Successive halving at rungs `first`, 2 `first`, 4 `first` …: is the run in the worse half at one of them?"""
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=2)
    study = optuna.create_study(direction="minimize", pruner=pruner)
    pruned = False
    for found in [*values, own]:
        trial, pruned = study.ask(), False
        for step in sorted(found):
            trial.report(found[step], step)
            if trial.should_prune():
                pruned = True
                break
    return pruned


def import_optuna() -> Any:
    """optuna, or a `UserError` that says how to install it."""
    try:
        import optuna
    except ImportError:
        raise UserError('early.pruner: optuna is not installed; pip install "concept-encoder[prune]"') from None
    return optuna


def _held_out(records: Sequence[Record]) -> dict[int, float]:
    return {record["step"]: record["eval_loss"] for record in records if _number(record, "eval_loss")}


def _number(record: Record, name: str) -> bool:
    return isinstance(record.get(name), int | float) and "step" in record
