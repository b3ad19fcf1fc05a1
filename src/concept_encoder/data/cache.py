"""A content-addressed cache on disk: whole entries or none, whatever is killed when."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from concept_encoder.errors import UserError

PROGRESS = "progress.npz"  # in a folder of `build_in_steps` that can be gone on with


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/concept-encoder`, or the same under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "concept-encoder"


def cache_key(*parts: Any) -> str:
    """32 hexadecimal digits that change when any part (anything JSON can hold) changes."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`; if it is not there, `build(temporary folder)` first, then rename that to `folder`."""
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        temporary = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"data.cache_dir: {folder.parent} cannot be written ({error.strerror})") from None
    try:
        build(temporary)
        temporary.chmod(0o755)  # mkdtemp's folder is private; a cache may be shared
        temporary.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another process has finished the same entry first
            raise UserError(f"data.cache_dir: {folder} cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def build_in_steps(folder: Path, build: Callable[[Path], None]) -> Path:
    """As `build_once`, for a long `build` that keeps its finished steps in the folder it is given.

    That folder, `<name>.partial`, outlives a killed process and a network that fails, and the next call goes on with
    it; `build` says with a file `PROGRESS` that it is worth keeping. Only one process builds an entry, the others
    wait for it.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir():  # another process has built it meanwhile
                return folder
            partial.mkdir(exist_ok=True)
            build(partial)
            partial.rename(folder)
            (folder / PROGRESS).unlink(missing_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UserError(f"data.cache_dir: {folder} cannot be written ({error.strerror})") from error
    finally:
        if partial.is_dir() and not (partial / PROGRESS).exists():
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _remove_abandoned(parent: Path) -> None:
    """What a killed process was building: more than a day ago, or a week for what can be gone on with."""
    for pattern, days in (("building-*", 1), ("*.partial", 7)):
        for temporary in parent.glob(pattern):
            if time.time() - temporary.stat().st_mtime > days * 24 * 3600:
                shutil.rmtree(temporary, ignore_errors=True)
