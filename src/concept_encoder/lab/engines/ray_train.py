"""One run over several hosts: in a Ray job's place, its command once a GPU, joined into one group by Ray Train.

    python -m concept_encoder.lab.engines.ray_train GPU 16 pretrain recipe.yaml …

Ray Train sets what torchrun sets on one host (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, …), so that the command is the
same, and so are its losses.
"""

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from concept_encoder.lab.engines.on_host import VARIABLE, unpacked
from concept_encoder.lab.engines.supervise import read
from concept_encoder.lab.verbs import PROGRAM
from concept_encoder.records import write_atomically

_ENDED = "ended.json"  # how a process ended that chose its exit code: Ray Train carries exceptions, not codes


def train(resource: str, processes: int, words: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run the command in so many processes at once. Returns its exit code.

    Args:
        resource: `GPU` or `CPU`, of which every process has one.
        words: of the command; the second is the recipe, in a folder that all hosts see.
        variables: of the environment of every process.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")  # GPUs may just be about to be freed
    folder = Path(words[1]).parent
    trainer = TorchTrainer(
        _work,
        train_loop_config={"words": list(words), "ended": str(folder / _ENDED)},
        scaling_config=ScalingConfig(
            num_workers=processes, use_gpu=resource == "GPU", resources_per_worker={"CPU": 1, resource: 1}
        ),
        run_config=RunConfig(
            name="ray-train",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),  # the scheduler tries again
            worker_runtime_env={"env_vars": dict(variables)},
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        ray.shutdown()  # from here on nobody else has a word in the log
        ended = read(folder / _ENDED)
        print(ended.get("said", error), file=sys.stderr)
        return ended.get("code", 1)
    return 0


def _work(config: Mapping[str, Any]) -> None:
    """What each process does; the last that it says on stderr before it exits is noted with its exit code."""
    heard = _Heard(sys.stderr)
    try:
        with contextlib.redirect_stderr(heard):
            importlib.import_module(PROGRAM[-1]).main(config["words"])
    except SystemExit as end:
        if end.code:
            write_atomically(Path(config["ended"]), json.dumps({"code": end.code, "said": heard.last}) + "\n")
            raise RuntimeError(f"exit code {end.code}") from None


class _Heard:
    """A stream that remembers its last line."""

    def __init__(self, stream: TextIO):
        self._stream, self._text = stream, ""

    def write(self, text: str) -> int:
        self._text = (self._text + text)[-10_000:]
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    @property
    def last(self) -> str:
        return (self._text.strip().splitlines() or [""])[-1]


if __name__ == "__main__":
    resource, processes, *words = sys.argv[1:]
    sys.exit(train(resource, int(processes), words, unpacked(os.environ[VARIABLE])["environment"]))
