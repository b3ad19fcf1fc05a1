"""The parent process of one local run: it keeps the log and the exit code when nobody else is left to see them.

    python supervise.py ATTEMPT_FOLDER LOCK_FD

Standard library alone, so that it starts in milliseconds. The lock that it inherits, and passes on to the run, says to
everyone that the run is alive; the kernel frees it with the last of the two, whatever ended them.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time


def start_time(pid: int) -> str | None:
    """When a process started, by its system: with the pid it names a process for ever. None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return None if fields[0] in "ZX" else f"{file.read().strip()}:{fields[19]}"
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return None
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)  # macOS
    return found.stdout.strip() or None


def write(folder: str, name: str, content: dict) -> None:
    """Whole or not at all."""
    beside = os.path.join(folder, f".{name}.{os.getpid()}")
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(content, file)
    os.replace(beside, os.path.join(folder, name))


def read(file: str | os.PathLike) -> dict:
    """What `write` wrote; empty when it is not there, or not whole."""
    try:
        with open(file, encoding="utf-8") as opened:
            return json.load(opened)
    except (OSError, ValueError):
        return {}


def reserve(folder: str) -> None:
    """Set space aside for the exit code, so that a full disk does not swallow it."""
    with open(os.path.join(folder, ".exit.json"), "w", encoding="utf-8") as file:
        file.write(" " * 4096)


def finish(folder: str, code: int) -> None:
    """Say how the run ended, whole or not at all, and whether the disk was full when it failed."""
    disk = os.statvfs(folder)
    full = code != 0 and disk.f_bavail * disk.f_frsize < 2**16
    aside = os.path.join(folder, ".exit.json")
    with open(aside, "r+", encoding="utf-8") as file:
        json.dump({"code": code, "time": time.time(), "full": full}, file)
    os.replace(aside, os.path.join(folder, "exit.json"))


def start(folder: str, log, **options) -> subprocess.Popen | None:
    """Start the command of `folder`/job.json with its output going to `log`; None, and a line there, if it cannot."""
    with open(os.path.join(folder, "job.json"), encoding="utf-8") as file:
        job = json.load(file)
    environment = {**os.environ, **job["environment"]}
    try:
        return subprocess.Popen(
            job["command"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, **options
        )
    except OSError as error:
        log.write(f"error: {job['command'][0]}: {error.strerror}\n".encode())
        return None


def main(folder: str, lock: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the run gets them too and decides; a handler,
        signal.signal(number, lambda *_: None)  # as an ignored signal would be ignored by the run as well
    reserve(folder)
    write(folder, "process.json", {"pid": os.getpid(), "started": start_time(os.getpid())})
    with open(os.path.join(folder, "log.txt"), "ab") as log:
        process = start(folder, log, pass_fds=(lock,))
        if process:
            with contextlib.suppress(OSError):  # a full disk; it serves where this process is killed before the run
                write(folder, "child.json", {"pid": process.pid, "started": start_time(process.pid)})
        code = process.wait() if process else 2
    finish(folder, code)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
