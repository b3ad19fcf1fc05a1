"""Where numbers were measured: commit, versions, device."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """What a reader needs to judge or repeat the numbers: commit, versions, device."""
    packages = ("concept-encoder", "torch", "transformers", "tokenizers", "datasets", "accelerate", "numpy")
    return {
        "commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: metadata.version(name) for name in packages},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else (platform.processor() or "cpu"),
        "cpu_threads": torch.get_num_threads(),
    }


def _git_commit() -> str | None:
    """The commit of a source checkout, with a mark when files were changed since; None in an installed package."""
    here = Path(__file__).parent
    try:
        call = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(call, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
