"""The scheduler: looks at what runs, concludes what ended, starts what is ready. One `tick` after the other.

Its memory is the store: it may be killed between any two lines and started again.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from concept_encoder.lab.early import hopeless, reason_to_stop
from concept_encoder.lab.engines.engine import Engine, Job, JobStatus, NotNow
from concept_encoder.lab.failures import FULL, diagnose, is_full, verdict
from concept_encoder.lab.metrics import metrics_of
from concept_encoder.lab.progress import MetricsTail, figures, steps_in_log
from concept_encoder.lab.readiness import Readiness
from concept_encoder.lab.runs import Run
from concept_encoder.lab.store import FINAL, State, Store
from concept_encoder.lab.verbs import PROGRAM, VERBS, command_line, read_result


class Scheduler:
    """Brings the runs of a plan to an end. The caller holds the store's lock.

    Args:
        retry: start failed and stopped runs anew.
        program: the words before the verb; None is this package's own command.
        tell: is called with a line about every change.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        store: Store,
        engine: Engine,
        retry: bool = False,
        program: Sequence[str] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ):
        self.store, self.engine, self.program, self.tell = store, engine, program or PROGRAM, tell
        unique: dict[str, Run] = {}
        for run in sorted(runs, key=lambda run: run.experiment.priority):  # stable: else the order of the plan
            unique.setdefault(run.id, run)
        self.runs, self._rank = unique, {id: place for place, id in enumerate(unique)}
        self._adopt_started()
        store.set_plan([self._planned(run) for run in runs])
        self.states = {state.id: state for state in store.states()}
        self.tails: dict[str, MetricsTail] = {}
        self._judged: dict[str, int] = {}  # how far into its metrics a run was judged
        self.halted = ""  # why nothing new starts
        again = ("skipped", "failed", "stopped") if retry else ("skipped",)
        for state in self.states.values():
            if state.state in again:
                anew = {"failures": {}, "since": time.time(), "spent": state.seconds}
                forgiven = anew if state.state != "skipped" else {}
                store.move(state, "waiting", "", **forgiven)
        self._experiments = {run.experiment.id: run.experiment for run in runs}
        self.readiness = Readiness(runs, self.states, self.metrics)
        self._waiting = [id for id in unique if self.states[id].state == "waiting"]
        self._running = [id for id in unique if self.states[id].state == "running"]
        self._left_over = {state.id: state for state in store.left_over()}
        self._before = set(self._running)  # what may have ended before this client started

    def run(self, every: float = 0.5, after: Callable[[], None] = lambda: None) -> None:
        """Tick until nothing is left to do; `after` is called after every tick."""
        while self.tick():
            after()
            time.sleep(every)
        after()

    def tick(self) -> bool:
        """One round. False when nothing runs and nothing can start."""
        for id in self.store.requests():
            self._stop_on_request(id)
        self._left_over = {id: state for id, state in self._left_over.items() if not self._left_over_ended(state)}
        for id in self._running:
            self._look_at(self.runs[id], self.states[id])
        retried = [id for id in self._running if self.states[id].state == "waiting"]
        self._running = [id for id in self._running if self.states[id].state == "running"]
        self._waiting = sorted([*self._waiting, *retried], key=self._rank.__getitem__)
        if not self.halted:
            self._start_what_is_ready()
        return bool(self._running or self._left_over) or (bool(self._waiting) and not self.halted)

    @property
    def stopping(self) -> bool:
        """Whether a run is being stopped, and goes on as yet."""
        return any(state.stopping for state in (*self.states.values(), *self._left_over.values()))

    def metrics(self, run: Run) -> Mapping[str, float] | None:
        """The numbers of a finished run."""
        result = read_result(run.verb, Path(self.states[run.id].folder))
        return None if result is None else metrics_of(run.verb, result)

    def job(self, run: Run, attempt: int) -> Job:
        """An attempt at a run, counted from 1."""
        state, gpus, there = self.states[run.id], run.experiment.resources.gpus, self.engine.there
        output, folder = Path(state.folder).resolve(), self.store.attempt_folder(state, attempt).resolve()
        inputs = {id: Path(self.states[id].folder).resolve() for id in run.inputs.values()}
        sections = run.resolved({id: there(path) for id, path in inputs.items()}, state.changes)
        command = command_line(run.verb, sections, there(folder) / "recipe.yaml", there(output), gpus, self.program)
        recipe = yaml.safe_dump(sections, sort_keys=False, allow_unicode=True) if run.verb.takes_recipe else None
        files, hours = {} if recipe is None else {"recipe.yaml": recipe}, run.experiment.most_hours
        return Job(folder, command, output, gpus, files=files, inputs=tuple(inputs.values()), hours=hours)

    def _planned(self, run: Run) -> State:
        steps = (run.sections.get("training") or {}).get("max_steps") or None
        gpus = run.experiment.resources.gpus
        return State(run.id, run.name, run.experiment.id, folder=run.folder_name, gpus=gpus, steps=steps)

    def _bare_job(self, state: State, attempt: int) -> Job:
        """As much of an attempt as an engine needs to find it."""
        folder = self.store.attempt_folder(state, attempt).resolve()
        return Job(folder, (), Path(state.folder).resolve(), state.gpus)

    def _adopt_started(self) -> None:
        """What a client has started and died before it could say so: engines write job.json before they start a job."""
        for state in self.store.states():
            job = self._bare_job(state, state.attempt + 1)
            found = state.state == "waiting" and (job.folder / "job.json").exists()
            if found and self.engine.status(job).state != "lost":
                self.store.move(state, "running", "", attempt=state.attempt + 1, started=time.time(), ended=None)

    def _start_what_is_ready(self) -> None:
        full: set[bool] = set()  # has the pool of GPUs (True), of CPU slots (False) no room?
        for id in self._waiting:
            run, state = self.runs[id], self.states[id]
            pool = run.experiment.resources.gpus > 0
            if pool in full or self.halted:  # what waits for room goes before what comes later, however small that is
                continue
            verdict, reason = self.readiness.of(run)
            if verdict == "never":
                self._conclude(run, state, "skipped", reason)
            elif verdict == "now" and not self._start(run, state):
                full.add(pool)
        self._waiting = [id for id in self._waiting if self.states[id].state == "waiting"]

    def _start(self, run: Run, state: State) -> bool:
        """Start a run, unless it waits for something of its own; False when the engine has no room for it."""
        if read_result(run.verb, Path(state.folder)) is not None:
            self._conclude(run, state, "done", "its result was there")
            return True
        job = self.job(run, state.attempt + 1)
        try:
            if not self.engine.submit(job):
                return False
        except NotNow as error:
            if state.reason != str(error):
                self.store.mark(state, reason=str(error))
                self.tell(f"waiting  {state.name}: {error}")
            return True
        self.store.move(state, "running", "", attempt=state.attempt + 1, stopping="", started=time.time(), ended=None)
        self._running.append(run.id)
        self.tails.pop(run.id, None)  # another host may begin its metrics anew
        self.tell(f"start    {state.name}" + (f" (attempt {state.attempt})" if state.attempt > 1 else ""))
        return True

    def _left_over_ended(self, state: State) -> bool:
        """See a run to its end that an edited plan no longer has; it keeps its slot until then."""
        job = self._bare_job(state, state.attempt)
        status = self.engine.status(job)
        self.engine.fetch(job)
        if status.going:
            spent, planned = None, self._experiments.get(state.experiment)
            if self._clock(state, status) and planned is not None:
                spent = reason_to_stop((), planned.early, (), self._hours(state), planned.resources.hours)
            self._stop_if(state, job, spent)
            return False
        finished = any((job.output / verb.result).is_file() for verb in VERBS.values())
        reason = state.stopping or "no longer in the plan"
        self.store.move(state, "done" if finished else "stopped", reason, **self._ended(state))
        self.tell(f"{state.state:8} {state.name}: {reason}")
        return True

    def _stop_on_request(self, id: str) -> None:
        state = self.states.get(id) or self._left_over.get(id)
        if state is not None and state.state == "waiting":
            self._conclude(self.runs[id], state, "stopped", "by request")
            self._waiting = [waiting for waiting in self._waiting if waiting != id]
        elif state is not None and state.state == "running" and not state.stopping:
            self.store.mark(state, stopping="by request")

    def _look_at(self, run: Run, state: State) -> None:
        """Conclude a run that has ended; decide about one that goes on."""
        job = self.job(run, state.attempt)
        status = self.engine.status(job)
        self.engine.fetch(job)
        if not status.going:
            self._judge(run, state, job, status)
            return
        self._before.discard(run.id)
        if state.steps is None and self._records(run):  # epochs decide
            steps = steps_in_log(self.engine.logs(job))
            if steps:
                self.store.mark(state, steps=steps)
        going = self._clock(state, status) and not state.stopping
        self._stop_if(state, job, self._reason_to_stop(run, state) if going else None)

    def _clock(self, state: State, status: JobStatus) -> bool:
        """Whether a run's time goes by: waiting for a machine takes none of it."""
        if (status.state == "queued") != (state.started is None):
            self.store.mark(state, started=None if state.started else time.time())
        return state.started is not None

    def _hours(self, state: State) -> float:
        """That a run has taken since it was last started anew."""
        return (state.seconds - state.spent + time.time() - (state.started or 0)) / 3600

    def _stop_if(self, state: State, job: Job, reason: str | None) -> None:
        if reason and not state.stopping:
            self.store.mark(state, stopping=reason)
            self.tell(f"stopping {state.name}: {reason}")
        if state.stopping:
            self.engine.stop(job)

    def _reason_to_stop(self, run: Run, state: State) -> str | None:
        records = self._records(run)
        news = len(records) and self._judged.get(run.id) != self.tails[run.id].offset
        self._judged[run.id] = self.tails[run.id].offset
        records = [record for record in records if record.get("time", 0.0) >= state.since] if news else []
        rules, hours = run.experiment.early, self._hours(state)
        gates = [gate for _, gate in run.experiment.gate_list() if gate.after is not None]
        reason = reason_to_stop(records, rules, gates, hours, run.experiment.resources.hours)
        if reason or rules.pruner is None or not news:
            return reason
        others = [
            self._records(other)
            for other in self.runs.values()
            if other.experiment is run.experiment and other.seed == run.seed and other.id != run.id
        ]
        return hopeless(records, [records for records in others if records], rules)

    def _records(self, run: Run) -> list[dict[str, Any]]:
        folder = Path(self.states[run.id].folder)
        tail = self.tails.get(run.id)
        if tail is None or tail.folder != folder:
            tail = self.tails[run.id] = MetricsTail(folder)
        return tail.read()

    def _judge(self, run: Run, state: State, job: Job, status: JobStatus) -> None:
        """What has an ended run come to: done, stopped, tried again, or failed?"""
        result = read_result(run.verb, job.output)
        if result is not None:  # it is written last and whole: whatever came after it took nothing away
            self._conclude(run, state, "done", "")
        elif state.stopping:
            self._conclude(run, state, "stopped", state.stopping)
        else:
            failure = diagnose(log_tail(self.engine.logs(job)), status.code, status.why)
            if status.full or (failure.kind == "disk" and is_full(self.store.folder)):
                if run.id not in self._before:  # else somebody has given the command again, and freed some space
                    self.halted = FULL
                self._again(state, FULL, {})
                return
            found = verdict(failure, state.failures, run.out_of_memory_remedy(state.changes))
            if found.again:
                self._again(state, found.reason, found.fields)
            else:
                self._conclude(run, state, "failed", found.reason, found.fields)

    def _again(self, state: State, reason: str, fields: Mapping[str, Any]) -> None:
        self.store.move(state, "waiting", reason, **self._ended(state), **fields)
        self.tell(f"again    {state.name}: {reason}")

    def _conclude(self, run: Run, state: State, final: str, reason: str, fields: Mapping[str, Any] = {}) -> None:
        assert final in FINAL
        found = {} if final == "skipped" else {"figures": self._figures(run)}
        self.store.move(state, final, reason, **self._ended(state), **fields, **found)
        self.tails.pop(run.id, None)
        self.tell(f"{final:8} {state.name}" + (f": {reason}" if reason else ""))

    def _figures(self, run: Run) -> dict[str, Any]:
        records, state = self._records(run), self.states[run.id]
        found = figures(records, state.steps)
        metrics = self.metrics(run) or {}
        headline = run.experiment.expect.metrics if run.experiment.expect else ["eval_loss"]
        found["headline"] = {name: metrics[name] for name in headline if name in metrics}
        return {name: value for name, value in found.items() if name != "eta"}

    def _ended(self, state: State) -> dict[str, Any]:
        if state.state != "running":
            return {}
        now = time.time()
        return {"ended": now, "seconds": state.seconds + max(now - (state.started or now), 0.0), "stopping": ""}


def log_tail(lines: Iterable[str], length: int = 20_000) -> str:
    """The last `length` characters of a log (of its last thousand lines)."""
    return "".join(deque(lines, maxlen=1000))[-length:]
