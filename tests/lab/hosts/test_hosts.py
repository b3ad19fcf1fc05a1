"""hosts.yaml to cluster: mistakes in one line; then two hosts in network namespaces, each with an sshd of its own."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from concept_encoder.cli.main import main
from concept_encoder.errors import UserError
from concept_encoder.lab.engines.table import open_engine
from concept_encoder.lab.hosts.cluster import Cluster, lacks
from concept_encoder.lab.hosts.hosts_file import Host, Hosts, load_hosts
from concept_encoder.lab.hosts.ssh import Ssh


def write(where: Path, **fields) -> Path:
    file = where / "hosts.yaml"
    file.write_text(yaml.safe_dump({"head": "one", "folder": str(where / "hosts"), **fields}))
    return file


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"wrokers": []}, "hosts.yaml: hosts.wrokers: no such field; did you mean 'workers'"),
        ({"file": "x"}, "hosts.file: no such field"),
        ({"head": {"shh": "x"}}, "hosts.head.shh: no such field; did you mean 'ssh'"),
        ({"workers": [{"ssh": "two", "gpus": -1}]}, "hosts.workers[0].gpus: -1 is too few"),
        (
            {"workers": ["-oProxyCommand=touch x"]},
            "hosts.workers[0].ssh: '-oProxyCommand=touch x' is no name of a host",
        ),
        ({"workers": ["two; rm"]}, "is no name of a host"),
        ({"workers": ["one"]}, "hosts.workers: one is given twice"),
        ({"workers": "two"}, "hosts.workers: expected a list, found 'two'"),
        ({"folder": "~/runs"}, "hosts.folder: '~/runs' is not an absolute path"),
        ({"port": 80}, "hosts.port: 80 is not between"),
        ({"storage": "bucket"}, "hosts.storage: 'bucket' is no URL"),
        ({"storage": "ftp://me:hunter2@x/y"}, "hosts.storage: holds a password"),
        ({"variables": {"HF_TOKEN": "hunter2"}}, "hosts.variables.HF_TOKEN: a secret"),
        ({"extras": ["cuda] evil"]}, "hosts.extras: 'cuda] evil' is no name of an extra"),
        ({"cpus_per_run": 0}, "hosts.cpus_per_run: 0 is too few"),
        ({"cpus_per_run": 999_999_999}, "hosts.cpus_per_run: 999999999 is too many"),
        ({"head": "a" * 5000}, "is no name of a host"),
        (
            {"head": {"ssh": "one", "address": "-oProxyCommand=x y"}},
            "hosts.head.address: '-oProxyCommand=x y' is no name",
        ),
        ({"head": {"ssh": "one", "python": ""}}, "hosts.head.python: '' is no command"),
        ({"workers": ["me@ONE"]}, "hosts.workers: one is given twice"),
        (
            {"workers": [{"ssh": "two", "address": "10.0.0.1"}, {"ssh": "three", "address": "10.0.0.1"}]},
            "hosts.workers: 10.0.0.1 is given twice",
        ),
        ({"folder": "/a/../b"}, "hosts.folder: '/a/../b' is no plain path"),
        ({"folder": "/a\nb"}, "hosts.folder: '/a\\nb' is no plain path"),
        ({"storage": "://"}, "hosts.storage: '://' is no URL"),
        ({"storage": "s3://b/x?secret_access_key=hunter2"}, "hosts.storage: holds a password"),
        ({"ssh_config": "/nonexistent"}, "hosts.ssh_config: no file '/nonexistent'"),
        ({"variables": {"A B": "x"}}, "hosts.variables: 'A B' is no name of a variable"),
        ({"variables": {"": "x"}}, "hosts.variables: '' is no name of a variable"),
        ({"variables": {"WANDB_KEY": "hunter2"}}, "hosts.variables.WANDB_KEY: a secret"),
        ({"variables": {"DB_PASSWD": "hunter2"}}, "hosts.variables.DB_PASSWD: a secret"),
        ({"variables": {"FOO": "hf_hunter2hunter2"}}, "hosts.variables.FOO: a secret"),
    ],
)
def test_mistakes_name_the_field(tmp_path, fields, message):
    with pytest.raises(UserError) as refused:
        load_hosts(write(tmp_path, **fields))
    assert message in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_hosts_take_what_is_said_for_all(tmp_path):
    hosts = load_hosts(
        write(tmp_path, python="python3.12", workers=["two", {"ssh": "three", "python": "py", "gpus": 2}])
    )
    assert hosts.all == [Host("one", None, "python3.12"), Host("two", None, "python3.12"), Host("three", None, "py", 2)]
    assert hosts.token != load_hosts(shutil.copy(hosts.file, tmp_path / "other.yaml")).token


def test_what_is_no_wheel_goes_to_no_host(tmp_path, capsys):
    (tmp_path / "concept_encoder-1-py3-none-any.whl").write_text("no archive")
    with pytest.raises(SystemExit) as stopped:
        main(["plan", "hosts", "install", str(write(tmp_path)), "--wheel", str(next(tmp_path.glob("*.whl")))])
    assert stopped.value.code == 2
    assert "py3-none-any.whl: not a wheel of this project" in capsys.readouterr().err


SOUND = {"python": [3, 11, 4], "venv": True, "nvidia": False, "gpus": [], "driver": "", "writable": True}
SOUND |= {"exists": "/data", "free": 2**40, "clock": 0.2, "versions": []}


@pytest.mark.parametrize(
    ("host", "found", "message"),
    [
        ({}, {"python": [3, 9, 2]}, "python: 3.9.2; set python: to an interpreter of version 3.11 or newer"),
        ({}, {"venv": False}, "install python3-venv there, or set environment:"),
        ({}, {"nvidia": True, "driver": "couldn't communicate"}, "GPU driver: nvidia-smi says couldn't communicate"),
        ({"gpus": 4}, {"gpus": ["H100"]}, "gpus: 4 asked, 1 there"),
        ({}, {"writable": False}, "folder: /data cannot be written to"),
        ({}, {"free": 2**30}, "disk: 1.0 GiB free at /data, 10 are needed"),
        ({}, {"clock": -3600}, "clock: 60 min behind of this machine's"),
        ({}, {}, None),
        ({"gpus": 0}, {"nvidia": True}, None),
    ],
)
def test_what_a_host_lacks(host, found, message):
    missing = list(lacks(Host("one", **host), SOUND | found, Hosts("one", "/data")))
    assert (missing == []) if message is None else (len(missing) == 1 and message in missing[0])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("Permission denied (publickey).", "it refuses the key; ssh one has to work without a password"),
        ("ssh: Could not resolve hostname one: Name or service not known", "cannot be reached (ssh: Could not resolve"),
        ("ssh: connect to host one port 22: Connection refused", "cannot be reached (ssh: connect to host one port 22"),
        ("No ED25519 host key is known for one and you have requested strict checking.", "its host key is not known"),
    ],
)
def test_what_ssh_says_becomes_one_line(tmp_path, monkeypatch, said, message):
    fake = tmp_path / "ssh"
    fake.write_text(f"#!/bin/sh\necho {said!r} >&2\nexit 255\n".replace("'", '"'))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(UserError) as refused:
        Ssh("one").call("check", folder="/x", state="/x", environment="/x")
    assert str(refused.value).startswith(f"one: {message}")
    assert "\n" not in str(refused.value)


def test_without_ray_here_nothing_is_started_there(tmp_path, monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match="needs Ray here too; pip install"):
        Cluster(load_hosts(write(tmp_path))).up(lambda line: None)


# ---- with two hosts


class Namespaces:
    """Two hosts, `one` and `two`: a network namespace each, with an sshd, on a bridge. They share the file system."""

    def __init__(self, folder: Path):
        self.folder, self.names = folder, [f"ce{os.getpid()}{name}" for name in ("one", "two")]
        self.bridge, self.net = f"ce{os.getpid()}br", f"10.{100 + os.getpid() % 100}.7"
        self.daemons: list[subprocess.Popen] = []
        self.run("ip", "link", "add", self.bridge, "type", "bridge")
        self.run("ip", "addr", "add", f"{self.net}.254/24", "dev", self.bridge)
        self.run("ip", "link", "set", self.bridge, "up")
        self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key"))
        Path("/run/sshd").mkdir(exist_ok=True)
        for place, name in enumerate(self.names, start=1):
            self.add(place, name)
        self.write_config()

    def add(self, place: int, name: str) -> None:
        inside, outside = f"{self.bridge[:-2]}i{place}", f"{self.bridge[:-2]}o{place}"
        self.run("ip", "netns", "add", name)
        self.run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
        self.run("ip", "link", "set", inside, "netns", name)
        self.run("ip", "link", "set", outside, "master", self.bridge, "up")
        within = ("ip", "-n", name)
        self.run(*within, "addr", "add", f"{self.net}.{place}/24", "dev", inside)
        self.run(*within, "link", "set", inside, "up")
        self.run(*within, "link", "set", "lo", "up")
        self.start_sshd(name, f"hostkey{place}")

    def start_sshd(self, name: str, key: str) -> None:
        if not (self.folder / key).exists():
            self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key))
        options = {"HostKey": self.folder / key, "AuthorizedKeysFile": self.folder / "key.pub", "StrictModes": "no"}
        options |= {"PidFile": "none", "PasswordAuthentication": "no", "UsePAM": "no"}
        words = [word for option, value in options.items() for word in ("-o", f"{option}={value}")]
        command = [
            "ip",
            "netns",
            "exec",
            name,
            shutil.which("sshd", path="/usr/sbin:/usr/bin"),
            "-D",
            "-f",
            "/dev/null",
        ]
        self.daemons.append(subprocess.Popen([*command, *words], stderr=subprocess.DEVNULL))

    def write_config(self) -> None:
        known, config = [], []
        for place, name in enumerate(("one", "two"), start=1):
            public = (self.folder / f"hostkey{place}.pub").read_text()
            known.append(f"{self.net}.{place} {public}")
            config.append(f"Host {name}\n  HostName {self.net}.{place}\n")
        (self.folder / "known_hosts").write_text("".join(known))
        config += [f"Host gone\n  HostName {self.net}.77\n", "Host *\n  User root\n  StrictHostKeyChecking no\n"]
        config += [f"  IdentityFile {self.folder}/key\n  UserKnownHostsFile {self.folder}/known_hosts\n"]
        (self.folder / "config").write_text("".join(config))

    def hosts(self, folder: Path, **fields) -> Path:
        workers = fields.pop("workers", ["two"])
        fields = {"environment": sys.prefix, "python": sys.executable, "port": 20_379, **fields}
        return write(folder, workers=workers, ssh_config=str(self.folder / "config"), **fields)

    def run(self, *words: str) -> None:
        found = subprocess.run(words, capture_output=True, text=True)
        if found.returncode:
            raise OSError(f"{' '.join(words)}: {found.stderr.strip()}")

    def pids(self, name: str) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def remove(self) -> None:
        for name in self.names:
            for pid in self.pids(name):
                os.kill(pid, 9)
        for daemon in self.daemons:
            daemon.wait()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Iterator[Namespaces]:
    if (
        os.geteuid()
        or not shutil.which("sshd", path="/usr/sbin:/usr/bin")
        or not shutil.which("ip")
        or not shutil.which("ssh")
    ):
        pytest.skip("needs root, sshd (openssh-server), ssh and ip (iproute2)")
    it = None
    try:
        folder = tmp_path_factory.mktemp("namespaces")
        it = Namespaces.__new__(Namespaces)
        try:
            it.__init__(folder)
        except OSError as error:
            pytest.skip(f"no network namespaces here: {error}")
        for name in ("one", "two"):
            deadline = time.time() + 10
            command = ["ssh", "-F", str(folder / "config"), "-o", "BatchMode=yes", name, "true"]
            while subprocess.run(command, capture_output=True).returncode:
                if time.time() > deadline:
                    pytest.skip(f"no sshd: {subprocess.run(command, capture_output=True, text=True).stderr}")
                time.sleep(0.2)
        yield it
    finally:
        if it is not None:
            it.remove()


@pytest.fixture
def call(capsys, monkeypatch, tmp_path) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run(*words: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["plan", *map(str, words)])
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return run


def test_check_says_what_each_host_has_and_lacks(two, call, tmp_path):
    """The clock of the second is an hour off, as its Python sees it."""
    pytest.importorskip("ray", reason='needs Ray: pip install -e ".[ray]"')
    wrapper = tmp_path / "python-an-hour-on"
    wrapper.write_text(
        f"#!{sys.executable}\nimport sys, time\nreal = time.time\ntime.time = lambda: real() + 3600\n"
        "exec(compile(sys.stdin.read(), 'remote', 'exec'), {'__name__': '__main__'})\n"
    )
    wrapper.chmod(0o755)
    file = two.hosts(tmp_path, workers=[{"ssh": "two", "python": str(wrapper), "gpus": 3}])
    code, out, _ = call("hosts", "check", file)
    assert code == 1
    assert "one: " not in out
    assert "two: gpus: 3 asked, 0 there" in out
    assert "two: clock: 60 min ahead of this machine's; set the time" in out
    code, _, err = call("hosts", "up", file)
    assert (code, err.count("\n")) == (2, 1)
    assert "error: two: gpus: 3 asked, 0 there" in err


def test_a_changed_host_key_is_refused_with_the_remedy(two, call, tmp_path):
    """Also where the user's configuration says not to check: `StrictHostKeyChecking no` stands in it."""
    known = two.folder / "known_hosts"
    before = known.read_text()
    other = (two.folder / "key.pub").read_text()
    try:
        known.write_text(before.replace((two.folder / "hostkey2.pub").read_text(), other))
        code, out, _ = call("hosts", "check", two.hosts(tmp_path))
        assert code == 1
        (line,) = [line for line in out.splitlines() if line.startswith("two: ")]
        assert "its host key has changed, so it may be another machine" in line
        assert (
            f"ssh-keygen -f '{known}' -R '{two.net}.2'" in line or f'ssh-keygen -f "{known}" -R "{two.net}.2"' in line
        )
        known.write_text(before.splitlines(keepends=True)[0])
        code, out, _ = call("hosts", "check", two.hosts(tmp_path))
        assert "two: its host key is not known; connect once by hand (ssh two) and compare the fingerprint" in out
        assert known.read_text() == before.splitlines(keepends=True)[0], "nothing is accepted in passing"
    finally:
        known.write_text(before)


