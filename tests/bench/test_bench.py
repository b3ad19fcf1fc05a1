"""The benchmark: everyone does the same work, nobody's failure hides, and the tables say what was measured."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from concept_encoder.bench.contestants import PEERS, PRESET_NAMES, build_contestant
from concept_encoder.bench.measure import MemoryRequest, peak_memory, time_interleaved
from concept_encoder.bench.modes import MODES
from concept_encoder.bench.report import markdown, ratio_grid, table
from concept_encoder.bench.run import BenchOptions, flops_per_token, run_bench
from concept_encoder.bench.sizes import Sizes
from concept_encoder.bench.workloads import make_step, packed_batch, padded_batches
from concept_encoder.cli.bench import command

SMALL = Sizes(hidden_size=32, num_layers=6, num_heads=2, num_concepts=4, vocab_size=128, max_length=64)
REFERENCE = Path(__file__).parents[2] / "benchmarks" / "reference.py"


@pytest.mark.parametrize("name", [*PRESET_NAMES, *PEERS, str(REFERENCE)])
def test_every_contestant_learns_from_packed_and_padded_batches(name):
    packed, padded = packed_batch(32, 64, SMALL.vocab_size), padded_batches([9, 30, 17], 3, SMALL.vocab_size)[0]
    for mode in ("pretrain", "finetune"):
        contestant = build_contestant(name, SMALL, mode)
        loss = {"pretrain": contestant.masked_lm_loss, "finetune": contestant.classification_loss}[mode]
        for batch in (packed, padded):
            try:
                value = loss(batch)
            except NotImplementedError:
                assert name == "hf:perceiver"  # the one peer without a way back to the tokens
                continue
            value.backward()
            assert torch.isfinite(value)
    assert contestant.body(packed).shape[-1] == SMALL.hidden_size


def test_presets_and_peers_compute_the_same_loss_for_equal_states():
    """The head of the peers is BERT's, at the labelled tokens alone: against the plain formula over all of them."""
    peer, batch = build_contestant("hf:bert", SMALL, "pretrain"), packed_batch(32, 64, SMALL.vocab_size)
    logits = peer.decoder(peer.head(peer.body(batch)))
    everywhere = torch.full_like(batch.input_ids, -100).scatter(1, batch.label_index, batch.labels)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), everywhere.flatten())
    torch.testing.assert_close(peer.masked_lm_loss(batch), expected)


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_the_body_is_learned_from_whole(name):
    """A last move that only one stream hears would otherwise be timed without its backward pass."""
    contestant = build_contestant(name, SMALL, "body")
    contestant.body(packed_batch(32, 64, SMALL.vocab_size)).square().mean().backward()
    moves = contestant.network.model.groups
    assert not [name for name, parameter in moves.named_parameters() if parameter.grad is None]


def test_batches_are_as_long_as_the_texts():
    first, second = padded_batches([5, 9, 30, 12], 2, vocab_size=64)
    assert first.input_ids.shape == (2, 16)
    assert second.input_ids.shape == (2, 32)
    assert (first.tokens, second.tokens) == (14, 42)
    assert packed_batch(16, 64, 64).tokens == 64
    assert packed_batch(128, 64, 64).tokens == 128


def test_contestants_take_turns_and_who_fails_is_named():
    calls, failures = [], []

    def fail(batch):
        raise RuntimeError("out of memory")

    steps = {"a": lambda batch: calls.append("a"), "bad": fail, "b": lambda batch: calls.append("b")}
    batch = packed_batch(8, 8, 64)
    timings = time_interleaved(
        steps, [batch], torch.device("cpu"), repeats=2, on_failure=lambda name, error: failures.append(name)
    )
    assert calls == ["a", "b"] * 3  # the first round is the warm-up
    assert list(timings) == ["a", "b"]
    assert failures == ["bad"]


def test_a_record_with_its_tables(tmp_path):
    options = BenchOptions(
        "pretrain", ["bert", "perceiver_mlm:ratio"], [16, 32], tokens=64, repeats=1, profile=["bert"], sizes=SMALL
    )
    record = json.loads(json.dumps(run_bench(options)))
    assert {row["model"] for row in record["rows"]} == {"bert", "perceiver_mlm:ratio"}
    assert all(0 < row["mfu"] < 1.5 for row in record["rows"])
    assert [row["ratio"] for row in record["rows"] if row["model"] == "bert"] == [1.0, 1.0]
    assert record["environment"]["versions"]["torch"] == torch.__version__
    header, rows = table(record)
    assert len(rows) == 4
    assert "of matmul" in header
    assert {row[header.index("spread")] for row in rows} == {"–"}  # of one repetition there is none
    assert len(markdown(header, rows).splitlines()) == 6
    assert ratio_grid(record)[0] == ["model", "N = 16", "N = 32"]
    assert list(record["kernels"]) == ["bert at 16", "bert at 32"]


