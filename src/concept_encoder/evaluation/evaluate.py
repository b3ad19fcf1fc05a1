"""The runs of a protocol in a folder: made once, gone on with after a kill, and linked where `compare` and `gap` read.

FOLDER/.runs/TASK.SYSTEM.RATE.sSEED-HASH    every run, named by its content: that of the grid too
FOLDER/.runs/.NAME.again                    a finished run being made again, as more is asked of it; then it replaces it
FOLDER/SYSTEM/TASK/seedN                    links to the runs of the chosen rate, of what was asked last
FOLDER/protocol.json                        what was asked; evaluation.json, report.md, report.html: what came out
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from concept_encoder.errors import TrainingDiverged, UserError
from concept_encoder.evaluation.protocol import Cell, Protocol, Run, choose
from concept_encoder.evaluation.runs import DIVERGED
from concept_encoder.records import write_atomically
from concept_encoder.settings import set_fields

Train = Callable[[Run, Path], None]  # makes a run in a folder; afterwards it holds result.json
Sections = Mapping[str, Mapping[str, Any]]
FIRST_SEED = 0
ABOUT = "evaluation.json"


@dataclass
class Evaluation:
    """A checkpoint under a protocol.

    Attributes:
        content: a hash of the checkpoint, see `protocol.content_of`.
        keep_checkpoints: leave the weights of every run; otherwise only scores and answers stay, and the weights of
            those that others start from.
        whole: adds to a recipe what it leaves out and what decides numbers too, see `protocol.Run`.
        failed: why runs failed, by their names; those that diverged stand apart, as a rate may be of no use.
    """

    folder: Path
    protocol: Protocol
    checkpoint: str
    content: str
    keep_checkpoints: bool = False
    whole: Callable[[Sections], Sections] = dict
    failed: dict[str, str] = field(default_factory=dict)

    def run(self, train: Train) -> None:
        """Make every run that is not there yet. One that fails is noted, and its task is left; the others go on.

        Raises:
            UserError: the folder holds something else, or another process evaluates in it: nothing in it is changed.
        """
        self._check()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                self._check()  # again: it may have been taken in between
                write_atomically(self.folder / "protocol.json", json.dumps(self._asked(), indent=1) + "\n")
                (self.folder / ABOUT).unlink(missing_ok=True)
                asked = {(cell.system, cell.task) for cell in self.protocol.cells()}
                links = self.folder.glob("[!.]*/*/seed*")
                _unlink(link for link in links if (link.parts[-3], link.parts[-2]) not in asked)
                for cell in self.protocol.cells():
                    self._cell(cell, train)
        except Timeout:
            raise UserError(f"--output: another process evaluates in {self.folder}; wait, or name another") from None

    def planned(self) -> Iterator[tuple[Cell, float | None, int, str]]:
        """Every run as cell, rate (None: the chosen one, not known yet), seed, and "done", "diverged" or "" (to do)."""
        for cell in self.protocol.cells():
            chosen = self.chosen(cell)
            states = {run.rate: self._state(run, run.rate == chosen) for run in self._grid(cell)}
            for rate in self.protocol.learning_rates:
                yield cell, rate, FIRST_SEED, states.get(rate, "")
            states = {run.seed: self._state(run, True) for run in self._of_chosen(cell)}
            for seed in range(FIRST_SEED + 1, FIRST_SEED + self.protocol.seeds):
                yield cell, chosen, seed, states.get(seed, "")

    def chosen(self, cell: Cell) -> float | None:
        """The rate with the best selection; None as long as a run of the grid is missing, or all have diverged."""
        scores = self.selections(cell)
        missing = [run for run in self._grid(cell) if not self._state(run)]
        return choose(scores) if scores and not missing else None

    def selections(self, cell: Cell) -> dict[float, dict[str, Any]]:
        """What the selection part said of each rate of the grid that is there."""
        return {run.rate: self._read(run, "result.json")["selection"] for run in self._grid(cell) if self._is_done(run)}

    @property
    def diverged(self) -> dict[str, str]:
        """Why runs of the grid or of a chosen rate have no score, by their names."""
        cells = list(self.protocol.cells())
        return self._whys(run for cell in cells for run in (*self._grid(cell), *self._of_chosen(cell)))

    def lost(self, cell: Cell) -> dict[str, str]:
        """The same of the seeds of the chosen rate: without them, those that are left are no sample."""
        return self._whys(self._of_chosen(cell))

    def _whys(self, runs: Iterable[Run]) -> dict[str, str]:
        return {run.name: self._read(run, DIVERGED)["why"] for run in runs if self._has_diverged(run)}

    def _asked(self) -> dict[str, Any]:
        return {"checkpoint": self.checkpoint, "content": self.content, "fields": dict(self.protocol.fields)}

    def _check(self) -> None:
        """Whether the folder is new, or holds this evaluation."""
        file = self.folder / "protocol.json"
        if file.is_file():
            try:
                before = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:
                raise UserError(f"{file}: damaged; choose another folder with --output") from None
            for name in ("content", "fields"):
                if before.get(name) != self._asked()[name]:
                    what = "checkpoint" if name == "content" else "protocol (--set)"
                    raise UserError(f"--output: {self.folder} holds an evaluation of another {what}; choose another")
        elif self.folder.exists() and (not self.folder.is_dir() or any(map(_visible, self.folder.iterdir()))):
            raise UserError(f"--output: {self.folder} holds something else than an evaluation; choose another folder")

    def _cell(self, cell: Cell, train: Train) -> None:
        grid = self._grid(cell)
        for run in grid:
            self._make(run, train)
            if run.name in self.failed:
                break
        runs = self._of_chosen(cell)
        for run in grid if runs and not self.keep_checkpoints else ():
            if run.rate != runs[0].rate:
                shutil.rmtree(self._folder(run) / "checkpoints", ignore_errors=True)
        for run in runs:
            self._make(run, train, chosen=True)
            if run.name in self.failed and self._is_done(run):
                break  # what was asked on top of its scores cannot be had: of the other seeds neither
        self._link(cell, [run for run in runs if self._state(run)])

    def _make(self, run: Run, train: Train, chosen: bool = False) -> None:
        self._replace(run)  # a kill may have come before it
        if self._state(run, chosen):
            return
        # Of a finished run, weights or the scores of another side are asked for: it stands until it was made again.
        folder = self._again(run) if self._is_done(run) else self._folder(run)
        try:
            if run.cell.after_mnli and self._has_diverged(self._before(run.cell, run.seed)):
                raise TrainingDiverged("its MNLI run diverged")
            train(run, folder)
        except TrainingDiverged as error:
            also = run.sections["data"].get("also") or ()
            found = {"tasks": [run.cell.task, *also], "why": str(error)}
            write_atomically(folder / DIVERGED, json.dumps(found) + "\n")
        except Exception as error:  # whatever it is, the other runs are not to be lost
            message = str(error).strip() or type(error).__name__
            self.failed[run.name] = " ".join(message.split())[:500]
        self._replace(run)
        needed = self.keep_checkpoints or (self._leads_on(run.cell) and not self._has_diverged(run))
        if self._state(run) and not needed:
            shutil.rmtree(self._folder(run) / "checkpoints", ignore_errors=True)

    def _replace(self, run: Run) -> None:
        """A run that was made again, to its end, takes the place of what it was."""
        again = self._again(run)
        if (again / "result.json").is_file() or (again / DIVERGED).is_file():
            shutil.rmtree(self._folder(run), ignore_errors=True)
            os.replace(again, self._folder(run))

    def _grid(self, cell: Cell) -> list[Run]:
        """The runs of the first seed; none yet for what starts from MNLI before MNLI's rate is chosen."""
        if cell.after_mnli and self.chosen(_mnli(cell)) is None:
            return []
        return [self._planned(cell, rate, FIRST_SEED) for rate in self.protocol.learning_rates]

    def _of_chosen(self, cell: Cell) -> list[Run]:
        """The runs of the chosen rate, one a seed; none as long as it is not known."""
        rate = self.chosen(cell)
        seeds = range(FIRST_SEED, FIRST_SEED + self.protocol.seeds)
        return [] if rate is None else [self._planned(cell, rate, seed) for seed in seeds]

    def _planned(self, cell: Cell, rate: float, seed: int) -> Run:
        checkpoint, start = self.checkpoint, self.content
        if cell.after_mnli:  # each seed from the MNLI run of the same seed, so that both stages vary
            before = self._before(cell, seed)
            checkpoint, start = str(self._folder(before)), before.identity
        fields = {"model.checkpoint": checkpoint, "training.learning_rate": rate, "training.seed": seed}
        sections = set_fields(self.protocol.sections(cell), fields)
        return Run(cell, rate, seed, start, sections, self.whole(sections))

    def _before(self, cell: Cell, seed: int) -> Run:
        """The MNLI run that one starts from."""
        return self._planned(_mnli(cell), self.chosen(_mnli(cell)), seed)

    def _leads_on(self, cell: Cell) -> bool:
        """Whether other runs start from those of this cell."""
        return self.protocol.mnli_first and cell.task == "mnli"

    def _link(self, cell: Cell, runs: Sequence[Run]) -> None:
        """The chosen runs and no others; a link is replaced in one step."""
        folder = self.folder / cell.system / cell.task
        wanted = {f"seed{run.seed}": os.path.relpath(self._folder(run), folder) for run in runs}
        _unlink(link for link in folder.glob("seed*") if link.name not in wanted)
        for name, target in wanted.items():
            folder.mkdir(parents=True, exist_ok=True)
            beside = folder / f".{name}"
            beside.unlink(missing_ok=True)
            beside.symlink_to(target)
            os.replace(beside, folder / name)

    def _folder(self, run: Run) -> Path:
        return self.folder / ".runs" / run.name

    def _again(self, run: Run) -> Path:
        return self.folder / ".runs" / f".{run.name}.again"

    def _state(self, run: Run, chosen: bool = False) -> str:
        """Whether a run is "done" or "diverged"; "" where something is to do; the chosen rate's leave more."""
        folder = self._folder(run)
        if self._has_diverged(run):
            return "diverged"
        also = run.sections["data"].get("also") or () if chosen else ()
        weights = chosen and self._leads_on(run.cell)
        needed = [*(folder / "also" / task / "result.json" for task in also), *([folder / "checkpoints"] * weights)]
        return "done" if self._is_done(run) and all(path.exists() for path in needed) else ""

    def _is_done(self, run: Run) -> bool:
        return (self._folder(run) / "result.json").is_file()

    def _has_diverged(self, run: Run) -> bool:
        return (self._folder(run) / DIVERGED).is_file()

    def _read(self, run: Run, name: str) -> Mapping[str, Any]:
        file = self._folder(run) / name
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{file}: damaged; delete it and give the same command again") from None


def _unlink(links: Iterable[Path]) -> None:
    """Remove links, and the folders that hold nothing then."""
    for link in [link for link in links if link.is_symlink()]:
        link.unlink()
        with suppress(OSError):
            link.parent.rmdir()
            link.parent.parent.rmdir()


def _visible(file: Path) -> bool:
    return not file.name.startswith(".")


def _mnli(cell: Cell) -> Cell:
    return Cell("mnli", cell.head)
