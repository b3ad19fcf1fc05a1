"""A content-addressed cache on disk: whole entries or none, whatever is killed when."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from concept_encoder.errors import UserError


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


def _remove_abandoned(parent: Path) -> None:
    """What a killed process was building more than a day ago."""
    for temporary in parent.glob("building-*"):
        if time.time() - temporary.stat().st_mtime > 24 * 3600:
            shutil.rmtree(temporary, ignore_errors=True)
