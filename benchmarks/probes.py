"""Two small questions to an architecture: does position survive the bottleneck, and how much fits through?

    python benchmarks/probes.py order                 # untrained encoders, a linear probe: minutes
    python benchmarks/probes.py copy --steps 400      # each strict variant learns to copy: about a minute each
    python benchmarks/probes.py order --corpus my.txt --rows anchored woven

**Word order**: two marker words stand in a real sentence; a linear probe on the concepts says which comes first. 0.5
is a bag of words. **Strict reconstruction**: the decoder sees positions (or chunks) and concepts only; the share of
held-out tokens that are copied right. Prints Markdown tables; docs/probes.md holds them.
"""

import argparse
import time

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from concept_encoder.data.packing import DataConfig, PreparedCorpus, prepare
from concept_encoder.model import ConceptEncoderConfig, ConceptEncoderForMaskedLM, ConceptEncoderModel
from concept_encoder.training.optimizers import make_optimizer
from concept_encoder.training.settings import TrainingConfig

LENGTH, RATIO, WIDTH = 32, 4, 128
PERCEIVER = {"layer_types": "(read think)*4", "num_concepts": LENGTH // RATIO}
ANCHORED = {"concept_source": "anchored", "concept_ratio": RATIO, "decoder": "upsample"}
ROPE = {"token_position": "rope", "concept_position": "rope"}
POOLED = {"layer_types": "mix*2 pool mix pool mix think*2", "concept_source": "pooled", "decoder": "upsample"}

ROWS: dict[str, dict] = {
    "(read think)*4, no positions": {**PERCEIVER, "token_position": "none", "decoder": "query_position"},
    "(read think)*4, learned": {**PERCEIVER, "token_position": "learned", "decoder": "query_position"},
    "the same, sinusoidal concepts (3.2 A)": {
        **PERCEIVER, "concept_position": "sinusoidal", "decoder": "query_position"},
    "the same, CoPE in read and think (3.2 B)": {**PERCEIVER, "concept_position": "cope", "decoder": "query_position"},
    "the same, RoPE in think (3.2 C)": {**PERCEIVER, "concept_position": "rope", "decoder": "query_position"},
    "the same, decoder of 3 layers": {**PERCEIVER, "decoder": "query_position", "decoder_layer_types": "write*3"},
    "slot instead of read": {**PERCEIVER, "layer_types": "(slot think)*4", "decoder": "query_position"},
    "weighted decoder": {**PERCEIVER, "decoder": "weighted"},
    "recursive, 4 rounds": {**PERCEIVER, "layer_types": "(read think)^4", "decoder": "query_position"},
    "mix_local*2 (read think)*2, learned": {
        **PERCEIVER, "layer_types": "mix_local*2 (read think)*2", "decoder": "query_position"},
    "(exchange think)*3 read think": {
        **PERCEIVER, "layer_types": "(exchange think)*3 read think", "decoder": "query_position"},
    "anchored, no positions": {**ANCHORED, "layer_types": "(read think)*4", "token_position": "none"},
    "anchored, RoPE": {**ANCHORED, **ROPE, "layer_types": "(read think)*4"},
    "anchored, mix_local*2, RoPE": {**ANCHORED, **ROPE, "layer_types": "mix_local*2 (read think)*2"},
    "pooled (funnel, strict), RoPE": {**POOLED, **ROPE},
}  # fmt: skip


def config_of(row: dict, vocabulary: int) -> ConceptEncoderConfig:
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
    }
    return ConceptEncoderConfig(**{"token_position": "learned", **sizes, "local_window": 8, **row})


def sentences(corpus: PreparedCorpus, count: int, held_out: bool) -> torch.Tensor:
    """Token ids `[count, LENGTH]` of real text."""
    rows = corpus.validation if held_out else corpus.train
    return torch.from_numpy(np.asarray(rows[list(range(min(count, len(rows))))]["input_ids"])).long()


