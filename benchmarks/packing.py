"""Preparing text, and the wait for it in training, beside plain `datasets.map`.

    python benchmarks/packing.py                                     # the quickstart corpus, about a minute
    python benchmarks/packing.py --corpus local/simple-wikipedia --documents 50000 --processes 2
    python benchmarks/packing.py --wait 0.028 --rows 128 --workers 4     # beside a fast step

The first table turns the same parquet file into rows with the same tokenizer: with `prepare`, as `data prepare` does,
and with `Dataset.map` as the usual scripts do, first tokenising, then grouping into rows of one length. Reading and
writing included, nothing cached, contestants interleaved, the median of the repetitions. Both find the same tokens.

The second shows the rows of both packings: attention crosses documents where a row holds several.

The third is what a training step waits for its batch (rows read, masked, padded): `--workers 0` makes it in the
training process, more make it ahead in processes of their own while the step, here a pause of `--wait` seconds, is
under way.
"""

import argparse
import itertools
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_encoder.cores import usable_cores

if TYPE_CHECKING:  # the rest where it is used: processes that tokenise import this file anew
    from concept_encoder.data.corpus import DataConfig
    from concept_encoder.data.packing import PreparedCorpus
    from concept_encoder.training.stream import LengthGrouped


def ours(file: Path, tokenizer: Path, folder: Path, packing: str, options: argparse.Namespace) -> int:
    """`prepare` into an empty cache. Returns the tokens of all documents."""
    from concept_encoder.data.packing import prepare

    config = data_config(file, tokenizer, folder, packing, options)
    found = prepare(config, processes=options.processes, progress=False).statistics
    return found.tokens + found.validation_tokens


def plain_map(file: Path, tokenizer: Path, folder: Path, options: argparse.Namespace) -> int:
    """Tokenise, then group into rows of one length, each with `Dataset.map`. Returns the tokens of all documents."""
    import datasets
    import pyarrow.compute as pc

    from concept_encoder.data.tokenizer import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    ends, length = (loaded.cls_token_id, loaded.sep_token_id), options.length

    def tokenize(batch: dict[str, list]) -> dict[str, list]:
        return {"input_ids": loaded(batch["text"], add_special_tokens=False)["input_ids"]}

    def group(batch: dict[str, list]) -> dict[str, list]:
        stream = list(itertools.chain.from_iterable([*ids, ends[1]] for ids in batch["input_ids"]))
        body = length - 1
        rows = [[ends[0], *stream[i : i + body]] for i in range(0, len(stream) - body + 1, body)]
        return {"input_ids": rows}

    plain = {"batched": True, "num_proc": options.processes if options.processes > 1 else None}
    rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(folder))
    tokenized = rows.map(tokenize, remove_columns=["text"], cache_file_name=str(folder / "tokens.arrow"), **plain)
    tokenized.map(group, cache_file_name=str(folder / "rows.arrow"), **plain)
    return int(pc.sum(pc.list_value_length(tokenized.data.column("input_ids"))).as_py())


def data_config(file: Path, tokenizer: Path, folder: Path, packing: str, options: argparse.Namespace) -> "DataConfig":
    from concept_encoder.data.corpus import DataConfig

    plain = {"tokenizer": str(tokenizer), "sequence_length": options.length, "packing": packing}
    return DataConfig(corpus=str(file), cache_dir=folder, **plain)


