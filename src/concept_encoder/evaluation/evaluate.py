"""The runs of a protocol in a folder: made once, gone on with after a kill, and linked where `compare` and `gap` read.

FOLDER/.runs/TASK.SYSTEM.RATE.sSEED-HASH    every run, named by its content: that of the grid too
FOLDER/SYSTEM/TASK/seedN                    links to the runs of the chosen rate
FOLDER/protocol.json                        what was asked; evaluation.json, report.md, report.html: what came out
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from concept_encoder.errors import TrainingDiverged, UserError
from concept_encoder.evaluation.protocol import Cell, Protocol, Run, choose
from concept_encoder.records import write_atomically
from concept_encoder.settings import set_fields

Train = Callable[[Run, Path], None]  # makes a run in a folder; afterwards it holds result.json
FIRST_SEED = 0


@dataclass
class Evaluation:
    """A checkpoint under a protocol.

    Attributes:
        content: a hash of the checkpoint, see `protocol.content_of`.
        keep_checkpoints: leave the weights of every run; otherwise only scores and answers stay, and the weights of
            those that others start from.
        failed: why runs failed, by their names; those that diverged stand apart, as a rate may be of no use.
    """

    folder: Path
    protocol: Protocol
    checkpoint: str
    content: str
    keep_checkpoints: bool = False
    failed: dict[str, str] = field(default_factory=dict)
    diverged: dict[str, str] = field(default_factory=dict)

    def run(self, train: Train) -> None:
        """Make every run that is not there yet. One that fails is noted, and its task is left; the others go on.

        Raises:
            UserError: the folder holds something else, or another process evaluates in it.
        """
        self._claim()
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                for cell in self.protocol.cells():
                    self._cell(cell, train)
        except Timeout:
            raise UserError(f"--output: another process evaluates in {self.folder}; wait, or name another") from None

    def planned(self) -> Iterator[tuple[Cell, float | None, int, bool]]:
        """Every run as cell, rate (None: the chosen one, not known yet), seed, and whether it is there."""
        for cell in self.protocol.cells():
            done = {run.rate for run in self._grid(cell) if self._is_done(run)}
            for rate in self.protocol.learning_rates:
                yield cell, rate, FIRST_SEED, rate in done
            rate = self.chosen(cell)
            for seed in range(FIRST_SEED + 1, FIRST_SEED + self.protocol.seeds):
                yield cell, rate, seed, rate is not None and self._is_done(self._planned(cell, rate, seed))

    def chosen(self, cell: Cell) -> float | None:
        """The rate with the best selection; None as long as a run of the grid is missing, or all have diverged."""
        scores = self.selections(cell)
        missing = [run for run in self._grid(cell) if run.rate not in scores and run.name not in self.diverged]
        return choose(scores) if scores and not missing else None

    def selections(self, cell: Cell) -> dict[float, dict[str, Any]]:
        """What the selection part said of each rate of the grid that is there."""
        return {run.rate: self._result(run)["selection"] for run in self._grid(cell) if self._is_done(run)}

    def _claim(self) -> None:
        """Take the folder, or go on in it."""
        asked = {"checkpoint": self.checkpoint, "content": self.content, "fields": dict(self.protocol.fields)}
        file = self.folder / "protocol.json"
        if file.is_file():
            try:
                before = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:
                raise UserError(f"{file}: damaged; choose another folder with --output") from None
            for name in ("content", "fields"):
                if before.get(name) != asked[name]:
                    what = "checkpoint" if name == "content" else "protocol (--set)"
                    raise UserError(f"--output: {self.folder} holds an evaluation of another {what}; choose another")
        elif self.folder.exists() and (not self.folder.is_dir() or any(map(_visible, self.folder.iterdir()))):
            raise UserError(f"--output: {self.folder} holds something else than an evaluation; choose another folder")
        write_atomically(file, json.dumps(asked, indent=1) + "\n")

    def _cell(self, cell: Cell, train: Train) -> None:
        for run in self._grid(cell):
            self._make(run, train)
            if run.name in self.failed:
                return
        rate = self.chosen(cell)
        if rate is None:
            return
        runs = [self._planned(cell, rate, FIRST_SEED + number) for number in range(self.protocol.seeds)]
        for run in runs:
            self._make(run, train)
        self._link(cell, [run for run in runs if self._is_done(run)])

    def _make(self, run: Run, train: Train) -> None:
        folder = self._folder(run)
        if self._is_done(run) and self._leads_on(run.cell) and not (folder / "checkpoints").is_dir():
            shutil.rmtree(folder)  # its scores are known, but others start from its weights
        if self._is_done(run):
            return
        try:
            train(run, folder)
        except TrainingDiverged as error:
            self.diverged[run.name] = str(error)
        except Exception as error:  # whatever it is, the other runs are not to be lost
            message = str(error).strip() or type(error).__name__
            self.failed[run.name] = " ".join(message.split())[:500]
        if self._is_done(run) and not self.keep_checkpoints and not self._leads_on(run.cell):
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    def _grid(self, cell: Cell) -> list[Run]:
        """The runs of the first seed; none yet for what starts from MNLI before MNLI's rate is chosen."""
        if cell.after_mnli and self.chosen(_mnli(cell)) is None:
            return []
        return [self._planned(cell, rate, FIRST_SEED) for rate in self.protocol.learning_rates]

    def _planned(self, cell: Cell, rate: float, seed: int) -> Run:
        checkpoint, start = self.checkpoint, self.content
        if cell.after_mnli:  # each seed from the MNLI run of the same seed, so that both stages vary
            before = self._planned(_mnli(cell), self.chosen(_mnli(cell)), seed)
            checkpoint, start = str(self._folder(before)), before.identity
        fields = {"model.checkpoint": checkpoint, "training.learning_rate": rate, "training.seed": seed}
        return Run(cell, rate, seed, start, set_fields(self.protocol.sections(cell), fields))

    def _leads_on(self, cell: Cell) -> bool:
        """Whether other runs start from those of this cell."""
        return self.protocol.mnli_first and cell.task == "mnli"

    def _link(self, cell: Cell, runs: Sequence[Run]) -> None:
        """The chosen runs and no others; a link is replaced in one step."""
        folder = self.folder / cell.system / cell.task
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {f"seed{run.seed}": os.path.relpath(self._folder(run), folder) for run in runs}
        for link in folder.iterdir():
            if link.is_symlink() and link.name not in wanted:
                link.unlink()
        for name, target in wanted.items():
            beside = folder / f".{name}"
            beside.unlink(missing_ok=True)
            beside.symlink_to(target)
            os.replace(beside, folder / name)

    def _folder(self, run: Run) -> Path:
        return self.folder / ".runs" / run.name

    def _is_done(self, run: Run) -> bool:
        return (self._folder(run) / "result.json").is_file()

    def _result(self, run: Run) -> Mapping[str, Any]:
        file = self._folder(run) / "result.json"
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{file}: damaged; delete it and give the same command again") from None


def _visible(file: Path) -> bool:
    return not file.name.startswith(".")


def _mnli(cell: Cell) -> Cell:
    return Cell("mnli", cell.head)