def order_accuracy(config: ConceptEncoderConfig, corpus: PreparedCorpus, seed: int, count: int = 2400) -> float:
    """Accuracy of a linear probe on the concepts of an untrained encoder, on texts the probe has not seen."""
    torch.manual_seed(seed)
    model = ConceptEncoderModel(config).eval()
    ids_BN = sentences(corpus, count, held_out=False)
    generator = torch.Generator().manual_seed(seed)
    places = torch.stack([torch.randperm(LENGTH - 1, generator=generator)[:2] + 1 for _ in ids_BN]).sort(1).values
    first_B = torch.randint(2, (len(ids_BN),), generator=generator)
    markers = torch.tensor([config.vocab_size - 1, config.vocab_size - 2])
    rows = torch.arange(len(ids_BN))
    ids_BN[rows, places[:, 0]], ids_BN[rows, places[:, 1]] = markers[first_B], markers[1 - first_B]
    with torch.no_grad():
        z = torch.cat([model(part).concepts.flatten(1) for part in ids_BN.split(200)]).numpy()
    half = len(z) * 2 // 3
    probe = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1000.0))
    return probe.fit(z[:half], first_B[:half]).score(z[half:], first_B[half:])


def copy_accuracy(
    config: ConceptEncoderConfig, corpus: PreparedCorpus, seed: int, steps: int, device: str
) -> tuple[float, float]:
    """Share of held-out tokens that are copied right after `steps` of learning to copy, and the seconds it took."""
    torch.manual_seed(seed)
    model = ConceptEncoderForMaskedLM(config).to(device)
    settings = TrainingConfig("-", optimizer="muon", learning_rate=1e-2, adamw_learning_rate=6e-3, weight_decay=0.1)
    optimizer = make_optimizer(model, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / 20, 1, (steps - step) / steps + 0.02)
    )
    ids_BN = sentences(corpus, 100_000, held_out=False).to(device)
    order = np.random.default_rng(seed)
    started = time.perf_counter()
    for _ in range(steps):
        batch = ids_BN[order.integers(len(ids_BN), size=64)]
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    test_BN = sentences(corpus, 512, held_out=True).to(device)
    with torch.no_grad():
        found = torch.cat([model(part).logits.argmax(-1) for part in test_BN.split(64)])
    return (found == test_BN).float().mean().item(), time.perf_counter() - started


def guess_by_position(corpus: PreparedCorpus) -> float:
    """The share of held-out tokens that are the commonest training token of their position: copying without reading."""
    seen_NR = sentences(corpus, 100_000, held_out=False).T
    guess_N = torch.stack([torch.bincount(tokens).argmax() for tokens in seen_NR])
    return (sentences(corpus, 512, held_out=True) == guess_N).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("probe", choices=["order", "copy"])
    parser.add_argument("--corpus", default="quickstart")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of copy")
    parser.add_argument("--rows", nargs="*", default=[], help="only the variants whose name holds one of these words")
    given = parser.parse_args()
    torch.set_num_threads(min(torch.get_num_threads(), 2))
    corpus = prepare(DataConfig(corpus=given.corpus, vocab_size=2048, sequence_length=LENGTH, packing="full"))
    vocabulary = -(-(len(corpus.tokenizer) + 2) // 64) * 64  # two spare ids for the markers
    rows = {name: row for name, row in ROWS.items() if not given.rows or any(word in name for word in given.rows)}
    column = {"order": "which marker comes first", "copy": f"tokens copied after {given.steps} steps"}[given.probe]
    print(f"| variant | {column} | C / N | seconds a seed |\n| --- | --- | --- | --- |", flush=True)
    if given.probe == "copy":
        print(f"| the commonest token of each position | {guess_by_position(corpus):.3f} | none | 0 |", flush=True)
    for name, row in rows.items():
        config, scores, seconds = config_of(row, vocabulary), [], []
        for seed in range(given.seeds):
            started = time.perf_counter()
            if given.probe == "order":
                scores.append(order_accuracy(config, corpus, seed))
            else:
                scores.append(copy_accuracy(config, corpus, seed, given.steps, given.device)[0])
            seconds.append(time.perf_counter() - started)
        spread = f"{np.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})"
        ratio = f"{config.concepts_at(LENGTH)} / {LENGTH}"
        print(f"| {name} | {spread} | {ratio} | {np.mean(seconds):.0f} |", flush=True)


if __name__ == "__main__":
    main()
