"""Minimal pairs: two sentences that differ in one point of grammar, the first acceptable, the second not (BLiMP)."""

from pathlib import Path
from typing import NamedTuple

from concept_encoder.data.sources import configs, local_files, read_table
from concept_encoder.data.split import share
from concept_encoder.errors import UserError

BLIMP = "nyu-mll/blimp"  # 67 paradigms of 1,000 pairs, each a config of its own (Warstadt et al. 2020)
COLUMNS = ("sentence_good", "sentence_bad")


class Pair(NamedTuple):
    good: str
    bad: str


def read_minimal_pairs(source: str = BLIMP, limit: int | None = None) -> dict[str, list[Pair]]:
    """The pairs of every paradigm of `source`: of each config of a hub data set (or of its local mirror), of each file.

    Args:
        source: a hub id, or a file or folder with the columns `sentence_good` and `sentence_bad`.
        limit: no more pairs of a paradigm, those whose text has the smallest hash.

    Raises:
        UserError: nothing there, a column that is missing, a sentence that is no text, or two files of one name.
    """
    folder = Path(source).expanduser()
    if folder.exists():
        files: dict[str, Path] = {}
        for path in local_files(source):
            name = _name(path.relative_to(folder) if folder.is_dir() else Path(path.name))
            if name in files:
                raise UserError(f"{path}: is paradigm {name!r}, as {files[name]} is; rename one")
            files[name] = path
        found = {name: _pairs(str(path), None) for name, path in files.items()}
    else:
        found = {name: _pairs(source, name) for name in configs(source)}
    if limit is None:
        return found
    return {name: sorted(pairs, key=lambda pair: share("\n".join(pair)))[:limit] for name, pairs in found.items()}


def _name(path: Path) -> str:
    """Without what says the kind of file: `v1.island` for `v1.island.jsonl.gz`."""
    return str((path.with_suffix("") if path.suffix.lower() == ".gz" else path).with_suffix(""))


def _pairs(source: str, config: str | None) -> list[Pair]:
    pairs = []
    for where, values in read_table(source, COLUMNS, config=config):
        for column in COLUMNS:
            if not isinstance(values[column], str) or not values[column].strip():
                raise UserError(f"{where}: column {column!r} holds {values[column]!r}, expected a sentence")
        pairs.append(Pair(*(values[column] for column in COLUMNS)))
    return pairs
