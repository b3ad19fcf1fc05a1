"""Where text and tables come from: files, folders of files, or data sets of the Hugging Face hub.

| source | a row is | columns |
| --- | --- | --- |
| `.txt` | a non-empty line | `text` |
| `.jsonl` | a line, one JSON object | its keys |
| `.csv`, `.tsv` | a record under a header, quoted as CSV in both | the header |
| `.parquet` | a row | the schema |
| `.conllu` | a sentence | `text`; and a list over its words: `tokens`, `upos`, `xpos`, … (see `conllu.py`) |
| a folder | the rows of all such files in it, in sorted order, at any depth | |
| `org/name` | a row of a data set of the hub, or of its local mirror | |

Text files may be gzipped (`.jsonl.gz`). With the environment variable `CONCEPT_ENCODER_DATA_ROOT=DIR` set, a
data set with a folder `DIR/org/name` is read from there, not the network: from `<config>/<split>.parquet`, or from
the parquet files as the hub itself lays them out (`hf download org/name --repo-type dataset --local-dir DIR/org/name`).
`HF_ENDPOINT=URL` asks a mirror of the hub.
"""

import csv
import gzip
import json
import os
import re
import sys
import textwrap
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import is_offline_mode

from concept_encoder.data.conllu import sentence_rows
from concept_encoder.data.hub import check_hub
from concept_encoder.errors import UserError, nearest

DATA_ROOT = "CONCEPT_ENCODER_DATA_ROOT"
SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet", ".conllu")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Row(NamedTuple):
    """One row of a table and where it stands (`file:line`), for error messages."""

    where: str
    values: dict[str, Any]


def read_table(
    source: str, columns: Sequence[str], *, config: str | None = None, split: str = "train"
) -> Iterator[Row]:
    """Yield the rows of `source`, each with the wanted `columns`.

    `config` and `split` choose a part of a hub data set; files and folders have none. Lone surrogates (JSON
    may hold them, UTF-8 cannot) become U+FFFD; all other text passes unchanged.

    Raises `UserError`, with file and line, for a source that is missing, damaged, empty, not UTF-8 or without
    a column.
    """
    paths = local_files(source, config, split)
    rows = _read_hub(source, config, split, columns) if paths is None else _read_files(paths, columns)
    number = -1
    for number, row in enumerate(rows):  # noqa: B007 (read after the loop)
        yield row
    if number < 0:
        part = f" {config}/{split}" if config else ""
        raise UserError(f"{source}{part}: holds no rows; give a source with at least one")


def read_texts(source: str, column: str, *, config: str | None = None, split: str = "train") -> Iterator[str]:
    """Yield the documents in `column` of `source`; empty ones are left out. Errors as in `read_table`."""
    found = False
    for where, values in read_table(source, [column], config=config, split=split):
        text = values[column]
        if text is not None and not isinstance(text, str):
            raise UserError(f"{where}: column {column!r} holds {type(text).__name__}, expected text")
        if text and not text.isspace():
            found = True
            yield text
    if not found:
        raise UserError(f"{source}: column {column!r} holds no text")


def source_identity(source: str, config: str | None = None, split: str = "train") -> list[str]:
    """What tells one content of `source` from another unread: paths, sizes and times, or the hub's commit."""
    paths = local_files(source, config, split)
    if paths is None:
        return [source, str(config), split, str(check_hub(source, "dataset", _remedy(source, config, split)))]
    stats = [(path.resolve(), path.stat()) for path in paths]
    return [f"{path}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in stats]


def count_rows(source: str, config: str | None = None, split: str = "train") -> int | None:
    """The rows of `source` where that can be told without reading it (parquet files), else None."""
    paths = local_files(source, config, split)
    if not paths or any(_suffix(path) != ".parquet" for path in paths):
        return None
    try:
        return sum(pq.read_metadata(path).num_rows for path in paths)
    except (pa.ArrowException, OSError):
        return None  # reading it will say what is wrong


def local_files(source: str, config: str | None = None, split: str = "train") -> list[Path] | None:
    """The files that hold `source`, or None when it has to come from the hub."""
    if mirrored := _mirrored(source, config, split):
        return mirrored
    if not source:  # as a path it is the working folder
        raise UserError("source: is empty; name a file, a folder or a data set of the hub")
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and _suffix(file) in SUFFIXES)
        if not files:
            raise UserError(f"{source}: the folder holds none of {', '.join(SUFFIXES)}")
        return files
    if path.exists():
        if _suffix(path) not in SUFFIXES:
            raise UserError(f"{source}: not a kind of file that is read; valid: {', '.join(SUFFIXES)}")
        return [path]
    if _HUB_ID.fullmatch(source) and _suffix(path) not in SUFFIXES:
        return None
    raise UserError(f"{source}: no such file or folder (a data set of the hub is written org/name)")


