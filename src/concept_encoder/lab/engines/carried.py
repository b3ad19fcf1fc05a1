"""Files inside a stream of text: how a run's small files come home through nothing but its log.

The sender writes a line that begins with `MARK` for every piece of a file; everything else is the log itself. The
receiver may get the stream from its beginning as often as it likes: what it has already stays untouched.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MARK = "\x1e"  # "record separator": a sender takes it out of what it does not say itself
PIECE = 9000  # bytes; lines of up to 12,000 characters pass through every reader of logs
GROWING = ".jsonl"  # such files only grow, and are sent as they do; others are sent whole


def pieces(name: str, data: bytes, at: int = 0) -> Iterator[str]:
    """The lines that carry a file, or what it has grown by since `at`."""
    end = at + len(data)
    for start in range(0, max(len(data), 1), PIECE):
        part = data[start : start + PIECE]
        content = {"file": name, "at": at + start, "end": end, "data": base64.b64encode(part).decode("ascii")}
        yield MARK + json.dumps(content) + "\n"


def exit_line(code: int) -> str:
    """The last line of a stream."""
    return MARK + json.dumps({"exit": code}) + "\n"


class Receiver:
    """Writes what a stream carries: the log beside the attempt, the files into the run's folder.

    Args:
        log: the file of the log.
        output: the run's folder; None leaves carried files alone, where both sides see the same folder.
    """

    def __init__(self, log: Path, output: Path | None):
        self.log, self.output = log, output
        self.code: int | None = None  # the exit code, once the stream has said it
        self.restart()

    def restart(self) -> None:
        """The stream begins anew."""
        self._line, self._logged = "", 0
        self._parts: dict[str, bytes] = {}

    def feed(self, text: str) -> None:
        """The next characters of the stream, cut anywhere."""
        *lines, self._line = (self._line + text).split("\n")
        log = "".join(f"{line}\n" for line in lines if not line.startswith(MARK)).encode()
        if log:
            write_at(self.log, self._logged, log)
            self._logged += len(log)
        for line in lines:
            if line.startswith(MARK):
                self._take(line[len(MARK) :])

    def _take(self, line: str) -> None:
        try:
            content = json.loads(line)
            if "exit" in content:
                self.code = int(content["exit"])
                return
            name, at, end = str(content["file"]), int(content["at"]), int(content["end"])
            data = base64.b64decode(content["data"], validate=True)
        except (ValueError, KeyError, TypeError):  # not from our sender
            return
        if self.output is None or not is_plain(name):
            return
        if name.endswith(GROWING):
            write_at(self.output / name, at, data)
            return
        whole = data if at == 0 else self._parts.pop(name, b"") + data
        if len(whole) < end:
            self._parts[name] = whole
        elif len(whole) == end and _content(self.output / name) != whole:
            from concept_encoder.records import write_atomically

            write_atomically(self.output / name, whole)


def is_plain(name: str) -> bool:
    """Whether a name from the other side stays inside the folder: relative, no `..`, nothing hidden."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and not any(part.startswith(".") for part in parts)


def write_at(file: Path, at: int, data: bytes) -> None:
    """Make `data` the bytes of a file from `at` on. What says so already stays; what says otherwise ends there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "r+b" if file.exists() else "w+b") as opened:
        opened.seek(at)
        there = opened.read(len(data))
        same = next((i for i, (a, b) in enumerate(zip(there, data)) if a != b), len(there))
        if same < len(data):
            opened.truncate(at + same)
            opened.seek(at + same)
            opened.write(data[same:])


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None
