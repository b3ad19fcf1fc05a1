"""May a run start: now, later, or never? The runs that it reads, the experiments that it needs and their gates say."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from concept_encoder.lab.results import Metrics, judge_gates, observe
from concept_encoder.lab.runs import Run
from concept_encoder.lab.store import State

Verdict = tuple[Literal["now", "later", "never"], str]
_NOW: Verdict = ("now", "")


class Readiness:
    """Answers for one session, in which a final state stays final.

    Args:
        states: by run; kept up to date by the scheduler.
        metrics: the numbers of a finished run.
    """

    def __init__(self, runs: Sequence[Run], states: Mapping[str, State], metrics: Callable[[Run], Metrics | None]):
        self.states, self.metrics = states, metrics
        self._runs: dict[str, list[Run]] = {}
        self._same: dict[str, list[Run]] = {}  # experiments may share a run: it may start when it may for one of them
        for run in runs:
            self._runs.setdefault(run.experiment.id, []).append(run)
            self._same.setdefault(run.id, []).append(run)
        self._ended: dict[str, int] = {}  # how many runs of an experiment, in order, are known to have ended
        self._verdicts: dict[str, Verdict] = {}

    def of(self, run: Run) -> Verdict:
        """Whether the run may start, and why not."""
        verdicts = [self._of(same) for same in self._same[run.id]]
        return min(verdicts, key=lambda verdict: ("now", "later", "never").index(verdict[0]))

    def _of(self, run: Run) -> Verdict:
        for field, id in run.inputs.items():
            needed = self.states[id]
            if needed.state in ("failed", "stopped", "skipped"):
                return "never", f"{field} needs {needed.name}, which was {needed.state}"
        if any(self.states[id].state != "done" for id in run.inputs.values()):
            return "later", ""
        for experiment in run.experiment.all_needs:
            verdict = self._experiment(experiment, ordered=experiment in run.experiment.needs)
            if verdict != _NOW:
                return verdict
        return _NOW

    def _experiment(self, name: str, ordered: bool) -> Verdict:
        """Is the way past it open? When its runs are only read and no gate judges it, it need not have ended."""
        runs = self._runs[name]
        gated = any(gate.after is None for _, gate in runs[0].experiment.gate_list())
        if not ordered and not gated:
            return _NOW
        if name not in self._verdicts:
            ended = self._ended.get(name, 0)
            while ended < len(runs) and self.states[runs[ended].id].final:
                ended += 1
            self._ended[name] = ended
            if ended < len(runs):
                return "later", ""
            self._verdicts[name] = self._judge(name, runs)
        return self._verdicts[name]

    def _judge(self, name: str, runs: Sequence[Run]) -> Verdict:
        done = [run for run in runs if self.states[run.id].state == "done"]
        if not done:
            return "never", f"it needs {name}, of which no run was done"
        verdicts = judge_gates(runs[0].experiment, observe(done, self.metrics))
        closed = next((verdict for verdict in verdicts if not verdict.opens), None)
        return _NOW if closed is None else ("never", f"the gate of {name}: {closed.why}")
