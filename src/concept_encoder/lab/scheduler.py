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
from concept_encoder.lab.engines.engine import Engine, Job, JobStatus
from concept_encoder.lab.failures import Failure, diagnose
from concept_encoder.lab.metrics import metrics_of
from concept_encoder.lab.progress import MetricsTail, figures, steps_in_log
from concept_encoder.lab.readiness import Readiness
from concept_encoder.lab.runs import Run
from concept_encoder.lab.store import FINAL, State, Store
from concept_encoder.lab.verbs import PROGRAM, VERBS, command_line, read_result

RETRIES = {"crash": 1, "killed": 2, "lost": 3, "memory": 1}  # attempts after the first, by what went wrong


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
        store.set_plan([self._planned(run) for run in runs])
        self.states = {state.id: state for state in store.states()}
        self.tails: dict[str, MetricsTail] = {}
        self._judged: dict[str, int] = {}  # how far into its metrics a run was judged
        self.halted = ""  # why nothing new starts
        again = ("skipped", "failed", "stopped") if retry else ("skipped",)
        for state in self.states.values():
            if state.state in again:
                forgiven = {"failures": {}} if state.state != "skipped" else {}
                store.move(state, "waiting", "tried again" if forgiven else "looked at again", **forgiven)
        self.readiness = Readiness(runs, self.states, self.metrics)
        self._waiting = [id for id in unique if self.states[id].state == "waiting"]
        self._running = [id for id in unique if self.states[id].state == "running"]
        self._left_over = store.left_over()
        self._before = set(self._running)  # what may have ended before this client started

    def run(self, every: float = 0.5, after: Callable[[], None] = lambda: None) -> None:
        """Tick until nothing is left to do; `after` is called after every tick."""
        while self.tick():
            after()
            time.sleep(every)
        after()

    def tick(self) -> bool:
        """One round. False when nothing runs and nothing can start."""
        for id in self.store.take_requests():
            if id in self.states:
                self._stop_on_request(self.states[id])
        self._left_over = [state for state in self._left_over if not self._left_over_ended(state)]
        for id in self._running:
            self._look_at(self.runs[id], self.states[id])
        retried = [id for id in self._running if self.states[id].state == "waiting"]
        self._running = [id for id in self._running if self.states[id].state == "running"]
        self._waiting = sorted([*self._waiting, *retried], key=self._rank.__getitem__)
        if not self.halted:
            self._start_what_is_ready()
        return bool(self._running or self._left_over) or (bool(self._waiting) and not self.halted)

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
        folder = str(self.store.folder / "runs" / run.folder_name)
        return State(
            run.id, run.name, run.experiment.id, folder=folder, gpus=run.experiment.resources.gpus, steps=steps
        )

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
        """Start a run; False when the engine has no room for it."""
        if read_result(run.verb, Path(state.folder)) is not None:
            self._conclude(run, state, "done", "its result was there")
            return True
        job = self.job(run, state.attempt + 1)
        if not self.engine.submit(job):
            return False
        self.store.move(state, "running", "", attempt=state.attempt + 1, stopping="", started=time.time(), ended=None)
        self._running.append(run.id)
        self.tails.pop(run.id, None)  # another host may begin its metrics anew
        self.tell(f"start    {state.name}" + (f" (attempt {state.attempt})" if state.attempt > 1 else ""))
        return True

    def _left_over_ended(self, state: State) -> bool:
        """See a run to its end that an edited plan no longer has; it keeps its slot until then."""
        job = Job(self.store.attempt_folder(state).resolve(), (), Path(state.folder).resolve(), state.gpus)
        if self.engine.status(job).going:
            return False
        self.engine.fetch(job)
        finished = any((job.output / verb.result).is_file() for verb in VERBS.values())
        self.store.move(state, "done" if finished else "stopped", "no longer in the plan", **self._ended(state))
        return True

    def _stop_on_request(self, state: State) -> None:
        if state.state == "waiting":
            self._conclude(self.runs[state.id], state, "stopped", "by request")
            self._waiting = [id for id in self._waiting if id != state.id]
        elif state.state == "running" and not state.stopping:
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
        if (status.state == "queued") != (state.started is None):  # waiting for a machine takes none of its time
            self.store.mark(state, started=None if state.started else time.time())
        if state.steps is None and self._records(run):  # epochs decide
            steps = steps_in_log(self.engine.logs(job))
            if steps:
                self.store.mark(state, steps=steps)
        if not state.stopping and state.started:
            reason = self._reason_to_stop(run, state)
            if reason:
                self.store.mark(state, stopping=reason)
                self.tell(f"stopping {state.name}: {reason}")
        if state.stopping:
            self.engine.stop(job)

    def _reason_to_stop(self, run: Run, state: State) -> str | None:
        records = self._records(run)
        news = len(records) and self._judged.get(run.id) != self.tails[run.id].offset
        self._judged[run.id] = self.tails[run.id].offset
        rules, hours = run.experiment.early, (state.seconds + time.time() - (state.started or 0)) / 3600
        gates = [gate for _, gate in run.experiment.gate_list() if gate.after is not None]
        reason = reason_to_stop(records if news else (), rules, gates, hours, run.experiment.resources.hours)
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
            if failure.kind == "disk":
                if run.id not in self._before:  # else somebody has given the command again, and freed some space
                    self.halted = failure.reason
                self._again(state, failure, {})
            else:
                self._fail(run, state, failure)

    def _fail(self, run: Run, state: State, failure: Failure) -> None:
        failures = {**state.failures, failure.kind: state.failures.get(failure.kind, 0) + 1}
        smaller = run.out_of_memory_remedy(state.changes)
        for_memory = failure.kind == "memory" or (failure.kind == "killed" and failures["killed"] == RETRIES["killed"])
        if failures[failure.kind] > RETRIES.get(failure.kind, 0):
            tries = sum(failures.values())
            self._conclude(
                run, state, "failed", failure.reason + (f" ({tries} attempts)" if tries > 1 else ""), failures
            )
        elif for_memory and smaller:
            micro = smaller["training.micro_batch_size"]
            remedy = {
                "changes": smaller,
                "folder": f"{state.folder}-micro{micro}",
            }  # another recipe: a folder of its own
            reason = f"{failure.reason}; next with micro_batch_size {micro}, the effective batch stays"
            self._again(state, Failure(failure.kind, reason), {"failures": failures, **remedy})
        elif failure.kind == "memory":
            self._conclude(run, state, "failed", f"{failure.reason}, and its micro-batch cannot be halved", failures)
        else:
            self._again(state, failure, {"failures": failures})

    def _again(self, state: State, failure: Failure, fields: Mapping[str, Any]) -> None:
        self.store.move(state, "waiting", failure.reason, **self._ended(state), **fields)
        self.tell(f"again    {state.name}: {failure.reason}")

    def _conclude(self, run: Run, state: State, final: str, reason: str, failures: Mapping | None = None) -> None:
        assert final in FINAL
        fields = {} if failures is None else {"failures": dict(failures)}
        if final != "skipped":
            fields["figures"] = self._figures(run)
        self.store.move(state, final, reason, **self._ended(state), **fields)
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