def preparing(file: Path, tokenizer: Path, count: int, options: argparse.Namespace) -> list[list[Any]]:
    contestants = {
        "prepare, packing: documents": lambda folder: ours(file, tokenizer, folder, "documents", options),
        "prepare, packing: full": lambda folder: ours(file, tokenizer, folder, "full", options),
        "datasets.map, twice": lambda folder: plain_map(file, tokenizer, folder, options),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    tokens: dict[str, int] = {}
    for _ in range(options.repeats):
        for name, run in contestants.items():
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                tokens[name] = run(Path(folder))
                seconds[name].append(time.perf_counter() - started)
    assert len(set(tokens.values())) == 1, f"they do not do the same: {tokens}"
    table = []
    for name, found in seconds.items():
        median = statistics.median(found)
        spread = f"{min(found):.1f} to {max(found):.1f}"
        table.append([name, f"{median:.1f}", spread, f"{count / median:,.0f}", f"{tokens[name] / median:,.0f}"])
    return table


def shape(corpus: "PreparedCorpus", packing: str, options: argparse.Namespace) -> list[Any]:
    """Rows, their length, how many hold more than one document, and the share of padding in batches of `--rows`."""
    import numpy as np

    from concept_encoder.training.stream import Shuffled

    lengths, sep = corpus.row_lengths, corpus.tokenizer.sep_token_id
    blocks = (corpus.train[i : i + 1000]["input_ids"] for i in range(0, len(lengths), 1000))
    several = sum(int((ids[:-1] == sep).any()) for block in blocks for ids in block)
    padding = []
    for order in (Shuffled(len(lengths)), of_like_length(corpus, options)):
        rows = order(np.random.default_rng(0), 0)
        batches = lengths[rows[: len(rows) // options.rows * options.rows]].reshape(-1, options.rows)
        padding.append(f"{1 - batches.sum() / (batches.max(1).sum() * options.rows):.1%}")
    return [packing, f"{len(lengths):,}", f"{lengths.mean():.0f}", f"{several / len(lengths):.0%}", *padding]


def of_like_length(corpus: "PreparedCorpus", options: argparse.Namespace) -> "LengthGrouped":
    """The order of rows that `pretrain` reads, in steps of `--rows`."""
    import numpy as np

    from concept_encoder.training.stream import LengthGrouped

    lengths = corpus.row_lengths
    return LengthGrouped(lengths, np.arange(0, len(lengths) + 1, options.rows))


def waiting(corpus: "PreparedCorpus", packing: str, options: argparse.Namespace) -> list[Any]:
    """How long `options.steps` steps wait for their batches."""
    from torch.utils.data import DataLoader

    from concept_encoder.objectives.masked_lm import MaskedLMCollator, ObjectiveConfig
    from concept_encoder.training.schedule import MicroBatches, StepSizes
    from concept_encoder.training.stream import ExampleStream

    sizes = StepSizes(options.steps, options.rows)
    order = of_like_length(corpus, options) if packing == "documents" else None
    loader = DataLoader(
        ExampleStream(corpus.train, int(sizes.first_row[-1]), 0, order),
        batch_sampler=MicroBatches(sizes, 1),
        collate_fn=MaskedLMCollator(corpus.tokenizer, ObjectiveConfig(), 0),
        num_workers=options.workers,
        prefetch_factor=2 if options.workers else None,
    )
    waits, tokens, batches = [], [], iter(loader)
    for _ in range(options.steps):
        started = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - started)
        tokens.append(batch["input_ids"].numel())
        time.sleep(options.wait)
    waits, ms = sorted(waits[options.steps // 5 :]), 1000  # the first ones start workers and shuffle the epoch
    share = f"{statistics.mean(waits) / options.wait:.2%}" if options.wait else ""
    p90 = waits[len(waits) * 9 // 10] * ms
    numbers = [f"{statistics.median(waits) * ms:.2f}", f"{statistics.mean(waits) * ms:.2f}", f"{p90:.2f}", share]
    return [packing, f"{statistics.mean(tokens):,.0f}", *numbers]


def main(options: argparse.Namespace) -> None:
    import datasets

    from concept_encoder.bench.report import markdown
    from concept_encoder.data.packing import prepare

    datasets.disable_progress_bars()
    logging.getLogger("transformers").setLevel(logging.ERROR)  # long texts are what this is about
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, tokenizer = folder / "text.parquet", folder / "tokenizer"
        texts = write_inputs(file, tokenizer, options)
        print(f"{len(texts):,} documents, {sum(map(len, texts)):,} characters, {options.processes} processes\n")
        if options.repeats:
            header = ["", "seconds", "from to", "documents/s", "tokens/s"]
            print(markdown(header, preparing(file, tokenizer, len(texts), options)))
        shapes, rows = [], []
        for packing in ("documents", "full"):
            corpus = prepare(data_config(file, tokenizer, folder / "cache", packing, options), progress=False)
            shapes.append(shape(corpus, packing, options))
            rows.append(waiting(corpus, packing, options))
        header = ["packing", "rows", "tokens a row", "rows of several documents", "padding, random batches"]
        print("\n" + markdown([*header, "padding, batches of like length"], shapes))
        print(f"\n{options.rows} rows of {options.length} tokens a step, {options.workers} workers\n")
        step = f"of a step of {options.wait * 1000:g} ms"
        print(markdown(["packing", "tokens", "median ms", "mean ms", "p90 ms", step], rows))


def write_inputs(file: Path, tokenizer: Path, options: argparse.Namespace) -> list[str]:
    """The documents, also as a parquet file, and a tokenizer trained on them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from concept_encoder.data.corpus import DataConfig, labelled_documents
    from concept_encoder.data.tokenizer import train_tokenizer

    found = labelled_documents(DataConfig(corpus=options.corpus, max_documents=options.documents))
    texts = [text for _, text in itertools.islice(found, options.documents)]
    pq.write_table(pa.table({"text": texts}), file, row_group_size=1000)
    train_tokenizer(texts[:20_000], "wordpiece", options.vocab_size).save_pretrained(tokenizer)
    return texts


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="quickstart", help="a name, file, folder or hub id")
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--processes", type=int, default=usable_cores())
    parser.add_argument("--repeats", type=int, default=3, help="of the first table; 0 leaves it out")
    parser.add_argument("--rows", type=int, default=8, help="of a step")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--wait", type=float, default=0.5, help="seconds of a step")
    return parser.parse_args()


if __name__ == "__main__":
    main(arguments())
