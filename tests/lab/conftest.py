import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from concept_encoder.lab.engines.local import LocalEngine
from concept_encoder.lab.plan import Plan, load_plan
from concept_encoder.lab.runs import expand
from concept_encoder.lab.scheduler import Scheduler
from concept_encoder.lab.store import Store

FIRM = ((0.0, 2), (0.3, 15), (0.6, 9))  # seconds and signals: a stop is over in less than a second
FAKE = (sys.executable, "-S", "-E", str(Path(__file__).with_name("fake.py")))


@pytest.fixture
def write_plan(tmp_path) -> Callable[..., Path]:
    """Writes a plan of these experiments, with a recipe for all, and returns its file."""

    def write(*experiments: Mapping[str, Any], **fields: Any) -> Path:
        (tmp_path / "recipe.yaml").write_text("training: {batch_size: 64}\n")
        defaults = {"recipe": "recipe.yaml", **fields.pop("defaults", {})}
        content = {"title": "a plan", "defaults": defaults, "experiments": list(experiments), **fields}
        file = tmp_path / "plan.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return file

    return write


@pytest.fixture
def lab(tmp_path) -> Callable[..., Scheduler]:
    """A scheduler of a plan's file in the test's folder, with the fake command; each call is a new client."""

    def make(file: Path | Plan, slots: int = 4, **options: Any) -> Scheduler:
        plan = file if isinstance(file, Plan) else load_plan(file)
        engine = options.pop("engine", None) or LocalEngine(
            slots, options.pop("gpus", []), options.pop("firmness", FIRM)
        )
        store = Store(options.pop("store", tmp_path / "store"))
        return Scheduler(expand(plan), store, engine, program=FAKE, **options)

    return make


@pytest.fixture
def finished(lab) -> Callable[..., dict[str, str]]:
    """Runs a plan to its end and returns run -> state."""

    def run(file: Path, **options: Any) -> dict[str, str]:
        scheduler = lab(file, **options)
        scheduler.run(every=0.02)
        return {state.name: state.state for state in scheduler.states.values()}

    return run


@pytest.fixture
def tiny_disk(tmp_path) -> Iterator[Path]:
    """A file system of one megabyte; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
