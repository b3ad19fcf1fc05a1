"""Checkpoints at an fsspec URL (`s3://…`, `gs://…`, `file://…`), so that a run can go on at another host."""

import shutil
from pathlib import Path

from concept_encoder.errors import UserError
from concept_encoder.lab.verbs import VERBS

_LAST = tuple(sorted({verb.result for verb in VERBS.values()}))  # what says that a run has finished
_WHOLE = ".whole"  # beside a checkpoint that has arrived as a whole


class Storage:
    """Runs' folders under a URL. Credentials are the host's own (its environment, its profile).

    Raises:
        UserError: no driver for such URLs is installed.
    """

    def __init__(self, url: str):
        from fsspec.core import url_to_fs

        try:
            self.files, root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(f"storage {url}: {error}") from None
        self.root = root.rstrip("/")

    def put(self, folder: Path, name: str) -> None:
        """Bring what is new: checkpoints that are whole, and after them the result."""
        there = f"{self.root}/{name}"
        here = {path.name for path in folder.glob("checkpoints/[!.]*") if path.is_dir()}
        known = self._whole(there)
        results = [file for file in _LAST if (folder / file).is_file()]
        if here == known and not results:
            return
        self.files.makedirs(f"{there}/checkpoints", exist_ok=True)
        small = (path for path in folder.rglob("[!.]*") if path.is_file() and "checkpoints" not in path.parts)
        for path in small:
            if path.name not in _LAST:
                self._put(path, f"{there}/{path.relative_to(folder).as_posix()}")
        for checkpoint in sorted(here - known):
            for path in (folder / "checkpoints" / checkpoint).rglob("*"):
                if path.is_file():
                    self._put(path, f"{there}/{path.relative_to(folder).as_posix()}")
            self.files.pipe_file(f"{there}/checkpoints/{checkpoint}{_WHOLE}", b"")
        for checkpoint in known - here:  # the run keeps only the latest
            self.files.rm_file(f"{there}/checkpoints/{checkpoint}{_WHOLE}")
            self.files.rm(f"{there}/checkpoints/{checkpoint}", recursive=True)
        for file in results:
            self._put(folder / file, f"{there}/{file}")

    def get(self, name: str, folder: Path) -> None:
        """Make the folder what is stored, unless it has all of that already."""
        there = f"{self.root}/{name}"
        whole = self._whole(there)
        results = [file for file in _LAST if self.files.exists(f"{there}/{file}")]
        if all((folder / "checkpoints" / name).is_dir() for name in whole) and all(
            (folder / file).is_file() for file in results
        ):
            return
        for name in whole:
            here, arriving = folder / "checkpoints" / name, folder / "checkpoints" / f".arriving-{name}"
            if not here.is_dir():
                shutil.rmtree(arriving, ignore_errors=True)
                self._get(f"{there}/checkpoints/{name}", arriving)
                arriving.rename(here)  # whole or absent
        self._get(there, folder, without=("checkpoints", *_LAST))
        for file in results:
            self.files.get_file(f"{there}/{file}", str(folder / file))

    def _get(self, there: str, folder: Path, without: tuple[str, ...] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.files.find(there):
            relative = path[path.index(there) + len(there) :].lstrip("/")
            if relative.split("/")[0] not in without:
                (folder / relative).parent.mkdir(parents=True, exist_ok=True)
                self.files.get_file(path, str(folder / relative))

    def _whole(self, there: str) -> set[str]:
        if not self.files.exists(f"{there}/checkpoints"):
            return set()
        names = (path.rstrip("/").rpartition("/")[2] for path in self.files.ls(f"{there}/checkpoints", detail=False))
        return {name.removesuffix(_WHOLE) for name in names if name.endswith(_WHOLE)}

    def _put(self, path: Path, there: str) -> None:
        self.files.makedirs(there.rpartition("/")[0], exist_ok=True)
        self.files.put_file(str(path), there)
