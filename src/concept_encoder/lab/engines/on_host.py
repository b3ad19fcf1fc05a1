"""What runs on a host in a job's place: it starts the command, and carries its log and small files home.

    CONCEPT_ENCODER_JOB=… python -m concept_encoder.lab.engines.on_host

The job comes in one variable of the environment, as JSON in base64: no shell reads a word of it, and Ray, which puts
values in the place of `$NAME`, finds none.
"""

import base64
import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from concept_encoder.errors import UserError
from concept_encoder.lab.engines.carried import GROWING, MARK, exit_line, pieces
from concept_encoder.lab.engines.storage import Storage

VARIABLE = "CONCEPT_ENCODER_JOB"
LARGEST = 8 * 2**20  # bytes of a file that still counts as small
LEFT_THERE = (".safetensors", ".pt", ".pth", ".bin", ".arrow", ".npz")  # weights and states of optimisers
EVERY, EVERY_STORED = 1.0, 30.0  # seconds between two looks at the folder: for small files, for checkpoints


def packed(job: Mapping[str, Any]) -> str:
    """A job as the value of `VARIABLE`."""
    return base64.b64encode(json.dumps(job).encode()).decode("ascii")


def unpacked(value: str) -> dict[str, Any]:
    """The job again."""
    return json.loads(base64.b64decode(value))


class Sender:
    """Sends what is new in a run's folder.

    Args:
        folder: of the run.
        last: names that say that the run has finished; they go when everything else has gone.
        say: takes the lines.
    """

    def __init__(self, folder: Path, last: tuple[str, ...], say: Callable[[str], object]):
        self.folder, self.last, self.say = folder, last, say
        self._sent: dict[str, Any] = {}  # of a growing file the bytes, of another its time and size

    def send(self, finished: bool = False) -> None:
        """Once more; what must come last goes only when the run has finished."""
        names = sorted(self._names(), key=lambda name: name in self.last)
        for name in names:
            if name in self.last and not finished:
                continue
            try:
                self._send(name)
            except OSError:  # replaced or removed just now
                continue

    def _names(self) -> Iterator[str]:
        for folder, inside, files in os.walk(self.folder):
            inside[:] = [name for name in inside if name != "checkpoints" and not name.startswith(".")]
            for name in files:
                path = Path(folder, name)
                if not name.startswith((".", "tokenizer")) and path.suffix not in LEFT_THERE and path.is_file():
                    yield path.relative_to(self.folder).as_posix()

    def _send(self, name: str) -> None:
        path = self.folder / name
        if name.endswith(GROWING):
            at = self._sent.get(name, 0)
            with open(path, "rb") as file:
                file.seek(at)
                data = file.read()
            data = data[: data.rfind(b"\n") + 1]
            if data:
                self._say(pieces(name, data, at))
                self._sent[name] = at + len(data)
            return
        found = path.stat()
        stamp = (found.st_mtime_ns, found.st_size)
        if stamp != self._sent.get(name) and found.st_size <= LARGEST:
            self._say(pieces(name, path.read_bytes()))
            self._sent[name] = stamp

    def _say(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.say(line)


def main(job: Mapping[str, Any]) -> int:
    """Run the job to its end. Returns its exit code, negative for a signal."""
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever stops a job signals its command as well, which decides
        signal.signal(number, lambda *_: None)
    folder, output = Path(job["folder"]), Path(job["output"])
    output.mkdir(parents=True, exist_ok=True)
    for name, text in job["files"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    sender = Sender(output, tuple(job["last"]), _say)
    with open(output.with_name(f".{output.name}.lock"), "w") as lock:
        if not _locked(lock, seconds=60):
            _say("an earlier attempt at this run still goes on here\n")
            return 75  # EX_TEMPFAIL
        if not job.get("storage"):
            return _run(job, sender, lambda: None)
        try:
            storage = Storage(job["storage"])
        except UserError as error:
            _say(f"error: {error}\n")
            return 2
        for there, here in [*job["inputs"], [job["stored"], job["output"]]]:
            storage.get(there, Path(here))
        return _run(job, sender, lambda: storage.put(output, job["stored"]))


def _run(job: Mapping[str, Any], sender: Sender, store: Callable[[], None]) -> int:
    command = [sys.executable if word == job["python"] else word for word in job["command"]]
    mine = dict(os.environ)
    if not job.get("spread"):  # else the command asks Ray for processes, as this job
        mine = {name: value for name, value in mine.items() if name != VARIABLE and not name.startswith("RAY_")}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=mine | job["environment"],
            preexec_fn=_dies_with_its_parent,
        )
    except OSError as error:
        _say(f"error: {command[0]}: {error.strerror}\n")
        return 2

    def try_to_store() -> None:
        try:
            store()
        except Exception as error:  # whatever a driver makes of a cut link; the run goes on
            _say(f"storage: {type(error).__name__}: {error}\n")

    for line in _lines(process, {sender.send: EVERY, try_to_store: EVERY_STORED}):
        _say(line.replace(MARK, "").rstrip("\n") + "\n")
    code = process.wait()
    store()  # if this fails the run has not finished: no result is sent
    sender.send(finished=True)
    return code


def _dies_with_its_parent() -> None:
    """In the new process: nobody carries home what it does when this one has been killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _lines(process: subprocess.Popen, every: Mapping[Callable[[], None], float]) -> Iterator[str]:
    """The output of a process, line by line; in between `every` function is called after its seconds.

    It ends with the process, even if a grandchild keeps the pipe open.
    """
    pipe, rest, due = process.stdout.fileno(), b"", dict.fromkeys(every, 0.0)
    while True:
        ready, _, _ = select.select([pipe], [], [], EVERY)
        read = os.read(pipe, 65536) if ready else b""
        *lines, rest = (rest + read).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines)
        if (ready and not read) or (not ready and process.poll() is not None):
            break
        for each, seconds in every.items():
            if time.monotonic() >= due[each]:
                each()
                due[each] = time.monotonic() + seconds
    if rest:
        yield rest.decode("utf-8", "replace")


def _locked(file: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.5)
        else:
            return True


def _say(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


if __name__ == "__main__":
    ended = main(unpacked(os.environ[VARIABLE]))
    _say(exit_line(ended))
    sys.exit(ended if ended >= 0 else 128 - ended)
