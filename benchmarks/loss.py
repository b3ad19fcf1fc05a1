"""The masked-LM loss by its kernels: time, peak memory, and distance from the dense fp32 reference.

    python benchmarks/loss.py                 # 8 rows of 512 tokens at the canonical size, a minute on the CPU
    python benchmarks/loss.py --device cuda --rows 64

The dense reference computes logits at all tokens; the others at the 15 % that are labelled. Each row runs in a process
of its own, so that its peak memory is its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

from concept_encoder.bench.measure import synchronize
from concept_encoder.bench.memory import peak_of
from concept_encoder.bench.report import markdown
from concept_encoder.model import losses

WIDTH, VOCABULARY, LENGTH, RATE = 512, 50_368, 512, 0.15
ROWS = {
    "dense, fp32": ("dense", "fp32"),
    "plain, fp32": ("plain", "fp32"),
    "chunked, fp32": ("chunked", "fp32"),
    "dense, bf16": ("dense", "bf16"),
    "plain, bf16": ("plain", "bf16"),
    "chunked, bf16": ("chunked", "bf16"),
    "liger, bf16": ("liger", "bf16"),
}


def measure(kernel: str, precision: str, rows: int, device: torch.device, repeats: int = 3) -> dict:
    """Seconds, bytes, the loss and the gradient of the states at labelled tokens (as a norm of its difference)."""
    generator = torch.Generator().manual_seed(0)
    count = round(RATE * LENGTH) * rows
    labelled = torch.randn(count, WIDTH, generator=generator).to(device)
    labels = torch.randint(VOCABULARY, (count,), generator=generator).to(device)
    torch.manual_seed(0)
    decoder = nn.Linear(WIDTH, VOCABULARY).to(device)
    nn.init.normal_(decoder.weight, std=0.02)
    if kernel == "dense":
        rest = torch.randn(rows * LENGTH - count, WIDTH, device=device)
        states = torch.cat([labelled, rest]).requires_grad_()
        labels = torch.cat([labels, torch.full((len(rest),), losses.IGNORE, device=device)])
    else:
        states = labelled.requires_grad_()

    def step() -> torch.Tensor:
        states.grad = None
        decoder.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            if kernel == "dense":
                total = F.cross_entropy(decoder(states).float(), labels, reduction="sum")
            else:
                total = losses.KERNELS[kernel](states, decoder, labels)
        total.backward()
        return total / count

    size = peak_of(step, device)
    times = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        loss = step()
        synchronize(device)
        times.append(time.perf_counter() - started)
    gradient = torch.cat([states.grad[:count].flatten(), decoder.weight.grad.flatten()[::97]]).float().cpu()
    return {
        "seconds": statistics.median(times),
        "bytes": size,
        "loss": loss.item(),
        "gradient": gradient[:: max(len(gradient) // 4096, 1)].tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(*ROWS[given.only], given.rows, torch.device(given.device))))
        return
    found = {}
    for name in ROWS:
        call = [sys.executable, __file__, "--only", name, "--rows", str(given.rows), "--device", given.device]
        finished = subprocess.run(call, capture_output=True, text=True, check=False)
        if finished.returncode == 0:
            found[name] = json.loads(finished.stdout.splitlines()[-1])
        else:
            print(f"{name}: does not run here ({finished.stderr.strip().splitlines()[-1][:100]})")
    if "dense, fp32" not in found:
        sys.exit("nothing to compare with: the dense fp32 loss does not fit here; give fewer --rows")
    first = found["dense, fp32"]
    exact = torch.tensor(first["gradient"])
    table = []
    for name, row in found.items():
        error = (torch.tensor(row["gradient"]) - exact).norm() / exact.norm()
        table.append(
            [
                name,
                f"{row['seconds'] * 1e3:,.1f} ms",
                f"{row['bytes'] / 2**20:,.0f} MiB",
                f"1/{first['bytes'] / row['bytes']:.1f}",
                f"{abs(row['loss'] / first['loss'] - 1):.0e}",
                f"{error:.0e}",
            ]
        )
    print(markdown(["loss", "time", "peak memory", "of dense fp32", "loss off by", "gradient off by"], table))


if __name__ == "__main__":
    main()
