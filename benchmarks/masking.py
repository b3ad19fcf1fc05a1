"""Throughput of the masking collators beside transformers' own, and their share of a training step.

    python benchmarks/masking.py                                     # a minute or two on the CPU
    python benchmarks/masking.py --steps 4096 65536=0.028 --repeats 3

Rows of 512 tokens of the quickstart corpus, 15 % masked; one process collates, as without loader workers. `no masking`
stacks the rows and no more. A step is that of `perceiver_mlm` at the canonical size (H512 L6 C128, N = 512, vocabulary
50,368: forward, backward and AdamW), measured here for so many tokens, or given as tokens=seconds for another
machine. Loader workers collate while the model computes: it does not wait as long as the share divided by their number
stays below 100 %.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling

from concept_encoder.bench.contestants import build_contestant
from concept_encoder.bench.measure import time_interleaved
from concept_encoder.bench.report import markdown
from concept_encoder.bench.sizes import Sizes
from concept_encoder.bench.workloads import make_step, packed_batch
from concept_encoder.data.corpus import DataConfig
from concept_encoder.data.packing import PreparedCorpus, prepare
from concept_encoder.data.pmi import NgramCounter, choose
from concept_encoder.objectives.masked_lm import MaskedLMCollator, ObjectiveConfig
from concept_encoder.objectives.masking import MASKINGS, PLACE
from concept_encoder.objectives.masking_ngrams import WordNumbers
from concept_encoder.objectives.masking_words import word_starts

LENGTH, RATE = 512, 0.15
Collate = Callable[[list[dict[str, Any]]], Any]


def collators(corpus: PreparedCorpus, ngrams: Path) -> dict[str, Collate]:
    """Every contestant: rows in, a batch out."""
    tokenizer = corpus.tokenizer
    found: dict[str, Collate] = {"no masking": _stack}
    for name in MASKINGS:
        config = ObjectiveConfig(name, RATE, ngrams=ngrams if name == "pmi" else None)
        found[name] = MaskedLMCollator(tokenizer, config, seed=0)
    found["token, delete"] = MaskedLMCollator(tokenizer, ObjectiveConfig(replacement="delete"), seed=0)
    plain = DataCollatorForLanguageModeling(tokenizer, mlm_probability=RATE)
    given = DataCollatorForLanguageModeling(tokenizer, mlm_probability=RATE)
    words = DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=RATE, whole_word_mask=True, mask_replace_prob=1, random_replace_prob=0
    )
    found["transformers"] = lambda rows: plain(_only(rows, "input_ids"))
    found["transformers, special tokens given"] = lambda rows: given(_only(rows, "input_ids", "special_tokens_mask"))
    found["transformers, whole words"] = lambda rows: words(_only(rows, "input_ids", "offset_mapping"))
    return found


def _stack(rows: list[dict[str, Any]]) -> torch.Tensor:
    return torch.from_numpy(np.stack([row["input_ids"] for row in rows]).astype(np.int64))


def _only(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: row[name] for name in names} for row in rows]


def read_rows(corpus: PreparedCorpus, count: int) -> list[dict[str, Any]]:
    """Rows as the training stream gives them, with what transformers wants beside."""
    tokenizer, starts_V = corpus.tokenizer, word_starts(corpus.tokenizer)
    rows = []
    for place in range(count):
        ids = np.asarray(corpus.train[place % len(corpus.train)]["input_ids"])
        end = np.cumsum(1 + starts_V[ids])  # words are where offsets leave a gap
        special = np.isin(ids, tokenizer.all_special_ids).astype(np.int64)
        rows.append(
            {
                "input_ids": ids,
                PLACE: place,
                "special_tokens_mask": special,
                "offset_mapping": np.stack([end - 1, end], axis=1),
            }
        )
    return rows


def write_ngrams(corpus: PreparedCorpus, path: Path) -> None:
    """The collocations of the corpus, as `concept-encoder data pmi` finds them."""
    numbers, counter = WordNumbers(corpus.tokenizer), NgramCounter()
    counter.add(numbers.add(np.concatenate(list(corpus.train[:]["input_ids"]))))
    chosen, _ = choose(counter.collocations(10), counter.blocks, None)
    numbers.file(tuple(vars(ngrams).values()) for ngrams in chosen.values()).save(path)


def seconds_a_row(contestants: dict[str, Collate], rows: list[dict[str, Any]], batch: int, repeats: int) -> dict:
    """The median over repetitions in which all contestants take turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    batches = [rows[i : i + batch] for i in range(0, len(rows) - batch + 1, batch)]
    for repeat in range(repeats + 1):
        for name, collate in contestants.items():
            started = time.perf_counter()
            for some in batches:
                collate(some)
            if repeat:  # the first warms up
                times[name].append((time.perf_counter() - started) / (len(batches) * batch))
    return {name: statistics.median(values) for name, values in times.items()}


def seconds_a_step(tokens: int, repeats: int) -> float:
    """The median of a pretraining step at the canonical size, with all cores."""
    sizes = Sizes()
    step = make_step("pretrain", build_contestant("perceiver_mlm", sizes, "pretrain"), "fp32")
    batch = packed_batch(LENGTH, tokens, sizes.vocab_size)
    return time_interleaved({"step": step}, [batch], torch.device("cpu"), repeats)["step"].median


def _step(written: str) -> tuple[int, float | None]:
    """`TOKENS` or `TOKENS=SECONDS`, at least a row of tokens and some time."""
    tokens, _, seconds = written.partition("=")
    found = int(tokens), float(seconds) if seconds else None
    if found[0] < LENGTH or (found[1] is not None and not found[1] > 0):
        raise argparse.ArgumentTypeError(f"{written!r}: {LENGTH} tokens or more, and seconds above 0")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", type=_step, default=[(4096, None)], metavar="TOKENS[=SECONDS]")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--corpus", default="quickstart")
    parser.add_argument("--cache-dir", type=Path)
    options = parser.parse_args()
    steps = {tokens: seconds or seconds_a_step(tokens, options.repeats) for tokens, seconds in options.steps}
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    corpus = prepare(
        DataConfig(options.corpus, sequence_length=LENGTH, packing="full", cache_dir=options.cache_dir),
    )
    with tempfile.TemporaryDirectory() as folder:
        write_ngrams(corpus, Path(folder) / "ngrams.npz")
        contestants = collators(corpus, Path(folder) / "ngrams.npz")
    rows = read_rows(corpus, options.rows)
    measured = {tokens: seconds_a_row(contestants, rows, tokens // LENGTH, options.repeats) for tokens in steps}
    header = ["collator"]
    for tokens, seconds in steps.items():
        header += [
            f"rows/s, batches of {tokens // LENGTH}",
            f"of a step of {tokens:,} tokens in {seconds * 1000:.0f} ms",
        ]
    lines = []
    for name in contestants:
        line = [name]
        for tokens, seconds in steps.items():
            row = measured[tokens][name]
            line += [f"{1 / row:,.0f}", f"{row * (tokens // LENGTH) / seconds:.2%}"]
        lines.append(line)
    print(markdown(header, lines))


if __name__ == "__main__":
    main()
