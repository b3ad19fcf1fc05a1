"""Stands for `concept-encoder` in the tests of the lab: writes what a run writes, and fails in every way that runs do.

What it does stands in its recipe as `data.fake`; standard library alone, so that a thousand runs take seconds.
"""

import fcntl
import json
import os
import re
import signal
import sys
import time


def field(text: str, name: str, default: str) -> str:
    found = re.search(rf"^ *{name}: '?([^'\n]+)'?$", text, flags=re.M)
    return found[1] if found else default


def main(verb: str, recipe: str, output: str) -> None:
    with open(recipe) as file:
        text = file.read()
    folder = json.loads(output.partition("=")[2])
    os.makedirs(folder, exist_ok=True)
    what, seed = field(text, "fake", "ok").split(), int(field(text, "seed", "0"))
    lock = open(os.path.join(folder, "fake.lock"), "w")  # noqa: SIM115 - held until the process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        open(os.path.join(folder, "TWICE-AT-ONCE"), "w").close()
    with open(os.path.join(folder, "starts.txt"), "a") as file:
        file.write(f"{os.getpid()}\n")
    if os.path.exists(os.path.join(folder, "result.json")):
        open(os.path.join(folder, "TWICE"), "w").close()
    with open(os.path.join(folder, "starts.txt")) as file:
        attempt = len(file.readlines())
    behave(what, text, attempt, folder)
    value = float(field(text, "value", "1")) + 0.01 * seed
    result = {"verb": verb, "eval_loss": value, "tokens_per_second": 1000.0}
    if verb == "finetune":
        result = {"verb": verb, "task": field(text, "task", "task"), "scores": {"accuracy": value}, "controls": {}}
    with open(os.path.join(folder, ".result"), "w") as file:
        json.dump(result, file)
    os.replace(os.path.join(folder, ".result"), os.path.join(folder, "result.json"))


def behave(what: list[str], text: str, attempt: int, folder: str) -> None:
    kind = what[0]
    for step in range(1, 4):
        log(folder, step, 5.0 / step)
    if kind == "sleep":
        time.sleep(float(what[1]))
    elif kind == "until":
        while not os.path.exists(what[1]):
            time.sleep(0.1)
    elif kind == "crash" or (kind == "crash-once" and attempt == 1):
        raise ValueError("the hub answered ConnectionError")
    elif kind == "mistake":
        print("error: model.preset: no preset is called 'wovn'", file=sys.stderr)
        sys.exit(2)
    elif kind == "memory" and int(field(text, "micro_batch_size", "64")) > int(what[1]):
        print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", file=sys.stderr)
        sys.exit(1)
    elif kind == "disk":
        print("OSError: [Errno 28] No space left on device", file=sys.stderr)
        sys.exit(1)
    elif kind == "fill":
        with open(os.path.join(folder, "checkpoint"), "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    elif kind == "nan":
        log(folder, 4, float("nan"))
        time.sleep(60)
    elif kind == "stubborn":
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(60)
    elif kind == "losses":
        for step, loss in enumerate(map(float, what[1].split(",")), start=4):
            log(folder, step, loss)
        time.sleep(float(what[2]))


def log(folder: str, step: int, loss: float) -> None:
    now = time.time()
    record = {"step": step, "loss": loss, "tokens_per_second": 1000.0, "time": now}
    with open(os.path.join(folder, "metrics.jsonl"), "a") as file:
        file.write(json.dumps(record) + "\n" + json.dumps({"step": step, "eval_loss": loss, "time": now}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:4])