@pytest.mark.slow
def test_an_unreachable_host_takes_seconds_and_one_line(two, call, tmp_path):
    started = time.time()
    code, out, _ = call("hosts", "check", two.hosts(tmp_path, workers=["gone"]))
    assert code == 1
    assert "gone: cannot be reached (ssh: connect to host" in out
    assert time.time() - started < 20


@pytest.mark.slow
def test_hosts_come_up_run_a_plan_and_go_down(two, call, tmp_path, write_plan, monkeypatch):
    pytest.importorskip("ray", reason='needs Ray: pip install -e ".[ray]"')
    from concept_encoder.lab import scheduler

    fake = (sys.executable, "-S", "-E", str(Path(__file__).parents[1] / "fake.py"))
    monkeypatch.setattr(scheduler, "PROGRAM", fake)
    file, store = two.hosts(tmp_path), tmp_path / "store"
    try:
        code, out, err = call("hosts", "up", file)
        assert code == 0, err
        assert {"one: up", "two: up"} <= set(err.splitlines())
        hosts = load_hosts(file)
        token = hosts.token.read_text()
        assert oct(hosts.token.stat().st_mode & 0o777) == "0o600"
        for name in two.names:
            for pid in two.pids(name):
                assert token.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        plan = write_plan(
            {"id": "a", "seeds": [0, 1, 2], "overrides": {"data.fake": "sleep 2"}},
            {"id": "b", "verb": "finetune", "overrides": {"model.checkpoint": {"run": "a"}, "data.task": "mnli"}},
        )
        code, out, err = call("run", plan, "--on", f"ray:{file}", "--store", store, "--no-check")
        assert (code, "4 done" in out) == (0, True), err
        assert len(list(store.glob("runs/*/metrics.jsonl"))) == 4
        code, out, _ = call("report", plan, "--store", store)
        assert code == 0
        big = write_plan({"id": "big", "resources": {"gpus": 2}})
        code, _, err = call("check", big, "--quick", "--on", f"ray:{file}")
        assert (code, err.count("\n")) == (2, 1)
        assert f"resources.gpus: 2, but {two.net}.1 has 0, {two.net}.2 has 0" in err
        logs = [path for folder in (store, tmp_path / "hosts") for path in folder.rglob("*") if path.is_file()]
        holders = [path for path in logs if token in path.read_text(errors="replace")]
        assert {path.name for path in holders} == {"token"}
        assert {oct(path.stat().st_mode & 0o777) for path in holders} == {"0o600"}
    finally:
        code, out, err = call("hosts", "down", file)
    assert code == 0
    assert {"one: stopped", "two: stopped"} <= set(err.splitlines())
    left = [Path(f"/proc/{pid}/cmdline").read_bytes() for name in two.names for pid in two.pids(name)]
    assert not [words for words in left if b"ray" in words]
    assert not hosts.token.exists()
    code, _, err = call("run", plan, "--on", f"ray:{file}", "--store", tmp_path / "other", "--no-check")
    assert (code, "not up; concept-encoder plan hosts up" in err) == (2, True)


