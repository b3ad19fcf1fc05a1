"""Tiny real models and one with attention and concepts of the test's own choosing."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig, BertModel

from concept_encoder.analysis.subject import Subject
from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.model import ConceptEncoderForMaskedLM, ConceptEncoderForSequenceClassification, preset_config

WORDS = [
    "the",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "a",
    "mat",
    "red",
    "big",
    "and",
    "house",
    "saw",
    "it",
    "river",
    "old",
    "tree",
    "blue",
    "small",
    "bird",
]


def make_texts(count: int, longest: int = 30, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest, (count,), generator=generator)
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=generator)) for length in lengths]


def make_tokenizer():
    return train_tokenizer(make_texts(50), "wordpiece", 300)


def small_config(preset: str, **fields):
    sizes = {"vocab_size": 320, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    sizes |= {"max_position_embeddings": 32}
    if preset == "anchored":
        sizes["concept_ratio"] = 4
    elif preset != "bert":
        sizes["num_concepts"] = 6
    return preset_config(preset, 4, **sizes, **fields)


def save_checkpoint(folder: Path, preset: str, classify: bool = False) -> Path:
    torch.manual_seed(0)
    model_class = ConceptEncoderForSequenceClassification if classify else ConceptEncoderForMaskedLM
    model_class(small_config(preset)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def save_bert(folder: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    BertModel(BertConfig(vocab_size=320, max_position_embeddings=32, **sizes)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


class ScriptedModel(torch.nn.Module):
    """Concepts and attention are whatever `script(input_ids, attention_mask)` returns: z_BCD, a_BHCN."""

    def __init__(self, script):
        super().__init__()
        self.script = script
        self.config = SimpleNamespace(
            concept_source="learned", layer_types=["read"], max_position_embeddings=64, hidden_size=8, decoder="none"
        )

    @property
    def base_model(self):
        return self

    def forward(self, input_ids, attention_mask, token_type_ids=None, output_attentions=False):
        z_BCD, a_BHCN = self.script(input_ids, attention_mask)
        return SimpleNamespace(concepts=z_BCD, concept_mask=None, read_attentions=(a_BHCN,))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors this small are faster without threads, and much faster on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def texts():
    """A function: so many texts of known words, the same every time."""
    return make_texts


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def scripted(tokenizer):
    """A function: a subject whose concepts and attention a script decides."""
    return lambda script: Subject("scripted", ScriptedModel(script), tokenizer)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Folders of tiny checkpoints by name: "bert" is ours, "foreign" is transformers' own."""
    root = tmp_path_factory.mktemp("checkpoints")
    presets = {"learned": "perceiver_mlm", "anchored": "anchored", "exchange": "bixt", "bert": "bert"}
    found = {name: save_checkpoint(root / name, preset) for name, preset in presets.items()}
    found["classifier"] = save_checkpoint(root / "classifier", "perceiver_mlm", classify=True)
    found["foreign"] = save_bert(root / "foreign")
    return found
