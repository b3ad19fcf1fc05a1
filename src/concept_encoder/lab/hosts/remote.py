"""What is done on a host, in the standard library and for old Pythons too: `ssh.py` sends this file's text there."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time

PATIENCE = 180  # seconds that Ray may take to start
ANSWER = "\x1econcept-encoder "  # before the one line of the answer


def answer(request):
    """Call a function by name with its values, and print what it returns as JSON, or its error."""
    name, values = json.loads(request)
    try:
        found = {"check": check, "install": install, "start": start, "alive": alive, "stop": stop}[name](**values)
    except Problem as problem:
        found = {"error": str(problem)}
    except OSError as error:
        found = {"error": f"{error.filename or name}: {error.strerror}"}
    print(ANSWER + json.dumps(found), flush=True)


class Problem(Exception):
    """In one line."""


def check(folder, state, environment):
    """What the host has: Python, GPUs, disk, clock, and what is installed."""
    found = {"time": time.time(), "python": list(sys.version_info[:3]), "cpus": os.cpu_count()}
    found["venv"] = _works([sys.executable, "-c", "import venv, ensurepip"])
    found["address"] = os.environ.get("SSH_CONNECTION", "").split(" ")[2:3]
    found["nvidia"] = os.path.exists("/proc/driver/nvidia") or shutil.which("nvidia-smi") is not None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
        text = listed.stdout.decode(errors="replace").strip()
        found["gpus"], found["driver"] = (text.splitlines(), "") if listed.returncode == 0 else ([], text[:150])
    except (OSError, subprocess.SubprocessError) as error:
        found["gpus"], found["driver"] = [], str(error)[:150]
    existing = folder
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    found["writable"], found["exists"] = os.access(existing, os.W_OK | os.X_OK), existing
    found["free"] = shutil.disk_usage(existing).free
    found["versions"], found["up"] = _versions(environment), _running(state) is not None
    found["wheel"] = _read(os.path.join(folder, "installed.txt"))
    return found


def install(folder, name, wheel, extras, packages):
    """Put the project's wheel and Ray into a virtual environment."""
    os.makedirs(folder, exist_ok=True)
    environment, file = os.path.join(folder, "venv"), os.path.join(folder, name)
    with open(file, "wb") as opened:
        opened.write(base64.b64decode(wheel))
    if not os.path.exists(os.path.join(environment, "bin", "pip")):
        _do([sys.executable, "-m", "venv", environment])
    pip = [os.path.join(environment, "bin", "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _do([*pip, "{}[{}]".format(file, ",".join(extras)) if extras else file, *packages])
    _do([*pip, "--force-reinstall", "--no-deps", file])  # of the same version, and yet another
    with open(os.path.join(folder, "installed.txt"), "w") as opened:
        opened.write(name)
    return {"versions": _versions(environment)}


def start(state, environment, token, words, port):
    """`ray start`, in a session of its own. The token goes into a file that only this user reads."""
    if _running(state) is not None:
        return {"was": "up"}
    ray = os.path.join(environment, "bin", "ray")
    if not os.path.exists(ray):
        raise Problem(f"no {ray}; install first (plan hosts install)")
    os.makedirs(state, exist_ok=True)
    secret = os.path.join(state, "token")
    if os.path.exists(secret):
        os.remove(secret)
    with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(token)
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    mine["PATH"] = os.path.dirname(ray) + os.pathsep + os.environ.get("PATH", "")
    mine.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=secret, RAY_USAGE_STATS_ENABLED="0")
    mine["RAY_JOB_START_TIMEOUT_SECONDS"] = str(30 * 86400)  # a job may wait for its GPUs that long
    temporary = f"/tmp/concept-encoder-{os.getuid()}-{port}"  # short: sockets have paths of 107 bytes
    os.makedirs(temporary, mode=0o700, exist_ok=True)
    if os.stat(temporary).st_uid != os.getuid():
        raise Problem(f"{temporary} belongs to somebody else")
    if "--head" in words:
        words = [*words, "--temp-dir=" + temporary]
    with open(os.path.join(state, "ray.log"), "wb") as log:
        process = subprocess.Popen(
            [ray, "start", "--block", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=mine,
            cwd=state,
            start_new_session=True,
        )
    with open(os.path.join(state, "ray.json"), "w") as opened:
        json.dump({"pid": process.pid, "started": _started(process.pid)}, opened)
    return _until_up(process, os.path.join(state, "ray.log"))


def _until_up(process, log):
    """Wait until Ray says that it has started."""
    end = time.time() + PATIENCE
    while time.time() < end:
        said = _read(log)
        if "Ray runtime started" in said:
            return {"was": "down"}
        if process.poll() is not None:
            raise Problem(f"ray start: {_last(said)}")
        time.sleep(0.3)
    raise Problem(f"ray start: not up after {PATIENCE} s: {_last(said)}")


def alive(state):
    """Whether Ray runs here, as `start` started it."""
    return {"up": _running(state) is not None}


def stop(state):
    """End what `start` has started, and nothing else; also what is only half up."""
    pid = _running(state)
    if pid is not None:
        for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
            try:
                os.killpg(pid, number)
            except OSError:
                break
            end = time.time() + seconds
            while time.time() < end and _running(state) is not None:
                time.sleep(0.2)
            if _running(state) is None:
                break
    for name in ("token", "ray.json"):
        if os.path.exists(os.path.join(state, name)):
            os.remove(os.path.join(state, name))
    return {"was": "down" if pid is None else "up"}


def _running(state):
    try:
        with open(os.path.join(state, "ray.json")) as opened:
            known = json.load(opened)
        return known["pid"] if _started(known["pid"]) == known["started"] is not None else None
    except (OSError, ValueError, KeyError):
        return None


def _started(pid):
    """When a process started: with the pid it names a process for ever. None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as opened:
            fields = opened.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        return None


def _versions(environment):
    """Of Ray, Python and the project in an environment; none when it is not there."""
    python = os.path.join(environment, "bin", "python")
    code = "import sys; from importlib.metadata import version as v; print(v('ray'), '%d.%d' % sys.version_info[:2], "
    code += "v('concept-encoder'))"
    try:
        found = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
        return found.stdout.decode().split()
    except (OSError, subprocess.SubprocessError):
        return []


def _works(command):
    return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def _do(command):
    found = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if found.returncode:
        said = _last(found.stdout.decode(errors="replace"))
        raise Problem(" ".join(command[:4]) + f": {said}")


def _last(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = [line for line in lines if "Error" in line or "ERROR" in line]
    return (wrong or lines or ["no output"])[-1][-300:]


def _read(file):
    try:
        with open(file, errors="replace") as opened:
            return opened.read()
    except OSError:
        return ""
