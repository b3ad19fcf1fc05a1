import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SENTENCE = "the a cat dog bird sat ran flew on under over mat tree river quickly slowly red green and then"


@pytest.fixture(autouse=True)
def _no_mirror(request, monkeypatch):
    if "mirror" not in request.fixturenames:
        monkeypatch.delenv("CONCEPT_ENCODER_DATA_ROOT", raising=False)


@pytest.fixture
def mirror() -> Path:
    """The real local mirror; tests that need it are skipped without one."""
    root = os.environ.get("CONCEPT_ENCODER_DATA_ROOT")
    if not root or not (Path(root) / "nyu-mll/glue/cola").is_dir():
        pytest.skip("CONCEPT_ENCODER_DATA_ROOT holds no mirror of the hub")
    return Path(root)


@pytest.fixture
def tiny_mirror(tmp_path, monkeypatch):
    """A function that writes `<org/name>/<config>/<split>.parquet` into a mirror of the hub's layout."""
    root = tmp_path / "mirror"
    root.mkdir()
    monkeypatch.setenv("CONCEPT_ENCODER_DATA_ROOT", str(root))

    def write(path: str, columns: dict) -> Path:
        file = root / f"{path}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), file)
        return file

    return write


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(SENTENCE.split(), k=rng.randint(4, 30))) + "." for _ in range(300)]
