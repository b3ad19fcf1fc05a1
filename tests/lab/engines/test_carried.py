"""A run's small files come home through its log, wherever that is cut and however often it begins anew."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concept_encoder.lab.engines.carried import MARK, PIECE, Receiver, exit_line, is_plain, pieces
from concept_encoder.lab.engines.on_host import VARIABLE, Sender, packed
from concept_encoder.lab.engines.storage import Storage
from concept_encoder.lab.engines.supervise import start_time

METRICS = "".join(json.dumps({"step": i, "loss": 1 / (i + 1)}) + "\n" for i in range(40)).encode()
REPORT = bytes(range(256)) * (3 * PIECE // 256)


def stream() -> str:
    log = ["first ü\n", "\n", "second\n"]
    middle = METRICS.index(b"\n", 700) + 1
    lines = [log[0], *pieces("metrics.jsonl", METRICS[:middle]), log[1], *pieces("figures/report.html", REPORT)]
    lines += [*pieces("metrics.jsonl", METRICS[middle:], middle), log[2], *pieces("empty.txt", b""), exit_line(-9)]
    return "".join(lines)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 60_000), st.integers(1, 20_000)), max_size=5))
def test_any_cut_and_any_new_beginning_give_the_same_files(cuts):
    with tempfile.TemporaryDirectory() as name:
        folder, text = Path(name), stream()
        receiver = Receiver(folder / "log.txt", folder / "run")
        longest = 0
        for stop, size in cuts:
            receiver.restart()
            for at in range(0, min(stop, len(text)), size):
                receiver.feed(text[at : min(at + size, stop)])
            if (folder / "run" / "metrics.jsonl").exists():
                grown = (folder / "run" / "metrics.jsonl").stat().st_size
                assert grown >= longest, "what came once does not go away"
                longest = grown
        receiver.restart()
        receiver.feed(text)
        assert receiver.code == -9
        assert (folder / "log.txt").read_text() == "first ü\n\nsecond\n"
        assert (folder / "run" / "metrics.jsonl").read_bytes() == METRICS
        assert (folder / "run" / "figures" / "report.html").read_bytes() == REPORT
        assert (folder / "run" / "empty.txt").read_bytes() == b""


def test_another_host_begins_the_metrics_anew(tmp_path):
    for count in (30, 3):
        receiver = Receiver(tmp_path / "log.txt", tmp_path)
        content = b"".join(b'{"step": %d, "count": %d}\n' % (i, count) for i in range(count))
        receiver.feed("".join(pieces("metrics.jsonl", content)))
    assert (tmp_path / "metrics.jsonl").read_bytes() == content


def test_a_stream_writes_nowhere_but_into_the_run(tmp_path):
    names = ["../up.json", "/tmp/root.json", "a/../../up.json", ".hidden", "a/.ssh/key", "", "."]
    assert not any(is_plain(name) for name in names)
    receiver = Receiver(tmp_path / "log.txt", tmp_path / "run")
    for name in names:
        receiver.feed("".join(pieces(name, b"x")))
    receiver.feed(MARK + "no json\n" + MARK + "[1]\n" + MARK + '{"file": "x", "at": 0, "end": 1, "data": "%"}\n')
    assert not (tmp_path / "run").exists()


def job(folder: Path, code: str, *words: str, **more) -> dict:
    return {
        "folder": str(folder / "attempt"),
        "output": str(folder / "run"),
        "command": ["client's python", "-c", code, str(folder / "run"), *words],
        "python": "client's python",
        "environment": {"GREETING": "hello $HOME"},
        "files": {"recipe.yaml": "title: ü\n"},
        "last": ["result.json"],
        **more,
    }


def run(job: dict) -> tuple[int, str]:
    environment = {**os.environ, VARIABLE: packed(job), "RAY_AUTH_TOKEN": "of no concern to a run"}
    found = subprocess.run(
        [sys.executable, "-m", "concept_encoder.lab.engines.on_host"], env=environment, capture_output=True, text=True
    )
    return found.returncode, found.stdout


def test_a_job_on_a_host_sends_its_log_files_and_code(tmp_path):
    code = (
        "import os, sys; os.makedirs(sys.argv[1] + '/checkpoints/1'); print(sys.argv[2:], os.environ['GREETING']);"
        "print([name for name in os.environ if name.startswith('RAY_') or name == 'CONCEPT_ENCODER_JOB']);"
        "print('\\x1e{\"exit\": 0}', end='', file=sys.stderr);"
        "[open(f'{sys.argv[1]}/{name}', 'w').write(name) for name in"
        " ('result.json', 'metrics.jsonl', 'torn.jsonl', 'a.safetensors', 'tokenizer.json', 'checkpoints/1/a.json')];"
        "open(sys.argv[1] + '/metrics.jsonl', 'a').write('\\n'); os.kill(os.getpid(), 9)"
    )
    words = ["it's", '$HOME `id` $(id) "; rm -rf ~', "new\nline", "ü*?"]
    code, text = run(job(tmp_path / "host", code, *words))
    assert code == 128 + 9
    receiver = Receiver(tmp_path / "log.txt", tmp_path / "run")
    receiver.feed(text)
    assert receiver.code == -9
    assert (tmp_path / "log.txt").read_text() == f"{words} hello $HOME\n[]\n" + '{"exit": 0}\n'
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == ["metrics.jsonl", "result.json"]
    assert text.index('"result.json"') > text.index('"metrics.jsonl"')
    assert (tmp_path / "host" / "attempt" / "recipe.yaml").read_text() == "title: ü\n"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux")
def test_a_run_dies_with_what_carries_it_home(tmp_path):
    """Else it would go on beside its next attempt."""
    code = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)"
    environment = {**os.environ, VARIABLE: packed(job(tmp_path, code))}
    command = [sys.executable, "-m", "concept_encoder.lab.engines.on_host"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    assert start_time(pid)
    process.kill()
    process.wait()
    end = time.time() + 20
    while start_time(pid):
        assert time.time() < end
        time.sleep(0.05)


def test_a_missing_program_is_a_mistake(tmp_path):
    code, text = run({**job(tmp_path, ""), "command": ["/nowhere/program"]})
    assert code == 2
    assert text.startswith("error: /nowhere/program: No such file")


def test_a_result_is_sent_last_and_a_file_once(tmp_path):
    said: list[str] = []
    sender = Sender(tmp_path, ("result.json",), said.append)
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "environment.json").write_text("{}")
    sender.send()
    sender.send()
    assert [json.loads(line[1:])["file"] for line in said] == ["environment.json"]
    sender.send(finished=True)
    assert [json.loads(line[1:])["file"] for line in said] == ["environment.json", "result.json"]


def test_checkpoints_go_to_a_url_and_a_run_goes_on_elsewhere(tmp_path):
    """The second host has nothing of it but what is stored."""
    code = (
        "import os, pathlib, sys; run = pathlib.Path(sys.argv[1]); made = run / 'checkpoints' / 'step-1';"
        "print('found', sorted(path.name for path in run.glob('checkpoints/*')));"
        "first = not made.exists(); made.mkdir(parents=True, exist_ok=True); (made / 'weights').write_text('w');"
        "(run / 'checkpoints' / '.saving').mkdir(exist_ok=True); (run / 'checkpoints' / '.saving' / 'torn').touch();"
        "(run / 'metrics.jsonl').write_text('{}\\n');"
        "sys.exit(1) if first else (run / 'result.json').write_text('{}')"
    )
    stored = {"stored": "plan/runs/a", "storage": (tmp_path / "bucket").as_uri(), "inputs": []}
    first, text = run(job(tmp_path / "one", code, **stored))
    assert (first, "found []" in text) == (1, True)
    second, text = run(job(tmp_path / "two", code, **stored))
    assert (second, "found ['step-1']" in text) == (0, True)
    reads = (
        "import pathlib, sys; there = pathlib.Path(sys.argv[2]);"
        "print(sorted(str(path.relative_to(there)) for path in there.rglob('*')))"
    )
    there = tmp_path / "three" / "input"
    third, text = run(
        job(
            tmp_path / "three",
            reads,
            str(there),
            **{**stored, "stored": "plan/runs/b", "inputs": [["plan/runs/a", str(there)]]},
        )
    )
    assert third == 0
    assert "['checkpoints', 'checkpoints/step-1', 'checkpoints/step-1/weights', 'metrics.jsonl', 'result.json']" in text


def test_a_storage_without_a_driver_is_a_mistake(tmp_path):
    code, text = run(job(tmp_path, "", stored="a", storage="nosuch://bucket", inputs=[]))
    assert code == 2
    assert text.startswith("error: storage nosuch://bucket: Protocol not known")


def test_a_result_that_could_not_be_stored_is_none(tmp_path):
    (tmp_path / "bucket").write_text("no folder")
    code, text = run(
        job(
            tmp_path,
            "import sys; open(sys.argv[1] + '/result.json', 'w').write('{}')",
            stored="a",
            storage=(tmp_path / "bucket").as_uri(),
            inputs=[],
        )
    )
    assert code == 1
    assert '"result.json"' not in text


def test_a_checkpoint_that_did_not_arrive_whole_is_not_taken(tmp_path):
    storage = Storage((tmp_path / "bucket").as_uri())
    (tmp_path / "run" / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "1" / "weights").write_text("w")
    storage.put(tmp_path / "run", "a")
    (tmp_path / "bucket" / "a" / "checkpoints" / "2").mkdir()
    (tmp_path / "bucket" / "a" / "checkpoints" / "2" / "weights").write_text("half")
    storage.get("a", tmp_path / "there")
    assert [path.name for path in (tmp_path / "there" / "checkpoints").iterdir()] == ["1"]
