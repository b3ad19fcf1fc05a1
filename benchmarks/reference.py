"""From the starting point to the library, one step at a time: what each choice is worth.

    python benchmarks/reference.py                          # CPU, canonical size, a quarter of an hour
    python benchmarks/reference.py --corpus my.txt --device cuda --tokens 32768
    concept-encoder bench body --peer benchmarks/reference.py

The reference is the model this project began with: concepts read static tokens through `nn.MultiheadAttention` that
keeps its weights, think, and answer every token of padded rows; dropout 0.1, logits for the whole vocabulary at all
positions, fp32, eager. Then one thing changes at a time. Real tokens a second count no padding.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concept_encoder.bench.contestants import Batch, build_contestant
from concept_encoder.bench.measure import time_interleaved
from concept_encoder.bench.report import markdown
from concept_encoder.bench.sizes import Sizes
from concept_encoder.bench.workloads import make_step, packed_batch, padded_batches
from concept_encoder.environment import environment


class Attention(nn.Module):
    """Norm, multi-head attention and residual, as torch ships it."""

    def __init__(self, sizes: Sizes, dropout: float, keep_weights: bool):
        super().__init__()
        self.norm = nn.LayerNorm(sizes.hidden_size)
        self.attention = nn.MultiheadAttention(sizes.hidden_size, sizes.num_heads, dropout, batch_first=True)
        self.keep_weights = keep_weights

    def forward(self, x: Tensor, y: Tensor | None, padding: Tensor | None) -> Tensor:
        h = self.norm(x)
        y = h if y is None else y
        return x + self.attention(h, y, y, key_padding_mask=padding, need_weights=self.keep_weights)[0]


class Layer(nn.Module):
    """Concepts read the tokens, think, and pass a feed-forward."""

    def __init__(self, sizes: Sizes, dropout: float, keep_weights: bool):
        super().__init__()
        width = sizes.hidden_size
        self.read = Attention(sizes, dropout, keep_weights)
        self.think = Attention(sizes, dropout, keep_weights)
        feed_forward = (nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width))
        self.feed_forward = nn.Sequential(nn.LayerNorm(width), *feed_forward, nn.Dropout(dropout))

    def forward(self, z: Tensor, x: Tensor, padding: Tensor | None) -> Tensor:
        z = self.think(self.read(z, x, padding), None, None)
        return z + self.feed_forward(z)


class Reference(nn.Module):
    """The starting point. `sparse` computes logits at labelled tokens alone; the rest of the model does not change."""

    def __init__(self, sizes: Sizes, dropout: float = 0.1, keep_weights: bool = True, sparse: bool = False):
        super().__init__()
        width = sizes.hidden_size
        self.sparse = sparse
        self.word = nn.Embedding(sizes.vocab_size, width)
        self.position = nn.Embedding(sizes.max_length, width)
        self.concepts = nn.Parameter(torch.randn(sizes.num_concepts, width) * 0.02)
        self.embedding_norm = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout))
        self.layers = nn.ModuleList(Layer(sizes, dropout, keep_weights) for _ in range(sizes.num_layers))
        self.answer = Attention(sizes, dropout, keep_weights)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.vocabulary = nn.Linear(width, sizes.vocab_size)
        self.vocabulary.weight = self.word.weight
        self.classifier = nn.Linear(width, sizes.num_labels)

    def embed(self, batch: Batch) -> Tensor:
        places = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
        return self.embedding_norm(self.word(batch.input_ids) + self.position(places))

    def body(self, batch: Batch) -> Tensor:
        return self.encode(self.embed(batch), batch)

    def encode(self, x: Tensor, batch: Batch) -> Tensor:
        padding = None if batch.attention_mask is None else batch.attention_mask == 0
        z = self.concepts.expand(len(x), -1, -1)
        for layer in self.layers:
            z = layer(z, x, padding)
        return z

    def masked_lm_loss(self, batch: Batch) -> Tensor:
        x = self.embed(batch)
        states = self.head(self.answer(x, self.encode(x, batch), None))
        if self.sparse:
            states = states.gather(1, batch.label_index[..., None].expand(-1, -1, states.shape[-1]))
            labels = batch.labels
        else:
            labels = torch.full_like(batch.input_ids, -100)
            labels.scatter_(1, batch.label_index, batch.labels)
        return F.cross_entropy(self.vocabulary(states).flatten(0, 1).float(), labels.flatten())

    def classification_loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self.classifier(self.body(batch).mean(1)), batch.classes)


def build(sizes: Sizes) -> nn.Module:
    """For `concept-encoder bench --peer benchmarks/reference.py`."""
    return Reference(sizes)


def corpus_lengths(corpus: str, longest: int, count: int) -> list[int]:
    """Lengths of real documents in tokens, [CLS] and [SEP] with them, cut at `longest`."""
    from concept_encoder.data.corpus import DataConfig, labelled_documents
    from concept_encoder.data.packing import prepare

    config = DataConfig(corpus=corpus, sequence_length=longest)
    tokenizer = prepare(config).tokenizer
    texts = [text for held_out, text in labelled_documents(config) if not held_out][:count]
    return [min(len(ids), longest) for ids in tokenizer(texts, truncation=True, max_length=longest)["input_ids"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="quickstart")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=4096, help="of a batch, padding included")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="one more row: compiled with inductor")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    device, sizes = torch.device(given.device), Sizes(max_length=given.length)
    rows = given.tokens // given.length
    lengths = corpus_lengths(given.corpus, given.length, 16 * rows)
    padded = [batch.to(device) for batch in padded_batches(lengths, rows, sizes.vocab_size)][:4]
    packed = [packed_batch(given.length, given.tokens, sizes.vocab_size).to(device)]
    ladder: dict[str, tuple[nn.Module, list[Batch], str, bool]] = {
        "reference: padded, dense logits, weights kept, dropout 0.1": (Reference(sizes), padded, "fp32", False),
        "+ packed rows": (Reference(sizes), packed, "fp32", False),
        "+ SDPA, no dropout": (Reference(sizes, 0.0, False), packed, "fp32", False),
        "+ logits at labelled tokens": (Reference(sizes, 0.0, False, sparse=True), packed, "fp32", False),
        "perceiver_mlm of this library": (build_contestant("perceiver_mlm", sizes, "pretrain"), packed, "fp32", False),
        "+ bf16": (build_contestant("perceiver_mlm", sizes, "pretrain"), packed, "bf16", False),
    }
    if given.compile:
        ladder["+ compiled"] = (build_contestant("perceiver_mlm", sizes, "pretrain"), packed, "bf16", True)
    print(f"{len(lengths)} texts, {sum(lengths) / len(lengths):.0f} tokens on average, {given.length} at most")
    report(ladder, device, given)


def report(ladder: dict, device: torch.device, given: argparse.Namespace) -> None:
    """Time the rows in turn and print what each step brought."""
    steps, tokens = {}, {}
    for name, (model, batches, precision, compiled) in ladder.items():
        one = make_step("pretrain", model.to(device), precision, compiled)
        steps[name] = lambda _, one=one, batches=batches: [one(batch) for batch in batches]
        tokens[name] = sum(batch.tokens for batch in batches)
    timings = time_interleaved(steps, [packed_batch(8, 8, 64)], device, given.repeats)
    rates = {name: tokens[name] / timing.median for name, timing in timings.items()}
    first = before = next(iter(rates.values()))
    table = []
    for name, rate in rates.items():
        spread = f"{timings[name].spread:.0%}"
        table.append([name, f"{rate:,.0f}", f"{rate / before:.2f}", f"{rate / first:.1f}", spread])
        before = rate
    print(markdown(["pretraining step", "real tokens/s", "x the row above", "x the reference", "spread"], table))
    if given.output:
        record = {"environment": environment(), "arguments": {**vars(given), "output": None}, "rates": rates}
        given.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
