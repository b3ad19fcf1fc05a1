import gzip
import json
import random
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concept_encoder.data.sources import read_table, read_texts, source_identity
from concept_encoder.errors import UserError


def texts(path, column="text", **options):
    return list(read_texts(str(path), column, **options))


def error(source, columns=("text",), **options) -> str:
    with pytest.raises(UserError) as caught:
        list(read_table(str(source), list(columns), **options))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_format_gives_the_same_documents(tmp_path):
    documents = ["first one", 'second, "quoted"', "third: naïve 😀"]
    (tmp_path / "a.txt").write_text("\n".join(documents) + "\n\n", encoding="utf-8")
    lines = "".join(json.dumps({"text": text, "other": 1}) + "\n" for text in documents)
    (tmp_path / "b.jsonl").write_text(lines)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    quoted = ['"' + text.replace('"', '""') + '"' for text in documents]
    (tmp_path / "d.csv").write_text("\n".join(["text", *quoted]), encoding="utf-8-sig")
    (tmp_path / "e.tsv").write_text("\n".join(["id\ttext", *(f"1\t{text}" for text in quoted)]), encoding="utf-8")
    pq.write_table(pa.table({"text": documents}), tmp_path / "f.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert texts(path) == documents, path
    assert texts(tmp_path) == documents * 6


def test_rows_say_where_they_stand(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n')
    rows = list(read_table(str(tmp_path / "a.jsonl"), ["text"]))
    assert [row.where.rpartition(":")[2] for row in rows] == ["1", "3"]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(min_size=1).filter(lambda text: not text.isspace()), min_size=1, max_size=5))
def test_any_text_passes_unharmed(tmp_path, documents):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    assert texts(tmp_path / "a.jsonl") == documents


def test_odd_texts(tmp_path):
    odd = ["nul \0 byte", "\u202bעברית עם emoji 👩‍👩‍👧\u202c", "line\u2028separator", "x" * 10_000_000]
    lines = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in odd)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n".join(odd), encoding="utf-8")
    (tmp_path / "c.csv").write_text("\n".join(["text", *odd]), encoding="utf-8")
    for name in ("a.jsonl", "b.txt", "c.csv"):
        assert texts(tmp_path / name) == odd, name


def test_lone_surrogates_are_replaced(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b \\ud83d\\ude00"}\n')
    assert texts(tmp_path / "a.jsonl") == ["a\ufffdb 😀"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"good\n\xff\xfe\n", "a.txt:2: not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n["a"]\n', "a.jsonl:2: a line is one JSON object, found list"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"body": "b", "id": 1}\n',
            "a.jsonl:2: no column 'text'; columns: body, id",
        ),
        ("a.csv", b"id,body\n1,b\n", "a.csv:1: no column 'text'; columns: id, body"),
        ("a.csv", b"id,text\n1,b,c\n", "a.csv:2: 3 fields under a header of 2"),
        ("a.csv", b"text,text\nb,c\n", "a.csv:1: column 'text' stands twice; rename one"),
        ("a.tsv", b'id\ttext\n1\t"b" c\n', "a.tsv:2: not valid CSV"),
        ("a.txt", b"\n\n", "holds no rows"),
        ("a.txt", b"", "holds no rows"),
        ("a.csv", b"", "no column 'text'; columns: none"),
        ("a.parquet", b"PAR1 cut off", "a.parquet: damaged or truncated parquet"),
        ("a.parquet", b"", "a.parquet: damaged or truncated parquet"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}\n' * 1000)[:-20],
            "a.jsonl.gz: damaged or truncated gzip",
        ),
        ("a.jsonl.gz", b"not gzip", "a.jsonl.gz: damaged or truncated gzip"),
        ("a.docx", b"x", "a.docx: not a kind of file that is read; valid: .txt"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert expected in error(tmp_path / name)


def test_a_parquet_without_the_column(tmp_path):
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    assert "a.parquet: no column 'text'; columns: body" in error(tmp_path / "a.parquet")


def test_a_parquet_cut_in_the_middle(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [str(i) * 50 for i in range(5000)]}), path)
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(content)
    assert "a.parquet: damaged" in error(path)


def test_missing_paths(tmp_path):
    assert "no such file or folder" in error(tmp_path / "nothing.txt")
    assert "no such file or folder" in error("some/corpus.txt")
    assert "none of .txt" in error(tmp_path)


def test_a_column_that_is_not_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"text": 3}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:3: column 'text' holds int, expected text"):
        texts(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "  "}\n')
    with pytest.raises(UserError, match="holds no text"):
        texts(tmp_path / "a.jsonl")


def test_the_mirror_stands_in_for_the_hub(tiny_mirror):
    tiny_mirror("org/data/en/train", {"text": ["a", "b"]})
    tiny_mirror("org/plain/test", {"text": ["c"]})
    tiny_mirror("org/named/plain_text/train", {"text": ["d"]})
    assert texts("org/data", config="en") == ["a", "b"]
    assert texts("org/plain", split="test") == ["c"]
    assert texts("org/named") == ["d"]
    assert "has no 'de/train' of it; did you mean 'en/train'? valid: en/train" in error("org/data", config="de")
    assert "has no 'train' of it" in error("org/plain")


def test_a_mirror_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("CONCEPT_ENCODER_DATA_ROOT", str(tmp_path / "gone"))
    assert "no such folder" in error("org/data")


def test_a_hub_out_of_reach_is_told_within_seconds(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", unreachable)
    monkeypatch.setattr("concept_encoder.data.hub.is_offline_mode", lambda: False)
    start = time.perf_counter()
    message = error("org/data")
    assert time.perf_counter() - start < 5
    assert "org/data: the hub cannot be reached" in message
    assert "set CONCEPT_ENCODER_DATA_ROOT=DIR, where DIR/org/data/train.parquet is a local copy" in message
    assert "DIR/org/data/en/test.parquet" in error("org/data", config="en", split="test")


def test_offline_only_the_local_cache_of_the_hub_is_read(monkeypatch):
    import datasets

    calls = []

    def load_dataset(*arguments, **options):
        calls.append((arguments, options))
        return [{"text": "cached", "id": 1}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("concept_encoder.data.hub.is_offline_mode", lambda: True)
    monkeypatch.setattr("concept_encoder.data.sources.is_offline_mode", lambda: True)
    assert texts("org/data", config="en") == ["cached"]
    assert calls == [(("org/data", "en"), {"split": "train", "streaming": False})]


def test_identity_changes_with_the_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n")
    first = source_identity(str(path))
    assert source_identity(str(tmp_path)) == first
    path.write_text("two and more\n")
    assert source_identity(str(path)) != first


def test_the_real_mirror(mirror):
    rows = list(read_table("nyu-mll/glue", ["sentence", "label"], config="cola", split="validation"))
    assert len(rows) > 500
    assert {row.values["label"] for row in rows} == {0, 1}


def test_a_large_parquet_file_is_never_in_memory(tmp_path):
    rng = random.Random(0)
    with pq.ParquetWriter(tmp_path / "large.parquet", pa.schema([("text", pa.string())])) as writer:
        for _ in range(20):  # 20 MB that do not compress
            writer.write_table(pa.table({"text": [rng.randbytes(5000).hex() for _ in range(100)]}))
    before, most = pa.total_allocated_bytes(), 0
    for _ in read_texts(str(tmp_path / "large.parquet"), "text"):
        most = max(most, pa.total_allocated_bytes())
    assert most - before < 8_000_000
