"""The few things asked of Ray's job server, each in seconds, and its streams of logs, followed in the background."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concept_encoder.errors import UserError
from concept_encoder.lab.engines.carried import Receiver

_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_FRESH = 2.0  # seconds that an answer about a job or the nodes is used again
_PAUSE = 10.0  # seconds without another question after one that got no answer
_TRIES = 3  # at the stream of a job that has ended


class NoAnswer(Exception):
    """The server cannot be reached now."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster that is alive."""

    id: str
    name: str
    ip: str
    cpus: float
    gpus: int


@dataclass(frozen=True)
class RayJob:
    """What Ray says of a job; `code` is None when nobody saw its process end."""

    state: str
    host: str
    code: int | None
    error: str
    message: str

    @property
    def ended(self) -> bool:
        return self.state in _ENDED


class RayServer:
    """A cluster's job server.

    Args:
        reach: returns the server's address; called again when it does not answer, to mend a tunnel.
        token: that the cluster asks for; None leaves it to Ray's own variables and files.
    Raises:
        UserError: ray is not installed, or nobody answers.
    """

    def __init__(self, reach: Callable[[], str], token: str | None = None):
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError:
            raise UserError('--on ray: needs Ray; pip install "concept-encoder[ray]"') from None
        self._reach, self._make, self._client = reach, JobSubmissionClient, None
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._known: dict[str, tuple[float, Any]] = {}
        self._streams: dict[str, Stream] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._silent, self._quiet_until = True, 0.0  # whether an outage has been told of
        try:
            self.nodes()
        except NoAnswer as error:
            raise UserError(f"--on ray: {error}; is the cluster up?") from None

    def nodes(self) -> list[Node]:
        """The machines that are alive, by name."""
        return self._fresh("nodes", self._nodes)

    def job(self, id: str) -> RayJob | None:
        """A job, or None when the cluster knows none of this id."""
        return self._fresh(id, lambda: self._job(id))

    def submit(
        self,
        id: str,
        *,
        entrypoint: str,
        variables: Mapping[str, str],
        module: Path,
        cpus: float,
        gpus: int,
        host: str | None,
    ) -> None:
        """Hand in a job, once for an id; `module` is the package that it runs, copied as it is now."""
        if self._call(lambda client: self._job_of(client, id)) is not None:
            return
        environment = {"env_vars": dict(variables), "py_modules": [str(module)], "excludes": ["__pycache__"]}
        resources = {f"node:{host}": 0.001} if host else None
        self._call(
            lambda client: client.submit_job(
                entrypoint=entrypoint,
                submission_id=id,
                runtime_env=environment,
                entrypoint_num_cpus=cpus,
                entrypoint_num_gpus=gpus or None,
                entrypoint_resources=resources,
            )
        )
        self._known.pop(id, None)

    def stop(self, id: str) -> None:
        """Ask a job to end. A server that does not answer is asked the next time."""

        def ask() -> None:
            found = self._call(lambda client: self._job_of(client, id))
            if found is not None and not found.ended:
                self._call(lambda client: client.stop_job(id))

        try:
            self._fresh(f"stop {id}", ask)
        except NoAnswer:
            return

    def follow(self, id: str, folder: Path, output: Path | None) -> "Stream":
        """The stream of a job, read from now on in the background into these folders."""
        if id not in self._streams:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True).start()
            self._streams[id] = Stream(self, id, Receiver(folder / "log.txt", output))
            self._streams[id].task = asyncio.run_coroutine_threadsafe(self._streams[id].read(), self._loop)
        stream = self._streams[id]
        if stream.over:
            del self._streams[id]
        return stream

    def _fresh(self, name: str, ask: Callable[[], Any]) -> Any:
        asked, answer = self._known.get(name, (0.0, None))
        if time.monotonic() - asked > _FRESH or name not in self._known:
            answer = ask()
            self._known[name] = (time.monotonic(), answer)
        return answer

    def _call(self, ask: Callable[[Any], Any]) -> Any:
        """Ask the server; after a failure to reach it the way there is made anew, once."""
        import requests
        from ray.exceptions import AuthenticationError

        if time.monotonic() < self._quiet_until:
            raise NoAnswer("no answer a moment ago")
        for again in (False, True):
            try:
                answer = ask(self.client(anew=again))
                self._silent = False
                return answer
            except (requests.exceptions.RequestException, ConnectionError, OSError) as error:
                problem = error
            except AuthenticationError as error:
                raise UserError(f"--on ray: {str(error).splitlines()[0]}") from None
            except RuntimeError as error:
                if "status code 5" in str(error):
                    problem = error
                    continue
                raise UserError(f"--on ray: {' '.join(str(error).split())[:300]}") from None
        said = " ".join(str(problem).split())[:160].rstrip(".")
        if not self._silent:
            logging.getLogger(__name__).warning("no answer from the cluster, asking on: %s", said)
        self._silent, self._quiet_until = True, time.monotonic() + _PAUSE
        raise NoAnswer(said)

    def client(self, anew: bool = False) -> Any:
        """Ray's own client."""
        if self._client is None or anew:
            self._client = self._make(self._reach(), headers=dict(self._headers))
            for name in ("dashboard_sdk", "job.sdk"):  # they tell of every upload and every stream
                logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
            logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
        return self._client

    def _nodes(self) -> list[Node]:
        from ray.util.state import StateApiClient
        from ray.util.state.common import ListApiOptions, StateResource
        from ray.util.state.exception import RayStateApiException

        options = ListApiOptions(detail=True, limit=1000, timeout=20)

        def ask(client: Any) -> Any:
            try:
                api = StateApiClient(address=client.get_address(), headers=dict(self._headers))
                return api.list(StateResource.NODES, options=options, raise_on_missing_output=False)
            except RayStateApiException as error:
                raise ConnectionError(str(error)) from None

        alive = [node for node in self._call(ask) if node.state == "ALIVE"]
        found = []
        for node in alive:
            has = node.resources_total
            found.append(Node(node.node_id, node.node_name, node.node_ip, has.get("CPU", 0), int(has.get("GPU", 0))))
        return sorted(found, key=lambda node: (node.name, node.id))

    def _job(self, id: str) -> RayJob | None:
        return self._call(lambda client: self._job_of(client, id))

    @staticmethod
    def _job_of(client: Any, id: str) -> RayJob | None:
        try:
            found = client.get_job_info(id)
        except RuntimeError as error:
            if "404" in str(error):
                return None
            raise
        host = (found.driver_agent_http_address or "").rpartition(":")[0].removeprefix("http://").strip("[]")
        error = str(getattr(found.error_type, "value", found.error_type))
        return RayJob(found.status.value, host, found.driver_exit_code, error, found.message or "")


class Stream:
    """A job's stream on its way into a receiver."""

    def __init__(self, server: RayServer, id: str, receiver: Receiver):
        self.server, self.id, self.receiver = server, id, receiver
        self.task: Future | None = None

    @property
    def over(self) -> bool:
        """Nothing will follow."""
        return self.task is not None and self.task.done()

    @property
    def code(self) -> int | None:
        return self.receiver.code

    async def read(self) -> None:
        """Read to the end; after a cut from the beginning, which changes nothing that is here."""
        tries = 0
        while tries < _TRIES:
            self.receiver.restart()
            try:
                async for text in self.server.client().tail_job_logs(self.id):
                    self.receiver.feed(text)
                if self.code is not None:
                    return
            except Exception as error:  # whatever Ray's client makes of a cut link or a dead node
                logging.getLogger(__name__).debug("stream of %s: %s", self.id, error)
            known = self.server._known.get(self.id, (0.0, None))[1]
            tries += known is not None and known.ended
            await asyncio.sleep(1)
