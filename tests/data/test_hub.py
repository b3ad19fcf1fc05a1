"""The real client of the hub against a hub on this machine, with the corpora of the table in their own layout."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from concept_encoder.data.corpus import DataConfig
from concept_encoder.data.packing import prepare
from concept_encoder.data.tokenizer import train_tokenizer

COMMIT = "a" * 40
# files of each repository, and the configurations that its card declares
REPOSITORIES = {
    "JeanKaddour/minipile": (["data/train-00000-of-00002-6fb", "data/train-00001-of-00002-2bb"], {}),
    "Skylion007/openwebtext": (["plain_text/train-00000-of-00080"], {"plain_text": "plain_text/train-*"}),
    "wikimedia/wikipedia": (
        ["20231101.de/train-00000-of-00001", "20231101.en/train-00000-of-00041"],
        {"20231101.de": "20231101.de/train-*", "20231101.en": "20231101.en/train-*"},
    ),
    "HuggingFaceFW/fineweb-edu": (
        ["data/CC-MAIN-2024-10/train-00000-of-00020", "sample/10BT/000_00000", "sample/10BT/001_00000"],
        {"default": "data/*/*", "sample-10BT": "sample/10BT/*"},
    ),
}
SHUT = "sample/10BT/001_00000.parquet"  # refused while a file `shut` stands beside the repositories


def config(folder: Path, cache: str) -> DataConfig:
    mixture = {"minipile": 0.5, "fineweb-edu": 0.5}
    plain = {"sequence_length": 16, "validation_fraction": 0.2, "cache_dir": folder / cache}
    return DataConfig(mixture, tokenizer=str(folder / "tokenizer"), **plain)


CLIENT = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_hub import config
from concept_encoder.data import encoding, shards
from concept_encoder.data.corpus import DataConfig, labelled_documents
from concept_encoder.data.packing import prepare
from concept_encoder.errors import UserError

def error(read):
    try:
        read()
    except UserError as mistake:
        return str(mistake)

folder, found = Path(sys.argv[1]), {{}}
for name in ("minipile", "openwebtext", "wikipedia", "fineweb-edu"):
    found[name] = [text for _, text in labelled_documents(DataConfig(corpus=name))]
found["config"] = error(lambda: list(labelled_documents(DataConfig(corpus="wikimedia/wikipedia"))))
shards.SHARD_CHARACTERS = encoding.BATCH_CHARACTERS = 500
(folder / "shut").touch()
found["shut"] = error(lambda: prepare(config(folder, "streamed"), progress=False))
found["finished"] = len(list(folder.glob("streamed/corpora/*.partial/train-*.arrow"))) - 1
(folder / "shut").unlink()
found["rows"] = [row.tolist() for row in prepare(config(folder, "streamed"), progress=False).train[:]["input_ids"]]
print(json.dumps(found))
"""


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that reading a data set needs, over the folders of `root`."""

    root: Path

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        """Of `paths-info`: what is at these paths."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        repository = self.root / "/".join(self.parts()[2:4])
        self.answer([self.entry(repository, repository / path) for path in asked if (repository / path).exists()])

    def do_GET(self) -> None:
        parts = self.parts()
        if parts[0] == "datasets":  # datasets/<org>/<name>/resolve/<commit>/<path>
            return self.file(self.root / "/".join(parts[1:3]) / "/".join(parts[5:]))
        repository, verb = self.root / "/".join(parts[2:4]), parts[4:5]
        folder = repository / "/".join(parts[6:])
        if verb == ["tree"] and folder.is_dir():
            found = folder.rglob("*") if "recursive=true" in self.path else folder.iterdir()
            return self.answer([self.entry(repository, path) for path in sorted(found)])
        if verb in ([], ["revision"]):
            names = [{"rfilename": str(path.relative_to(repository))} for path in repository.rglob("*.*")]
            return self.answer({"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": names})
        return self.answer({}, 404)

    def parts(self) -> list[str]:
        return [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]

    def entry(self, repository: Path, path: Path) -> dict:
        kind = {"type": "directory", "size": 0} if path.is_dir() else {"type": "file", "size": path.stat().st_size}
        return {**kind, "path": str(path.relative_to(repository)), "oid": COMMIT}

    def file(self, path: Path) -> None:
        if path.match(SHUT) and (self.root.parent / "shut").exists():
            return self.answer({}, 403)
        if not path.is_file():
            return self.answer({}, 404)
        content, whole = path.read_bytes(), "bytes=0-"
        first, _, last = self.headers.get("Range", whole).removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        place = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        headers = {"ETag": f'"{COMMIT}"', "X-Repo-Commit": COMMIT, "Content-Range": place}
        return self.send(part, 206 if "Range" in self.headers else 200, headers)

    def answer(self, content: object, code: int = 200) -> None:
        self.send(json.dumps(content).encode(), code, {"X-Error-Code": "EntryNotFound"} if code == 404 else {})

    def send(self, content: bytes, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path):
    """The address of a hub that holds `REPOSITORIES`, 40 texts a file, in `tmp_path/hub`."""
    root = tmp_path / "hub"
    for name, (files, configs) in REPOSITORIES.items():
        for file in files:
            path = root / name / f"{file}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            texts = [f"text {i} of {file} in {name}, number {i * i}" for i in range(40)]
            pq.write_table(pa.table({"text": texts, "id": texts}), path)
        declared = [
            {"config_name": config, "data_files": [{"split": "train", "path": path}]}
            for config, path in configs.items()
        ]
        (root / name / "README.md").write_text(f"---\n{json.dumps({'configs': declared} if declared else {})}\n---\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"root": root}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_streaming_from_the_hub(hub, tmp_path, monkeypatch):
    """All named corpora; a mixture that fails on the way goes on, and its rows are those of local files."""
    texts = [f"text {i} of data train sample number {i * i}" for i in range(99)]
    train_tokenizer(texts, "bpe", 300).save_pretrained(tmp_path / "tokenizer")
    direct = dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1")
    given = {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"), **direct}
    client = [sys.executable, "-c", CLIENT, str(tmp_path)]
    done = subprocess.run(client, env={**os.environ, **given}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    wanted = {"minipile": "data/", "openwebtext": "plain_text/", "wikipedia": "20231101.en/", "fineweb-edu": "sample/"}
    for (name, folder), (files, _) in zip(wanted.items(), REPOSITORIES.values()):
        count = 40 * sum(file.startswith(folder) for file in files)
        assert len(set(found[name])) == len(found[name]) == count
        assert all(f" of {folder}" in text for text in found[name])
    assert "20231101.en" in found["config"]
    assert found["shut"].startswith("HuggingFaceFW/fineweb-edu: cannot be loaded from the hub")
    assert found["finished"] > 2
    monkeypatch.setenv("CONCEPT_ENCODER_DATA_ROOT", str(tmp_path / "hub"))
    local = prepare(config(tmp_path, "local"), progress=False)
    assert found["rows"] == [row.tolist() for row in local.train[:]["input_ids"]]
