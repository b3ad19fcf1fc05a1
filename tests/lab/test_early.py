"""What stops a run early, and what does not."""

import json
import math
from itertools import pairwise

import pytest

from concept_encoder.lab.early import EarlyStops, hopeless, reason_to_stop
from concept_encoder.lab.failures import diagnose, is_secret, mask
from concept_encoder.lab.gates import parse_gate
from concept_encoder.lab.progress import MetricsTail, duration, figures, glance, sparkline, steps_in_log


def stream(losses=(), held_out=(), rates=()):
    records = [{"step": i, "loss": value} for i, value in enumerate(losses, 1)]
    records += [{"step": i, "eval_loss": value} for i, value in enumerate(held_out, 1)]
    return records + [{"step": i, "tokens_per_second": value} for i, value in enumerate(rates, 1)]


@pytest.mark.parametrize(
    ("records", "rules", "reason"),
    [
        (stream([5, 4, math.nan]), {}, "NaN: the loss is nan at step 3"),
        (stream([5, 4, math.inf]), {}, "NaN: the loss is inf at step 3"),
        (stream([5, 4, math.nan]), {"nan": False}, None),
        (stream([4.0] * 10 + [7.0] * 5), {}, "divergence: loss 7.000 at step 15, 1.75 times its best 4.000"),
        (stream([4.0] * 10 + [40.0] + [4.0] * 4), {"divergence": 3.0}, None),  # one odd batch
        (stream([4.0] * 10 + [7.0] * 5), {"divergence": None}, None),
        (stream(held_out=[5, 4, 3, 3, 3, 3]), {"plateau_steps": 3}, "plateau: the held-out loss has not fallen"),
        (stream(held_out=[5, 4, 3, 2.9, 2.8, 2.7]), {"plateau_steps": 3}, None),
        (stream(rates=[100.0] * 15 + [5.0] * 5), {}, "throughput collapse: 5 tokens/s, usual for this run are 100"),
        (stream(rates=[100.0] * 19 + [5.0]), {}, None),  # one slow log
    ],
)
def test_rules(records, rules, reason):
    found = reason_to_stop(records, EarlyStops(**rules), [], hours=0.5, hours_planned=1)
    assert found is None if reason is None else reason in found


def test_budget_and_gates():
    assert reason_to_stop([], EarlyStops(), [], hours=2.1, hours_planned=1).startswith("budget spent: 2.10 h")
    gate = parse_gate("loss > 6 after 3 steps")
    assert reason_to_stop(stream([7, 7]), EarlyStops(), [gate], 0, 1) is None
    assert reason_to_stop(stream([7, 7, 7]), EarlyStops(), [gate], 0, 1).startswith("gate: loss is 7 at step 3")


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_hopeless_against_the_others_at_the_same_step(pruner):
    pytest.importorskip("optuna")
    rules = EarlyStops(pruner=pruner, pruner_steps=2)
    others = [stream(held_out=[5, 4, 3, 2]), stream(held_out=[5, 4.1, 3.1, 2]), stream(held_out=[5, 4.2, 3, 2])]
    assert "hopeless" in hopeless(stream(held_out=[6, 6, 6]), others, rules)
    assert hopeless(stream(held_out=[5, 3, 2]), others, rules) is None
    assert hopeless(stream(held_out=[9]), others, rules) is None, "too early to judge"
    assert hopeless(stream(held_out=[6, 6, 6]), [], rules) is None, "nobody to compare with"


