import random
from pathlib import Path

import pytest

WORDS = [
    f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "pu", "ra", "so", "ti") for b in ("bar", "dun", "fel", "gor", "hin")
]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Made-up text with a little grammar, so that there is something to learn."""
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS[i % 4 :: 4]) for i in range(rng.randint(6, 14))) + "." for _ in range(count)]


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "text.txt"
    file.write_text("\n".join(sentences(400)))
    return file


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def sections(corpus_file: Path, cache_dir: Path, tmp_path: Path) -> dict:
    """A recipe that trains in a second."""
    return {
        "model": {"preset": "woven", "num_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "local_window": 8},
        "data": {
            "corpus": str(corpus_file),
            "vocab_size": 128,
            "sequence_length": 24,
            "cache_dir": str(cache_dir),
            "validation_fraction": 0.1,
        },
        "objective": {"mask_rate": 0.3},
        "training": {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 6,
            "batch_size": 8,
            "learning_rate": 0.01,
            "log_every": 1,
            "seed": 3,
        },
    }
