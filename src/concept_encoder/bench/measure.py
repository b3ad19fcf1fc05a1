"""Time and memory, measured: interleaved repetitions in one process, peak memory in a fresh process each."""

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from concept_encoder.bench.contestants import Batch
from concept_encoder.bench.workloads import Step


@dataclass(frozen=True)
class Timing:
    """Seconds a step: the median of the repetitions, and their extremes."""

    median: float
    fastest: float
    slowest: float

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median."""
        return (self.slowest - self.fastest) / self.median


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_interleaved(
    steps: Mapping[str, Step],
    batches: Sequence[Batch],
    device: torch.device,
    repeats: int,
    warm_up: int = 1,
    on_failure: Callable[[str, Exception], None] = lambda name, error: None,
) -> dict[str, Timing]:
    """Time every step on all batches, `repeats` rounds in which each takes its turn. Whoever fails is left out."""
    seconds: dict[str, list[float]] = {}
    for round_number in range(warm_up + repeats):
        for name in list(steps) if round_number == 0 else list(seconds):
            try:
                elapsed = _time_once(steps[name], batches, device)
            except Exception as error:  # whatever a stranger's model raises, the others' numbers are kept
                on_failure(name, error)
                seconds.pop(name, None)
                continue
            seconds.setdefault(name, [])
            if round_number >= warm_up:
                seconds[name].append(elapsed / len(batches))
    return {name: Timing(statistics.median(times), min(times), max(times)) for name, times in seconds.items() if times}


def _time_once(step: Step, batches: Sequence[Batch], device: torch.device) -> float:
    """Seconds for one pass over the batches."""
    synchronize(device)
    started = time.perf_counter()
    for batch in batches:
        step(batch)
    synchronize(device)
    return time.perf_counter() - started


def matmul_ceiling(device: torch.device, precision: str) -> float:
    """FLOP/s of a large square matrix product here and now: what no model can exceed."""
    size = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(8):
        synchronize(device)
        started = time.perf_counter()
        left @ right
        synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times[2:])


@dataclass(frozen=True)
class MemoryRequest:
    """One step to be measured in a process of its own (`python -m concept_encoder.bench.memory`)."""

    name: str
    mode: str
    length: int
    tokens: int
    precision: str
    device: str
    attention: str
    sizes: dict[str, int]


def peak_memory(request: MemoryRequest) -> int | None:
    """Bytes that one step adds to the built model, at their peak; None where it does not run, as the row says."""
    command = [sys.executable, "-m", "concept_encoder.bench.memory", json.dumps(asdict(request))]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(finished.stdout.split()[-1]) if finished.returncode == 0 else None


def free_memory(device: torch.device) -> None:
    gc.collect()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def kernels_by_time(step: Step, batch: Batch, device: torch.device, top: int = 12) -> list[tuple[str, float]]:
    """The operations (on CUDA: the kernels) that take most of a step, with their share of its time."""
    from torch.profiler import ProfilerActivity, profile

    step(batch)
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        step(batch)
        synchronize(device)
    spent: dict[str, float] = {}
    for event in profiler.key_averages():
        own = event.self_device_time_total if cuda else event.self_cpu_time_total
        name = event.key if len(event.key) <= 60 else event.key[:59] + "…"  # kernels of templates have long names
        spent[name] = spent.get(name, 0.0) + own
    total = sum(spent.values())
    return [(name, share / total) for name, share in sorted(spent.items(), key=lambda item: -item[1])[:top]]
