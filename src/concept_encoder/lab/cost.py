"""What a plan will cost before it starts: hours of GPUs and CPU slots, and its critical path."""

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

from concept_encoder.errors import UserError
from concept_encoder.lab.engines.engine import Room
from concept_encoder.lab.plan import Plan
from concept_encoder.lab.runs import Run


@dataclass(frozen=True)
class PlanCost:
    """By the hours that the plan itself estimates.

    Attributes:
        critical_path: the experiments that follow each other longest, the runs of each all at once.
        critical_hours: of that path: no number of machines makes the plan shorter.
        hours: until the end, from the plan's total and the engine's room; not below the critical path.
    """

    runs: int
    gpu_hours: float
    cpu_hours: float
    critical_path: list[str]
    critical_hours: float
    hours: float


def cost(plan: Plan, runs: Sequence[Run], room: Room) -> PlanCost:
    """Add up the runs, each content once. Raises `UserError` for a run that nobody has the GPUs for."""
    unique = {run.id: run for run in runs}.values()
    for run in unique:
        asked = run.experiment.resources.gpus
        widest = room.widest if run.verb.takes_recipe else 0
        if room.gpus is not None and asked > max(widest, *room.gpus.values()):
            found = ", ".join(f"{host} has {gpus}" for host, gpus in room.gpus.items())
            raise UserError(
                f"{plan.file}: experiments.{run.experiment.id}.resources.gpus: {asked}, but {found}; "
                "ask for fewer, or give --gpus N or --on ENGINE for the machines it will run on "
                "(over several hosts: pretrain and finetune, on Ray, with shared: true in the hosts file)"
            )
    gpu_hours = sum(run.experiment.resources.hours * run.experiment.resources.gpus for run in unique)
    cpu_hours = sum(run.experiment.resources.hours for run in unique if not run.experiment.resources.gpus)
    path, critical = _critical_path(plan)
    hours = max(critical, cpu_hours / room.slots)
    if room.gpus is not None:
        hours = max(hours, gpu_hours / max(sum(room.gpus.values()), 1))
    return PlanCost(len(unique), gpu_hours, cpu_hours, path, critical, hours)


def _critical_path(plan: Plan) -> tuple[list[str], float]:
    by_id = plan.by_id
    longest: dict[str, tuple[float, list[str]]] = {}
    for name in TopologicalSorter({e.id: e.all_needs for e in plan.experiments}).static_order():
        before = max((longest[need] for need in by_id[name].all_needs), key=lambda found: found[0], default=(0.0, []))
        longest[name] = (before[0] + by_id[name].resources.hours, [*before[1], name])
    hours, path = max(longest.values(), key=lambda found: found[0])
    return path, hours
