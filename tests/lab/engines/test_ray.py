"""The Ray engine: what it decides, beside a server of paper, and (slow) on a cluster of two nodes on this machine."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import concept_encoder
from concept_encoder.errors import UserError
from concept_encoder.lab.cost import cost
from concept_encoder.lab.engines.engine import Job, NotNow
from concept_encoder.lab.engines.on_host import VARIABLE, packed, unpacked
from concept_encoder.lab.engines.ray_jobs import Places, RayEngine
from concept_encoder.lab.engines.ray_server import NoAnswer, Node, RayJob, RayServer
from concept_encoder.lab.failures import Failure, diagnose
from concept_encoder.lab.plan import load_plan
from concept_encoder.lab.runs import expand
from concept_encoder.lab.verbs import PROGRAM, VERBS, command_line
from concept_encoder.records import read_metrics

SMALL = ("--object-store-memory=80000000", "--disable-usage-stats")


class PaperServer:
    """Two hosts, `a` with 2 GPUs and `b` with 1; jobs are what the test says they are."""

    def __init__(self, hosts: tuple[int, int] = (2, 1)):
        self.gpus = hosts
        self.jobs: dict[str, RayJob | None] = {}
        self.hosts: list[str | None] = []
        self.options: list[dict] = []
        self.cut, self.code, self.over, self.away = False, None, False, ""

    def nodes(self) -> list[Node]:
        both = [Node("1", "a", "10.0.0.1", 4, self.gpus[0]), Node("2", "b", "10.0.0.2", 4, self.gpus[1])]
        return [node for node in both if node.name != self.away]

    def submit(self, id: str, **options) -> None:
        self.jobs[id] = RayJob("RUNNING", "", None, "None", "")
        self.hosts.append(options["host"])
        self.options.append(options)

    def job(self, id: str) -> RayJob | None:
        if self.cut:
            raise NoAnswer("cut")
        return self.jobs.get(id)

    def follow(self, *_) -> "PaperServer":
        return self


def paper(folder: Path, name: str = "run", gpus: int = 0, inputs: tuple = ()) -> Job:
    return Job(folder / "attempts" / f"{name}-1", ["true"], folder / "runs" / name, gpus, inputs=inputs)


def test_room_is_that_of_the_hosts_and_a_job_waits_for_it(tmp_path):
    engine = RayEngine(PaperServer(), Places(Path("/far")), slots=1)
    assert (engine.room.slots, dict(engine.room.gpus)) == (1, {"a": 2, "b": 1})
    asked = [("cpu", 0), ("more", 0), ("one", 1), ("two", 2), ("three", 1)]
    assert [engine.submit(paper(tmp_path, *each)) for each in asked] == [True, False, True, True, False]
    assert engine.submit(paper(tmp_path, "cpu")), "what was submitted is not submitted again"


def test_resources_that_nobody_has_are_told_with_what_each_has(write_plan):
    apart, together = (Places(Path("/far"), shared) for shared in (False, True))
    plan = load_plan(write_plan({"id": "big", "resources": {"gpus": 3}}))
    with pytest.raises(UserError, match=r"experiments.big.resources.gpus: 3, but a has 2, b has 1; .*shared: true"):
        cost(plan, expand(plan), RayEngine(PaperServer(), apart).room)
    cost(plan, expand(plan), RayEngine(PaperServer(), together).room)
    with pytest.raises(UserError, match=r"gpus: 3, but a has 2, b has 0"):
        cost(plan, expand(plan), RayEngine(PaperServer(hosts=(2, 0)), together).room)
    bench = {"id": "big", "verb": "bench", "recipe": None, "resources": {"gpus": 3}}
    plan = load_plan(write_plan(bench))
    with pytest.raises(UserError, match=r"gpus: 3, but a has 2, b has 1; .*pretrain and finetune"):
        cost(plan, expand(plan), RayEngine(PaperServer(), together).room)


def test_ray_train_takes_the_place_of_torchrun_where_no_host_has_the_gpus(tmp_path):
    for shared, gpus, spread in ((True, 2, False), (True, 3, True), (False, 3, False)):
        server = PaperServer()
        command = command_line(VERBS["pretrain"], {}, Path("/far/recipe.yaml"), Path("/far/run"), gpus)
        it = Job(tmp_path / f"attempts/{shared}{gpus}", command, tmp_path / "runs/run", gpus)
        assert RayEngine(server, Places(Path("/far"), shared)).submit(it)
        (options,) = server.options
        content = unpacked(options["variables"][VARIABLE])
        assert (content["spread"], options["gpus"]) == (spread, 0 if spread else gpus)
        over_hosts = ["-m", "concept_encoder.lab.engines.ray_train", "GPU", "3", "pretrain", "/far/recipe.yaml"]
        assert (content["command"][1:7] == over_hosts) is spread
        assert content["command"][-1] == command[-1]


@pytest.mark.parametrize(
    ("job", "state", "code"),
    [
        (RayJob("PENDING", "", None, "None", ""), "queued", None),
        (RayJob("FAILED", "", 3, "JOB_ENTRYPOINT_COMMAND_ERROR", ""), "ended", 3),
        (RayJob("STOPPED", "", None, "None", ""), "ended", -signal.SIGTERM),
        (RayJob("FAILED", "", None, "JOB_SUPERVISOR_ACTOR_DIED", "its node died"), "lost", None),
        (RayJob("FAILED", "", None, "RUNTIME_ENV_SETUP_FAILURE", "no space"), "ended", 2),
        (None, "lost", None),
    ],
)
def test_what_ray_says_of_a_job(tmp_path, job, state, code):
    server = PaperServer()
    engine, it = RayEngine(server, Places(Path("/far"))), paper(tmp_path)
    engine.submit(it)
    server.jobs = dict.fromkeys(server.jobs, job)
    server.over = True
    found = engine.status(it)
    assert (found.state, found.code) == (state, code)
    server.cut = True
    later = RayEngine(server, Places(Path("/far"))).status(it)
    assert later.state == ("ended" if state == "ended" else "running"), "a cut link says nothing about a job"


def test_a_run_goes_where_the_runs_lie_that_it_reads(tmp_path):
    server = PaperServer()
    engine = RayEngine(server, Places(Path("/far"), shared=False))
    first = paper(tmp_path, "first")
    engine.submit(first)
    server.jobs = dict.fromkeys(server.jobs, RayJob("RUNNING", "10.0.0.2", None, "None", ""))
    engine.status(first)
    engine.submit(paper(tmp_path, "second", inputs=(first.output,)))
    assert server.hosts == [None, "10.0.0.2"]
    astray = paper(tmp_path, "third", inputs=(tmp_path / "runs" / "elsewhere",))
    assert engine.submit(astray)
    assert engine.status(astray).code == 2
    assert "the run elsewhere, which it reads, lies on none of the hosts" in "".join(engine.logs(astray))
    server.away = "b"  # it reboots
    reads = paper(tmp_path, "second", inputs=(first.output,))
    later = Job(tmp_path / "attempts" / "second-2", reads.command, reads.output, inputs=reads.inputs)
    with pytest.raises(NotNow, match=r"waits for 10.0.0.2, which is not up, where first lies \(plan hosts up\)"):
        engine.submit(later)
    assert not (later.folder / "exit.json").exists()
    server.away = ""
    assert engine.submit(later)
    assert server.hosts.pop() == "10.0.0.2"
    shared = RayEngine(server, Places(Path("/far")))
    shared.submit(paper(tmp_path, "fourth", inputs=(tmp_path / "runs" / "elsewhere",)))
    assert server.hosts[2:] == [None]


def test_two_stores_of_one_name_have_two_folders_on_the_hosts(tmp_path):
    engine = RayEngine(PaperServer(), Places(Path("/far")))
    one, two = (engine.there(tmp_path / name / "store" / "runs" / "a") for name in ("x", "y"))
    assert one != two
    assert one == RayEngine(PaperServer(), Places(Path("/far"))).there(tmp_path / "x" / "store" / "runs" / "a")
    assert one.parts[:2] == ("/", "far")


# ---- on Ray itself


class Cluster:
    """A head with 2 CPUs, and a second node with 1 CPU and what it takes for a GPU."""

    def __init__(self, folder: Path):
        self.token = secrets.token_hex(32)
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(self.token)
        self.port = 20_000 + os.getpid() % 200 * 50
        self.address = f"http://127.0.0.1:{self.port + 1}"
        bin = Path(sys.executable).parent
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.environment |= {"PATH": f"{bin}:{os.environ['PATH']}", "RAY_API_SERVER_ADDRESS": self.address}
        self.ray, self.temporary = bin / "ray", f"/tmp/ray-{self.port}"  # short: sockets have paths of 107 bytes
        self._start(
            "--head", f"--port={self.port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.port + 1}",
            f"--ray-client-server-port={self.port + 2}", "--num-cpus=2", f"--temp-dir={self.temporary}",
            *self._workers(10),
        )  # fmt: skip
        self.add_node()

    def add_node(self) -> None:
        agent = f"--dashboard-agent-listen-port={self.port + 3}"
        self._start(f"--address=127.0.0.1:{self.port}", "--num-cpus=1", "--num-gpus=1", agent, *self._workers(30))

    def kill_node(self) -> None:
        """As a power cut would: all of it at once."""
        import psutil

        mark = f"--min_worker_port={self.port + 30}"
        (raylet,) = [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])]
        for process in [raylet, *raylet.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def stop(self) -> None:
        """Only our own processes, by their folder; `ray stop` would end every cluster on this machine."""
        import psutil

        ours = []
        for process in psutil.process_iter(["cmdline"]):
            words = " ".join(process.info["cmdline"] or [])
            if self.temporary in words or f":{self.port}" in words:
                ours += [process, *process.children(recursive=True)]
        for process in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _workers(self, first: int) -> tuple[str, str]:
        return f"--min-worker-port={self.port + first}", f"--max-worker-port={self.port + first + 19}"

    def _start(self, *words: str) -> None:
        environment = {**os.environ, **self.environment}
        command = [self.ray, "start", *SMALL, *words]
        with open(f"/tmp/ray-{self.port}.log", "w+") as log:
            code = subprocess.run(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=90
            )
            log.seek(0)
            assert code.returncode == 0, log.read()[-2000:]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    pytest.importorskip("ray", reason='needs Ray: pip install -e ".[ray]"')
    it = None
    patch = pytest.MonkeyPatch()
    try:
        it = Cluster(tmp_path_factory.mktemp("ray"))
        for name, value in it.environment.items():
            patch.setenv(name, value)
        yield it
    finally:
        patch.undo()
        if it:
            it.stop()


@pytest.fixture
def engine(cluster, tmp_path) -> RayEngine:
    return new_engine(cluster, tmp_path)


def new_engine(cluster: Cluster, folder: Path) -> RayEngine:
    return RayEngine(RayServer(lambda: cluster.address, cluster.token), Places(folder / "hosts", shared=False))


def until(reached: Callable[[], object], seconds: float = 240) -> None:
    """Machines that run tests may be slow."""
    end = time.time() + seconds
    while not reached():
        assert time.time() < end
        time.sleep(0.3)


def wait(engine: RayEngine, job: Job) -> str:
    until(lambda: not engine.status(job).going)
    return engine.status(job).state


def job(engine: RayEngine, folder: Path, name: str, code: str, *words: str, gpus: int = 0) -> Job:
    store = folder / "store"
    output = store / "runs" / name
    return Job(
        store / "attempts" / f"{name}-1", [sys.executable, "-c", code, str(engine.there(output)), *words], output, gpus
    )


@pytest.mark.slow
def test_words_arrive_as_they_are_and_files_come_home_while_it_runs(cluster, engine, tmp_path):
    code = (
        "import os, sys, time; print(sys.argv[2:]); print(sys.prefix);"
        "print(os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True);"
        "open(sys.argv[1] + '/metrics.jsonl', 'w').write('{\"step\": 1}\\n');"
        "[time.sleep(0.1) for _ in iter(lambda: os.path.exists(sys.argv[1] + '/release'), True)];"
        "open(sys.argv[1] + '/result.json', 'w').write('{}'); sys.exit(3)"
    )
    words = ["it's", '$HOME ${PATH} `id` $(id) "; rm -rf ~', "new\nline", "ü*?", "--", ""]
    it = job(engine, tmp_path, "words", code, *words, gpus=1)
    assert engine.submit(it)
    until(lambda: engine.status(it).going and (it.output / "metrics.jsonl").exists())
    assert engine.status(it).state == "running"
    assert not (it.output / "result.json").exists()
    (engine.there(it.output) / "release").touch()
    assert wait(engine, it) == "ended"
    assert engine.status(it).code == 3
    assert (it.output / "result.json").read_text() == "{}"
    expected = f"{words}\n{sys.prefix}\n0\n"
    assert expected in "".join(engine.logs(it)), "with the environment's Python, and the node's GPU"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if cluster.token in path.read_text(errors="replace")]


@pytest.mark.slow
def test_a_queued_job_has_the_code_as_it_was(cluster, engine, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("print('as it was', flush=True)\n")
    options = {"variables": {}, "module": package, "gpus": 1, "cpus": 1, "host": None}
    blocker, queued = (f"test-{secrets.token_hex(4)}" for _ in range(2))
    engine.server.submit(blocker, entrypoint="sleep 60", **options)
    engine.server.submit(queued, entrypoint="python -c 'import package'", **options)
    (package / "__init__.py").write_text("print('edited', flush=True)\n")
    time.sleep(2)
    assert engine.server.job(queued).state == "PENDING"
    engine.server.stop(blocker)
    stream = engine.server.follow(queued, tmp_path / "log", None)
    until(lambda: engine.server.job(queued) and stream.over)
    log = (tmp_path / "log" / "log.txt").read_text()
    assert "as it was" in log
    assert "edited" not in log


RECIPE = """
model: {{preset: woven, num_layers: 2, hidden_size: 16, num_attention_heads: 2, local_window: 8}}
data: {{corpus: {folder}/text.txt, vocab_size: 64, sequence_length: 24, cache_dir: {folder}/cache}}
training: {{output_dir: {folder}/one, max_steps: 4, batch_size: {batch_size}, learning_rate: 0.01, log_every: 1}}
"""


def on_two_nodes(engine: RayEngine, folder: Path, name: str, batch_size: int) -> tuple[Job, str]:
    """Pretrain with a process on each node, on CPUs as nobody here has a GPU; returns the job and its whole log."""
    it = Job(folder / "attempts" / name, [], folder / "runs" / name)
    recipe = it.folder / "recipe.yaml"
    words = ["pretrain", str(recipe), f"training.output_dir={it.output}"]
    content = {
        "folder": str(it.folder), "output": str(it.output), "python": sys.executable, "environment": {}, "spread": True,
        "command": [sys.executable, "-m", "concept_encoder.lab.engines.ray_train", "CPU", "2", *words],
        "files": {recipe.name: RECIPE.format(folder=folder, batch_size=batch_size)}, "last": ["result.json"],
    }  # fmt: skip
    id, module = f"test-{secrets.token_hex(4)}", Path(concept_encoder.__file__).parent
    start, variables = f"{sys.executable} -m concept_encoder.lab.engines.on_host", {VARIABLE: packed(content)}
    it.folder.mkdir(parents=True)
    (it.folder / "job.json").write_text(json.dumps({"id": id}))
    engine.server.submit(id, entrypoint=start, variables=variables, module=module, cpus=0, gpus=0, host=None)
    until(lambda: not engine.status(it).going, seconds=900)
    return it, "".join(engine.logs(it))


@pytest.mark.slow
def test_a_run_over_two_nodes_has_the_losses_of_one_process_and_its_exit_code(engine, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(f"{'ab'[i % 2]} line {i % 7} of {i % 5}, {i}." for i in range(400)))
    recipe = tmp_path / "one.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path, batch_size=8))
    subprocess.run([*PROGRAM, "pretrain", str(recipe)], check=True, capture_output=True)
    holder, module = f"test-{secrets.token_hex(4)}", Path(concept_encoder.__file__).parent
    options = {"variables": {}, "module": module, "gpus": 0, "cpus": 1, "host": "__internal_head__"}
    engine.server.submit(holder, entrypoint="sleep 900", **options)  # leaves one CPU on each node, for a process each
    engine = RayEngine(engine.server, Places(tmp_path))
    try:
        until(lambda: engine.server.job(holder).state == "RUNNING")
        it, log = on_two_nodes(engine, tmp_path, "mistake", 9)
        failure = diagnose(log, engine.status(it).code)
        assert failure == Failure("mistake", "training.batch_size: 9 is not divisible by 2 processes")
        it, log = on_two_nodes(engine, tmp_path, "two", 8)
        assert engine.status(it).code == 0, log[-3000:]
        one, two = ([r["loss"] for r in read_metrics(run) if "loss" in r] for run in (tmp_path / "one", it.output))
        assert two == pytest.approx(one, rel=1e-5)
        assert len(two) == 4
    finally:
        engine.server.stop(holder)


@pytest.mark.slow
def test_stop_is_an_interrupt_that_the_run_can_hear(engine, tmp_path):
    code = (
        "import sys, time\ntry: print('up', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: print('saved', flush=True); sys.exit(5)"
    )
    it = job(engine, tmp_path, "stopped", code)
    engine.submit(it)
    until(lambda: engine.status(it).state == "running" and "up" in "".join(engine.logs(it)))
    engine.stop(it)
    assert wait(engine, it) == "ended"
    assert "saved" in "".join(engine.logs(it))


@pytest.mark.slow
def test_a_lost_node_is_tried_again_and_a_killed_client_found_again(cluster, write_plan, lab, tmp_path):
    """Client one is killed as it watches, and the node of a run with it; client two brings the plan to its end."""
    release = tmp_path / "release"
    waits = {"data.fake": f"until {release}"}
    file = write_plan(
        {"id": "gpu", "overrides": {**waits, "data.x": 1}, "resources": {"gpus": 1}},
        {"id": "cpu", "seeds": [0, 1], "overrides": waits},
        {"id": "next", "verb": "finetune", "overrides": {"model.checkpoint": {"run": "gpu"}, "data.task": "mnli"}},
    )
    words = [sys.executable, str(Path(__file__).parents[1] / "ray_client.py"), str(file)]
    client = subprocess.Popen([*words, str(tmp_path / "store"), str(tmp_path / "hosts")])
    try:
        until(lambda: len(list(tmp_path.glob("store/runs/*/metrics.jsonl"))) == 3 or client.poll() is not None)
        assert client.poll() is None
    finally:
        client.kill()
        client.wait()
    cluster.kill_node()
    scheduler = lab(file, engine=new_engine(cluster, tmp_path))
    found = {state.name: state for state in scheduler.states.values()}
    assert [state.state for state in found.values()].count("running") == 3
    until(lambda: scheduler.tick() and found["gpu.s0"].failures == {"lost": 1})
    release.touch()
    cluster.add_node()
    until(lambda: not scheduler.tick())
    assert {name: state.state for name, state in found.items()} == dict.fromkeys(found, "done"), found
    assert found["gpu.s0"].attempt == 2
    untouched = [state for state in found.values() if state.name.startswith("cpu") and not state.failures]
    assert untouched, "what ran on the head was not lost"
    for state in untouched:
        there = scheduler.engine.there(Path(state.folder).resolve())
        assert len((there / "starts.txt").read_text().split()) == 1
    assert not list((tmp_path / "hosts").rglob("TWICE*"))


@pytest.mark.slow
def test_a_wrong_token_and_a_silent_server_take_one_line(cluster, tmp_path, monkeypatch):
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    words = "['plan', 'check', '--quick', '--on', 'ray', sys.argv[1]]"
    code = f"import sys; from concept_encoder.cli.main import main; main({words})"
    (tmp_path / "plan.yaml").write_text(
        "title: a\nexperiments: [{id: a, verb: bench, overrides: {options.mode: speed}}]\n"
    )

    def call(**more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", code, str(tmp_path / "plan.yaml")]
        return subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, cwd=tmp_path)

    found = call(RAY_AUTH_TOKEN_PATH=str(wrong))
    assert (found.returncode, found.stderr.count("\n")) == (2, 1), found.stderr
    assert "error: --on ray: " in found.stderr
    assert "0" * 64 not in found.stderr
    found = call(RAY_API_SERVER_ADDRESS="http://127.0.0.1:9")
    assert (found.returncode, found.stderr.count("\n")) == (2, 1), found.stderr
    assert "at address: http://127.0.0.1:9; is the cluster up?" in found.stderr
    found = call()
    assert found.returncode == 0, found.stderr
    assert "on 3 CPU slots and 1 GPUs" in found.stdout