@pytest.mark.parametrize(
    ("log", "code", "kind", "reason"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", 1, "memory", "out of memory"),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", 1, "memory", "out of memory"),
        ("safetensors: No space left on device (os error 28)", 1, "disk", "no space left on its disk"),
        ('File "a.py", line 3, in f\n  g()\nOSError: [Errno 28] No space\nwandb: bye', 1, "disk", "in f (a.py:3)"),
        ("no space left on /cache, goes on without\nKeyError: 1", 1, "crash", "KeyError: 1"),
        ('File "a.py", line 3, in f\n  g()\nKeyError: 1\nENOSPC, says a hint\nbye', 1, "crash", "in f (a.py:3)"),
        ("x\nerror: data.corpus: no file\n", 2, "mistake", "data.corpus: no file"),
        ('File "a.py", line 3, in f\n    g()\n  File "b.py", line 7, in g\nKeyError: 1', 1, "crash", "in g (b.py:7)"),
        ("", -9, "killed", "SIGKILL"),
        ("", -11, "crash", "SIGSEGV"),
        ("", None, "lost", "disappeared"),
        ("", 1, "crash", "exit code 1: no output"),
    ],
)
def test_failures_are_understood(log, code, kind, reason):
    found = diagnose(log, code)
    assert found.kind == kind
    assert reason in found.reason


def test_names_say_what_is_secret():
    names = ("HF_TOKEN", "MY_TOKENS", "AWS_SECRET_ACCESS_KEY", "TOKENIZERS_PARALLELISM", "HOME")
    assert [is_secret(name) for name in names] == [True, True, True, False, False]


def test_secrets_are_masked(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    text = "hf_abcdefghijklmnop https://me:secret@host/x Authorization: Bearer abc.def-ghi 0123456789abcdef plain"
    assert mask(text) == "*** https://***@host/x Authorization: Bearer *** *** plain"


def test_metrics_are_read_as_they_grow(tmp_path):
    tail = MetricsTail(tmp_path)
    assert tail.read() == []
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 5.0, "time": 10}\n{"step": 2, "lo')
    assert [record["step"] for record in tail.read()] == [1]
    file.write_text(file.read_text() + 'ss": 4.0, "time": 12}\nnot json\n{"step": 2, "loss": 3.0, "time": 12}\n')
    assert [record["loss"] for record in tail.read()] == [5.0, 3.0], "after a resume the later record counts"
    found = figures(tail.read(), steps=10)
    assert steps_in_log(["checking", "pretrain: step 30/300 loss 5", "step 60/300"]) == 300
    assert (found["step"], found["steps"], found["loss"], found["eta"]) == (2, 10, 3.0, 16.0)


def test_a_resume_makes_what_was_ahead_of_it_undone(tmp_path):
    def log(*steps: int, start: float) -> None:
        with open(tmp_path / "metrics.jsonl", "a") as file:
            for place, step in enumerate(steps):
                file.write(json.dumps({"step": step, "loss": start + step, "time": start + 2.0 * place}) + "\n")

    log(1, 2, 3, 4, 5, start=0.0)
    tail = MetricsTail(tmp_path)
    tail.read()
    log(3, 4, start=1000.0)
    found = figures(tail.read(), steps=10)
    assert (found["step"], found["loss"], found["eta"]) == (4, 1004.0, 12.0)
    assert [record["loss"] for record in glance(tmp_path)] == [1.0, 2.0, 1003.0, 1004.0]


def test_durations():
    assert [duration(seconds) for seconds in (43, 720, 12_240, 181_440)] == ["43 s", "12 min", "3.4 h", "2.1 d"]


def test_sparkline():
    assert sparkline([]) == ""
    assert sparkline([1, 2, 3]) == "▁▄█" or sparkline([1, 2, 3]) == "▁▅█"
    assert sparkline([1, math.nan, 2]) == "▁!█"
    assert len(sparkline(range(1000))) == 12


def test_a_glance_at_a_long_file_is_a_sample_from_first_to_last(tmp_path):
    lines = [json.dumps({"step": step, "loss": 5 / step, "time": float(step)}) + "\n" for step in range(1, 20_001)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 20001, "lo')
    whole, some = MetricsTail(tmp_path).read(), glance(tmp_path)
    assert (some[0], some[-1]) == (whole[0], whole[-1])
    assert len(some) < len(whole) / 4
    assert max(b["step"] - a["step"] for a, b in pairwise(some)) < 1000
    assert glance(tmp_path, size=10**6) == whole
    assert glance(tmp_path / "nowhere") == []
