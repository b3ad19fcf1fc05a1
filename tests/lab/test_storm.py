"""A storm: many tiny runs with random dependencies, while runs, their supervisors and the client itself are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from concept_encoder.lab.engines.supervise import start_time
from concept_encoder.lab.store import FINAL, Store


def random_plan(file: Path, runs: int, chance: random.Random) -> None:
    """Experiments of three seeds, each needing up to three earlier ones: reading their runs, or only after them."""
    (file.parent / "recipe.yaml").write_text("training: {batch_size: 64}\n")
    kinds = ["ok"] * 12 + ["sleep 0.1", "sleep 0.3", "crash-once", "crash", "mistake", "memory 32"]
    experiments = []
    for place in range(runs // 3):
        earlier = [experiment["id"] for experiment in experiments]
        needs = chance.sample(earlier, min(len(earlier), chance.choice([0, 0, 1, 1, 2, 3])))
        fields = {"data.fake": chance.choice(kinds), "data.place": place}
        experiment = {"id": f"e{place}", "priority": chance.randrange(5), "seeds": [0, 1, 2], "overrides": fields}
        if needs and chance.random() < 0.5:
            fields["model.checkpoint"] = {"run": needs.pop()}
        experiments.append({**experiment, "needs": needs})
    chance.shuffle(experiments)
    content = {"title": "storm", "defaults": {"recipe": "recipe.yaml"}, "experiments": experiments}
    file.write_text(yaml.safe_dump(content))


def storm(folder: Path, runs: int, kills_of_runs: int, kills_of_client: int, seed: int) -> Counter:
    """Run the plan under fire and return how often what was killed."""
    chance = random.Random(seed)
    random_plan(folder / "plan.yaml", runs, chance)
    command = [
        sys.executable,
        str(Path(__file__).with_name("client.py")),
        str(folder / "plan.yaml"),
        str(folder / "store"),
        "4",
    ]
    killed: Counter = Counter()
    end = time.time() + 60 + runs
    while time.time() < end:
        client = subprocess.Popen(command)
        dies_at = time.time() + chance.uniform(0.5, 3) if killed["client"] < kills_of_client else end
        while client.poll() is None and time.time() < dies_at:
            time.sleep(chance.uniform(0.05, 0.3))
            if killed["run"] + killed["supervisor"] + killed["both"] < kills_of_runs:
                killed.update(kill_a_run(folder / "store" / "attempts", chance))
        if client.poll() is None:
            client.kill()
            client.wait()
            killed["client"] += 1
        else:
            assert client.returncode == 0
            return killed
    raise AssertionError("the storm did not end")


def kill_a_run(attempts: Path, chance: random.Random) -> list[str]:
    """`kill -9` a random living run: its process, its supervisor, or both."""
    alive = [file for file in attempts.glob("*/process.json") if not (file.parent / "exit.json").exists()]
    chance.shuffle(alive)
    for file in alive:
        process = json.loads(file.read_text())
        if start_time(process["pid"]) != process["started"]:
            continue
        what = chance.choice(["run", "supervisor", "both"])
        try:
            if what == "both":
                os.killpg(process["pid"], signal.SIGKILL)
            elif what == "supervisor":
                os.kill(process["pid"], signal.SIGKILL)
            else:
                children = Path(f"/proc/{process['pid']}/task/{process['pid']}/children").read_text().split()
                for child in children:
                    os.kill(int(child), signal.SIGKILL)
                if not children:
                    continue
        except (ProcessLookupError, FileNotFoundError):
            continue
        return [what]
    return []


def check(folder: Path, runs: int) -> Counter:
    """Every run has one final state, none ran twice, no result is lost. Returns the counts of final states."""
    store = Store(folder / "store", create=False)
    states = store.states()
    assert len(states) == runs // 3 * 3
    for state in states:
        assert state.state in FINAL, f"{state.name} is {state.state}"
        ends = [to for _, _, to, _ in store.events(state.id) if to in ("done", "failed", "stopped")]
        assert len(ends) == (state.state != "skipped"), f"{state.name}: {ends}"
        result = Path(state.folder) / "result.json"
        assert result.exists() == (state.state == "done"), state
        if result.exists():
            assert json.loads(result.read_text())["eval_loss"]
    for trace in ("TWICE", "TWICE-AT-ONCE"):
        assert not list((folder / "store" / "runs").glob(f"*/{trace}"))
    return Counter(state.state for state in states)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the children of a process in /proc")
@pytest.mark.parametrize(
    ("runs", "kills_of_runs", "kills_of_client"),
    [(200, 40, 5), pytest.param(1000, 150, 30, marks=pytest.mark.slow)],
)
def test_a_storm_ends_every_run_once(tmp_path, runs, kills_of_runs, kills_of_client):
    started = time.time()
    killed = storm(tmp_path, runs, kills_of_runs, kills_of_client, seed=0)
    counts = check(tmp_path, runs)
    print(f"{runs} runs, {time.time() - started:.0f} s; ended: {dict(counts)}; killed: {dict(killed)}")
    assert counts["done"] > runs / 4
    assert killed["client"] >= 1  # a fast machine is done before the others