@pytest.mark.parametrize("mode", ["body", "inference"])
def test_flops_of_the_twin_are_the_formula_of_a_transformer(mode):
    """Forward, per token and layer: 24 D^2 for the maps and 4 N D for attention."""
    width, length = SMALL.hidden_size, 16
    formula = SMALL.num_layers * (24 * width**2 + 4 * length * width)
    found = flops_per_token(build_contestant("bert", SMALL, mode), mode, length)
    assert found == pytest.approx(formula * (3 if mode == "body" else 1))


def test_without_the_first_contestant_there_is_no_ratio():
    """hf:perceiver cannot pretrain: the others must not be measured against whoever comes next."""
    record = run_bench(BenchOptions("pretrain", ["hf:perceiver", "bert"], [16], tokens=16, repeats=1, sizes=SMALL))
    assert [entry["model"] for entry in record["failed"]] == ["hf:perceiver"]
    assert [row["ratio"] for row in record["rows"]] == [None]
    assert ratio_grid(record)[1] == [["hf:perceiver", "–"], ["bert", "–"]]
    assert table(record)[1][0][4] == "–"


@pytest.mark.parametrize("mode", MODES)
def test_steps_leave_no_gradients_and_learn_only_where_they_should(mode):
    contestant = build_contestant("woven", SMALL, mode)
    before = [parameter.clone() for parameter in contestant.parameters()]
    make_step(mode, contestant, "fp32")(packed_batch(16, 32, SMALL.vocab_size))
    assert all(parameter.grad is None for parameter in contestant.parameters())
    moved = any(not torch.equal(one, two) for one, two in zip(before, contestant.parameters()))
    assert moved == (mode in ("pretrain", "finetune"))


def test_peak_memory_is_of_the_step_alone():
    """Four times the texts need about four times the activations, whatever the model weighs."""
    found = [
        peak_memory(
            MemoryRequest("bert", "body", 64, tokens, "fp32", "cpu", "sdpa", {**vars(SMALL), "hidden_size": 128})
        )
        for tokens in (16_384, 65_536)
    ]
    assert found[1] == pytest.approx(4 * found[0], rel=0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["body", "--models", "bart"], "--models: no contestant is called 'bart'; did you mean"),
        (["body", "--lengths", "12x"], "--lengths: '12x' is no list of numbers"),
        (["body", "--lengths", "4"], "--lengths: '4' holds none, one that is too short"),
        (["body", "--models", "bert,x.py"], "--models: 'x.py' is a file; give it as --peer"),
        (["body", "--peer", "none.py"], "--peer: none.py does not exist"),
        (["body", "--repeats", "0"], "--repeats: 0 is too small or too large; 1 or more"),
        (["body", "--hidden-size", "30"], "--hidden-size: 30 is no multiple of --heads 8"),
        (["body", "--models", "woven", "--layers", "3"], "--models: nobody could run (num_layers: "),
        (["body", "--models", ","], "--models: nobody is named"),
        (["body", "--concepts", "0"], "--concepts: 0 is too small"),
        (["body", "--threads", "100000"], "--threads: 100000 is not from 0 to"),
        (["body", "--device", "tpu"], "--device: 'tpu' is not one of cpu, cuda"),
        (["body", "--device", "cpu", "--attention", "varlen"], "--attention: varlen needs CUDA"),
        (["body", "--profile", "nobody"], "--profile: 'nobody' is not in --models"),
        (["body", "--output", "/"], "--output: / cannot be written"),
        (["finetune", "--task", "nobody"], "--task: "),
        (["finetune", "--memory"], "--memory: measured for rows of one length"),
    ],
)
def test_bad_input_is_answered_with_one_line(arguments, message):
    result = CliRunner().invoke(command, arguments)
    assert message in str(result.exception)
    assert type(result.exception).__name__ == "UserError"


def test_the_command_prints_and_saves(tmp_path):
    sizes = {"hidden-size": 32, "layers": 2, "heads": 2, "concepts": 4, "vocab-size": 128, "tokens": 64, "repeats": 1}
    small = [f"--{name}={value}" for name, value in sizes.items()]
    arguments = ["inference", "--models", "hf:bert,perceiver_io", "--lengths", "16,32", *small]
    result = CliRunner().invoke(command, [*arguments, "--output", str(tmp_path / "bench.json")])
    assert result.exit_code == 0, result.output
    assert "perceiver_io" in result.stdout
    assert "speed against the first" in result.stdout
    assert len(json.loads((tmp_path / "bench.json").read_text())["rows"]) == 4