def configs(source: str) -> list[str]:
    """The names of the configs of a hub data set that have training rows, or of those that the local mirror has."""
    root = os.environ.get(DATA_ROOT)
    if root and _HUB_ID.fullmatch(source) and (Path(root) / source).is_dir():
        files = (
            file for pattern in ("*/train.parquet", "*/train-*.parquet") for file in (Path(root) / source).glob(pattern)
        )
        if found := sorted({file.parent.name for file in files}):
            return found
        raise UserError(f"{source}: {DATA_ROOT} has no <config>/train.parquet of it; copy one there")
    if not _HUB_ID.fullmatch(source):
        raise UserError(f"{source}: no such file or folder (a data set of the hub is written org/name)")
    import datasets

    remedy = _remedy(source, "<config>", "train")
    check_hub(source, "dataset", remedy)
    try:
        return datasets.get_dataset_config_names(source)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{source}: cannot be listed ({reason}); {remedy}") from None


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _mirrored(source: str, config: str | None, split: str) -> list[Path] | None:
    root = os.environ.get(DATA_ROOT)
    if not root or not _HUB_ID.fullmatch(source):
        return None
    if not Path(root).is_dir():
        raise UserError(f"{DATA_ROOT}={root}: no such folder; point it at a mirror of the hub, or unset it")
    folder = Path(root) / source
    if not folder.is_dir():
        return None
    for pattern in _mirror_patterns(config, split):
        if files := sorted(folder.glob(pattern)):
            return files
    found = sorted({str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.parquet")})
    wanted = f"{config}/{split}" if config else split
    raise UserError(f"{source}: {DATA_ROOT} has no {wanted!r} of it; {nearest(wanted, found)}")


def _mirror_patterns(config: str | None, split: str) -> list[str]:
    """Where the files of a split may lie: one file, or shards under the names that repositories of the hub use."""
    folders = ["", "data/", "plain_text/", "default/"] if config is None else [f"{config}/"]
    patterns = [f"{folder}{split}{shard}.parquet" for folder in folders for shard in ("", "-*")]
    if config is not None and split == "train":
        patterns.append(f"{config.replace('-', '/')}/*.parquet")  # fineweb-edu: `sample-10BT` in sample/10BT/
    return patterns


def _read_files(paths: Sequence[Path], columns: Sequence[str]) -> Iterator[Row]:
    readers = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet, ".conllu": _read_conllu}
    for path in paths:
        for number, values in readers.get(_suffix(path), _read_csv)(path, columns):
            yield Row(f"{path}:{number}", {name: clean_text(values[name]) for name in columns})


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their number from 1. Only a newline ends a line: U+2028 and the like are text."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path}: damaged or truncated gzip file; fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _read_txt(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict]]:
    for number, line in _lines(path):
        if text := line.rstrip("\r\n"):
            _check_columns(f"{path}:{number}", columns, ["text"])
            yield number, {"text": text}


def _read_jsonl(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: not valid JSON ({error}); one object a line") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}:{number}: a line is one JSON object, found {type(values).__name__}")
        _check_columns(f"{path}:{number}", columns, values)
        yield number, values


def _read_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(sys.maxsize)  # the default refuses a document above 128 kB
    delimiter = "\t" if _suffix(path) == ".tsv" else ","
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        _check_columns(f"{path}:1", columns, header)
        _check_once(f"{path}:1", columns, header)
        for record in reader:
            if len(record) not in (0, len(header)):
                problem = f"{len(record)} fields under a header of {len(header)}"
                raise UserError(f"{path}:{reader.line_num}: {problem}; quote fields that hold {delimiter!r}")
            if record:
                yield reader.line_num, dict(zip(header, record))
    except csv.Error as error:
        problem = f"not valid CSV ({error}); a field that holds a quote is quoted, the quote doubled"
        raise UserError(f"{path}:{reader.line_num}: {problem}") from None


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict]]:
    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:  # buffers are kept to the end: a whole file in memory
            _check_columns(str(path), columns, file.schema_arrow.names)
            _check_once(str(path), columns, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=256, columns=list(columns)):
                for values in batch.to_pylist():
                    number += 1
                    yield number, values
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged or truncated parquet file; fetch it again ({reason})") from None


def _read_conllu(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict]]:
    return sentence_rows((line for _, line in _lines(path)), path, columns)


def _read_hub(source: str, config: str | None, split: str, columns: Sequence[str]) -> Iterator[Row]:
    import datasets  # slow to import, and files need none of it

    remedy = _remedy(source, config, split)
    check_hub(source, "dataset", remedy)
    try:  # offline, only what `datasets` has already cached can be read, and that cannot be streamed
        table = datasets.load_dataset(source, config, split=split, streaming=not is_offline_mode())
        for number, values in enumerate(table, 1):
            where = f"{source}:{number}"
            _check_columns(where, columns, values)
            yield Row(where, {name: clean_text(values[name]) for name in columns})
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" …")  # a wrong config is answered with the valid ones
        raise UserError(f"{source}: cannot be loaded from the hub ({reason}); {remedy}") from None


def _remedy(source: str, config: str | None, split: str) -> str:
    file = "/".join([source, *filter(None, [config]), f"{split}.parquet"])
    local = f"set {DATA_ROOT}=DIR, where DIR/{file} is a local copy"
    return f"{local}, or HF_ENDPOINT=URL of a mirror, or give a file"


def _check_columns(where: str, wanted: Sequence[str], found: Any) -> None:
    for name in wanted:
        if name not in found:
            raise UserError(f"{where}: no column {name!r}; columns: {', '.join(map(str, found)) or 'none'}")


def _check_once(where: str, wanted: Sequence[str], header: Sequence[str]) -> None:
    for name in wanted:
        if header.count(name) > 1:
            raise UserError(f"{where}: column {name!r} stands twice; rename one")


def clean_text(value: Any) -> Any:
    """Text that UTF-8 can hold: lone surrogates become U+FFFD. Anything but text is returned as it is."""
    return _LONE_SURROGATE.sub("\ufffd", value) if isinstance(value, str) else value
