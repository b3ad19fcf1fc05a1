"""A benchmark from its options to its record: every length in turn, contestants interleaved."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from concept_encoder.bench.contestants import Batch, Preset, build_contestant
from concept_encoder.bench.measure import (
    MemoryRequest,
    Timing,
    free_memory,
    kernels_by_time,
    matmul_ceiling,
    peak_memory,
    time_interleaved,
)
from concept_encoder.bench.modes import MASK_RATE
from concept_encoder.bench.sizes import Sizes
from concept_encoder.bench.workloads import make_step, packed_batch, padded_batches
from concept_encoder.environment import environment
from concept_encoder.model.accounting import cost

Say = Callable[[str], None]


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Attributes:
        mode: one of `modes.MODES`.
        models: contestants; ratios are against the first.
        lengths: tokens of a text; not used by `finetune`, whose texts have their own.
        tokens: in a batch (at least one text); for `finetune`, 32 texts a batch.
        text_lengths: of the texts of `finetune`, in order.
        batch_size: texts in a batch of `finetune`.
        repeats: rounds; every contestant takes its turn in each.
        precision: `fp32` or `bf16` (autocast).
        memory: also measure each in a fresh process.
        profile: contestants whose operations are listed by time.
    """

    mode: str
    models: Sequence[str]
    lengths: Sequence[int] = (512,)
    tokens: int = 4096
    text_lengths: Sequence[int] = ()
    batch_size: int = 32
    repeats: int = 3
    precision: str = "fp32"
    device: str = "cpu"
    attention: str = "sdpa"
    compile: bool = False
    memory: bool = False
    profile: Sequence[str] = ()
    sizes: Sizes = field(default_factory=Sizes)


def run_bench(options: BenchOptions, say: Say = lambda line: None) -> dict[str, Any]:
    """Measure everything. Returns the record that `bench.json` holds: options, environment, ceiling, rows."""
    device = torch.device(options.device)
    record: dict[str, Any] = {
        "options": asdict(options),
        "environment": environment(),
        "matmul_flops_per_second": matmul_ceiling(device, options.precision),
        "rows": [],
        "failed": [],
        "kernels": {},
    }
    for length in (0,) if options.mode == "finetune" else options.lengths:
        record["rows"] += _measure_length(options, device, length, record, say)
    return record


def _measure_length(
    options: BenchOptions, device: torch.device, length: int, record: dict[str, Any], say: Say
) -> list[dict[str, Any]]:
    batches = _batches(options, device, length)
    longest = max(batch.input_ids.shape[1] for batch in batches)
    sizes = Sizes(**{**asdict(options.sizes), "max_length": max(longest, options.sizes.max_length)})

    def failed(name: str, error: Exception) -> None:
        reason = str(error).strip().split("\n")[0][:160] or type(error).__name__
        record["failed"].append({"model": name, "length": length, "reason": reason})
        say(f"{name} at {length}: left out ({reason})")

    contestants = {}
    for name in options.models:
        try:
            contestants[name] = build_contestant(name, sizes, options.mode, options.attention).to(device)
        except Exception as error:  # a stranger's model may raise anything
            failed(name, error)
    steps = {
        name: make_step(options.mode, model, options.precision, options.compile) for name, model in contestants.items()
    }
    warm_up = 3 if device.type == "cuda" else 1
    timings = time_interleaved(steps, batches, device, options.repeats, warm_up, failed)
    rows = []
    for name, timing in timings.items():
        row = _row(name, timing, batches, length)
        if isinstance(contestants[name], Preset) and options.mode != "finetune":
            row["flops_per_token"] = flops_per_token(contestants[name], options.mode, length)
            row["mfu"] = row["flops_per_token"] * row["tokens_per_second"] / record["matmul_flops_per_second"]
        if name in options.profile:
            record["kernels"][f"{name} at {length}"] = kernels_by_time(steps[name], batches[0], device)
        rows.append(row)
        say(f"{name} at {length or 'real lengths'}: {row['tokens_per_second']:,.0f} tokens/s")
    del contestants, steps
    free_memory(device)
    if options.memory:
        for row in rows:
            row["memory_bytes"] = peak_memory(_memory_request(options, row["model"], length, sizes))
    _add_ratios(rows, options.models[0])
    return rows


def flops_per_token(preset: Preset, mode: str, length: int) -> float:
    """Of a step on full rows; the backward pass counts as two forward passes."""
    counted = cost(preset.config, length, MASK_RATE)
    if mode == "pretrain":
        return 3 * counted.flops_per_token
    return counted.encoder_flops_per_token * (3 if mode == "body" else 1)


def _batches(options: BenchOptions, device: torch.device, length: int) -> list[Batch]:
    if options.mode == "finetune":
        batches = padded_batches(options.text_lengths, options.batch_size, options.sizes.vocab_size)
    else:
        batches = [packed_batch(length, options.tokens, options.sizes.vocab_size)]
    return [batch.to(device) for batch in batches]


def _row(name: str, timing: Timing, batches: Sequence[Batch], length: int) -> dict[str, Any]:
    texts = sum(len(batch.input_ids) for batch in batches) / len(batches)
    tokens = sum(batch.tokens for batch in batches) / len(batches)
    return {
        "model": name,
        "length": length,
        "texts": texts,
        "tokens": tokens,
        "seconds": timing.median,
        "fastest": timing.fastest,
        "slowest": timing.slowest,
        "tokens_per_second": tokens / timing.median,
        "texts_per_second": texts / timing.median,
    }


def _memory_request(options: BenchOptions, name: str, length: int, sizes: Sizes) -> MemoryRequest:
    return MemoryRequest(
        name=name,
        mode=options.mode,
        length=length,
        tokens=options.tokens,
        precision=options.precision,
        device=options.device,
        attention=options.attention,
        sizes=asdict(sizes),
    )


def _add_ratios(rows: list[dict[str, Any]], first: str) -> None:
    """Speed as a multiple of the first contestant's, in the same rounds; None where that one failed."""
    seconds = next((row["seconds"] for row in rows if row["model"] == first), None)
    for row in rows:
        row["ratio"] = None if seconds is None else seconds / row["seconds"]