@pytest.mark.slow
def test_a_cut_link_is_waited_out(two, call, tmp_path, write_plan, lab):
    """The run ends while nobody can see it; all of it is here when the link is back."""
    pytest.importorskip("ray", reason='needs Ray: pip install -e ".[ray]"')
    file, release = two.hosts(tmp_path), tmp_path / "release"
    plan = write_plan({"id": "a", "overrides": {"data.fake": f"until {release}"}})
    try:
        assert call("hosts", "up", file)[0] == 0
        scheduler = lab(plan, engine=open_engine(f"ray:{file}"))
        (state,) = scheduler.states.values()

        def follow(until: Callable[[], object], seconds: float) -> None:
            end = time.time() + seconds
            while scheduler.tick() and not until():
                assert time.time() < end
                time.sleep(0.3)

        follow(lambda: (Path(state.folder) / "metrics.jsonl").exists(), 240)
        two.run("ip", "link", "set", two.bridge, "down")
        release.touch()
        cut = time.time()
        follow(lambda: time.time() > cut + 50, 240)
        assert (state.state, state.attempt) == ("running", 1)
        two.run("ip", "link", "set", two.bridge, "up")
        follow(lambda: False, 240)
        assert (state.state, state.attempt) == ("done", 1)
    finally:
        two.run("ip", "link", "set", two.bridge, "up")
        assert call("hosts", "down", file)[0] == 0


@pytest.mark.slow
def test_what_came_up_halfway_goes_down_again(two, call, tmp_path):
    """The second host cannot join: its environment is none."""
    pytest.importorskip("ray", reason='needs Ray: pip install -e ".[ray]"')
    hosts = load_hosts(two.hosts(tmp_path))
    cluster = Cluster(hosts)
    original = cluster._call

    def fails(host, function, **values):
        if (host.ssh, function) == ("two", "start"):
            values["words"] = ["--no-such-option"]
        return original(host, function, **values)

    cluster._call = fails
    with pytest.raises(UserError, match="two: ray start"):
        cluster.up(lambda line: None)
    assert not cluster._call(hosts.head, "alive")["up"]
