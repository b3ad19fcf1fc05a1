"""Why a run ended badly, read from its exit code and the end of its log, and whether trying again makes sense."""

import os
import re
import signal
from dataclasses import dataclass
from typing import Literal

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
_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL", re.I)
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
    if _DISK.search(log) or _DISK.search(why):
        return Failure("disk", "the disk is full: free some space and give the same command again")
    if _MEMORY.search(log) or _MEMORY.search(why):
        return Failure("memory", "out of memory")
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "")
    if code == 2 and last.startswith(("error: ", "Error: ")):
        return Failure("mistake", mask(last.partition(": ")[2]))
    if code is None:
        return Failure("lost", f"its process disappeared ({why or 'machine restarted, or killed with its supervisor'})")
    if code == -signal.SIGKILL:  # not by us: then the run would be marked as stopping
        return Failure("killed", "ended by SIGKILL: somebody's, or the kernel's for lack of memory")
    if code < 0:
        return Failure("crash", f"ended by {signal.Signals(-code).name}{_where(log)}")
    return Failure("crash", mask(f"exit code {code}: {last.strip()[:200] or 'no output'}{_where(log)}"))


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
