"""The files of a run as every room reads and writes them: whole or absent, and tolerant of a kill.

Nothing heavy is imported here, so that what only launches and watches runs starts at once.
"""

import json
import os
from pathlib import Path
from typing import Any

# fields of a recipe's section `training` that change no number: where, how much at once, what is shown and kept
FREE_TO_CHANGE = frozenset({"output_dir", "report_to", "num_workers", "threads", "log_every", "keep_checkpoints"})


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """The records of a run's `metrics.jsonl`, in order of steps; none when there is no such file.

    Training and held-out records of a step are two records. After a resume the later line of a step counts. A line
    that a kill cut short, at the end or (after a resume) in the middle, is left out.
    """
    file = Path(run) / "metrics.jsonl"
    records: dict[tuple[int, bool], dict[str, Any]] = {}
    for line in file.read_bytes().splitlines() if file.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:  # torn JSON, or a character torn in the middle
            continue
        if isinstance(record, dict):
            records[record.get("step", 0), "eval_loss" in record] = record
    return [records[key] for key in sorted(records)]


def write_atomically(path: str | Path, content: str | bytes) -> Path:
    """Write beside the file, then rename: a reader sees the old content or the new, never a part. Returns the path.

    Folders that are missing are made; text is written as UTF-8.

    Raises:
        OSError: with the name of the file that was asked for, not of the one beside it.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
            os.replace(beside, path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    return path
