"""`python -m concept_encoder.bench.memory REQUEST`: the peak memory of one step, in a process of its own."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from concept_encoder.bench.contestants import build_contestant
from concept_encoder.bench.measure import MemoryRequest
from concept_encoder.bench.sizes import Sizes
from concept_encoder.bench.workloads import make_step, packed_batch


def added_by_step(request: MemoryRequest) -> int:
    """Bytes above the built model and its optimiser, at their peak."""
    device, sizes = torch.device(request.device), Sizes(**request.sizes)
    contestant = build_contestant(request.name, sizes, request.mode, request.attention).to(device)
    step = make_step(request.mode, contestant, request.precision)
    step(packed_batch(64, 64, sizes.vocab_size).to(device))  # what is allocated once: optimiser state, work space
    batch = packed_batch(request.length, request.tokens, sizes.vocab_size).to(device)
    return peak_of(lambda: step(batch), device)


def peak_of(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that `work` allocates above what is there now, at their peak."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    before = _resident("VmRSS")
    _forget_peak()
    work()
    return _resident("VmHWM") - before


def _forget_peak() -> None:
    """Let the peak begin anew (Linux), so that building the model does not count."""
    Path("/proc/self/clear_refs").write_text("5")


def _resident(field: str) -> int:
    """VmRSS, resident bytes now, or VmHWM, their peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    print(added_by_step(MemoryRequest(**json.loads(sys.argv[1]))))
