"""Why a run ended badly, read from its exit code and the end of its log, and whether trying again makes sense."""

import os
import re
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

RETRIES = {"crash": 1, "killed": 2, "lost": 3, "memory": 1, "disk": 1}  # attempts after the first, by what went wrong
FULL = "the disk is full: free some space and give the same command again"
_LITTLE = 2**28  # bytes left on the store's disk that make a run believed which says that it was full

# In the order in which they are asked: a full disk often ends in a traceback too.
_DISK = re.compile(r"no space left on|Errno 28|ENOSPC|os error 28|Disk quota exceeded", re.I)
_MEMORY = re.compile(
    r"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|can't allocate memory|Cannot allocate memory|"
    r"std::bad_alloc|^MemoryError|oom_kill event|OUT_OF_MEMORY",
    re.I | re.M,
)
_CAUSES = (
    (r"ConnectionError|Temporary failure in name resolution|ReadTimeout|offline mode", "the network or the hub"),
    (r"CUDA error|cudaError|NCCL|device-side assert", "the GPU or its driver"),
    (r"ModuleNotFoundError|ImportError", "a package is missing in this environment"),
    (r"PermissionError", "rights on a file"),
    (r"FileNotFoundError", "a file that is not there"),
    (r"size mismatch|shape|must match", "shapes that do not fit: a checkpoint of another configuration?"),
)
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)$', re.M)
_SECRET_NAMES = re.compile(r"TOKEN(?!IZER)|SECRET|PASSW|PASSPHRASE|API_?KEY|(?:^|_)KEY$|_PWD$|CREDENTIAL", re.I)
_SECRETS = re.compile(
    r"\b(?:hf_\w{8,}|gh[pousr]_\w{16,}|sk-[\w-]{16,}|AKIA[0-9A-Z]{16})"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)|(?i:(?<=bearer )[\w.~+/-]{8,}=*)"
)


@dataclass(frozen=True)
class Failure:
    """What happened, and a sentence for the record."""

    kind: Literal["memory", "disk", "mistake", "crash", "killed", "lost"]
    reason: str


def diagnose(log: str, code: int | None, why: str = "") -> Failure:
    """Judge a run that left no result.

    Args:
        log: the end of its output.
        code: its exit code; negative is a signal, None means that nobody saw it end.
        why: what the engine says of that.
    """
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "")
    if _DISK.search(_raised(log)) or _DISK.search(last) or _DISK.search(why):
        return Failure("disk", f"no space left on its disk{_where(log)}")
    if _MEMORY.search(log) or _MEMORY.search(why):
        return Failure("memory", "out of memory")
    if code == 2 and last.startswith(("error: ", "Error: ")):
        return Failure("mistake", mask(last.partition(": ")[2]))
    if code is None:
        return Failure("lost", f"its process disappeared ({why or 'machine restarted, or killed with its supervisor'})")
    if code == -signal.SIGKILL:  # not by us: then the run would be marked as stopping
        return Failure("killed", "ended by SIGKILL: somebody's, or the kernel's for lack of memory")
    if code < 0:
        return Failure("crash", f"ended by {signal.Signals(-code).name}{_where(log)}")
    return Failure("crash", mask(f"exit code {code}: {last.strip()[:200] or 'no output'}{_where(log)}"))


@dataclass(frozen=True)
class Verdict:
    """Whether a run that failed is tried again, why, and what its state keeps of that."""

    again: bool
    reason: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def verdict(failure: Failure, failures: Mapping[str, int], smaller: Mapping[str, Any] | None) -> Verdict:
    """Decide what comes after a failure.

    Args:
        failures: of the run so far, kind -> how often.
        smaller: changes to its recipe with half the micro-batch; None when it cannot be halved.
    """
    failures = {**failures, failure.kind: failures.get(failure.kind, 0) + 1}
    fields = {"failures": failures}
    if failures[failure.kind] > RETRIES.get(failure.kind, 0):
        tries = sum(failures.values())
        return Verdict(False, failure.reason + (f" ({tries} attempts)" if tries > 1 else ""), fields)
    for_memory = failure.kind == "memory" or (failure.kind == "killed" and failures["killed"] == RETRIES["killed"])
    if for_memory and smaller:
        micro = smaller["training.micro_batch_size"]
        reason = f"{failure.reason}; next with micro_batch_size {micro}, the effective batch stays"
        return Verdict(True, reason, {**fields, "changes": dict(smaller)})
    if failure.kind == "memory":
        return Verdict(False, f"{failure.reason}, and its micro-batch cannot be halved", fields)
    return Verdict(True, failure.reason, fields)


def is_full(folder: Path) -> bool:
    """Whether the disk of a folder has next to nothing left."""
    return shutil.disk_usage(folder).free < _LITTLE


def _raised(log: str) -> str:
    """What was raised last: the lines after the last frame of the last traceback, to the first that is not indented."""
    frames = list(_FRAME.finditer(log))
    if not frames:
        return ""
    lines = log[frames[-1].end() :].splitlines(keepends=True)
    end = next((i for i, line in enumerate(lines) if line.strip() and not line[0].isspace()), len(lines))
    return "".join(lines[: end + 1])


def _where(log: str) -> str:
    """The last frame of the last traceback, and a likely cause."""
    frames = list(_FRAME.finditer(log))
    where = f", in {frames[-1]['function']} ({frames[-1]['file']}:{frames[-1]['line']})" if frames else ""
    tail = log[frames[-1].start() :] if frames else log[-500:]
    cause = next((cause for pattern, cause in _CAUSES if re.search(pattern, tail)), "")
    return where + (f"; likely {cause}" if cause else "")


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds what nobody may read."""
    return _SECRET_NAMES.search(name) is not None


def mask(text: str) -> str:
    """The text without secrets: known forms of tokens, passwords in addresses, and the values of secret variables."""
    for name, value in os.environ.items():
        if is_secret(name) and len(value) >= 8:
            text = text.replace(value, "***")
    return _SECRETS.sub("***", text)
