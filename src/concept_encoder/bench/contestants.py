"""Who takes part: our presets, their peers from transformers, and models of your own (`--peer FILE.py`).

A contestant is a module with three methods, each on a `Batch`: `body` (the encoder alone), `masked_lm_loss` and
`classification_loss`. Every peer gets the same sparse masked-LM head and the same mean-pooling classifier.
Shape suffixes: see `model/streams.py`.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, FunnelConfig, FunnelModel, PerceiverConfig, PerceiverModel
from transformers.models.perceiver.modeling_perceiver import PerceiverTextPreprocessor

from concept_encoder.bench.sizes import Sizes
from concept_encoder.errors import UserError, nearest
from concept_encoder.model import (
    ConceptEncoderForMaskedLM,
    ConceptEncoderForSequenceClassification,
    preset_config,
)
from concept_encoder.model.decoders import DECODERS
from concept_encoder.model.losses import masked_cross_entropy
from concept_encoder.model.presets import PRESETS
from concept_encoder.model.sources import SOURCES


@dataclass
class Batch:
    """`input_ids` `[B, N]`, `attention_mask` `[B, N]` or None, `label_index` and `labels` `[B, K]`, `classes` `[B]`."""

    input_ids: Tensor
    attention_mask: Tensor | None
    label_index: Tensor
    labels: Tensor
    classes: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(None if value is None else value.to(device) for value in vars(self).values()))

    @property
    def tokens(self) -> int:
        """Real tokens; padding is not counted."""
        return self.input_ids.numel() if self.attention_mask is None else int(self.attention_mask.sum())


class Preset(nn.Module):
    """A preset of this library; its body is `encode`: the moves, without the decoder."""

    def __init__(self, name: str, sizes: Sizes, mode: str, attention: str = "sdpa"):
        super().__init__()
        preset, _, follows = name.partition(":")
        fields = {}
        if _may_be_fixed(PRESETS[preset].options):
            fields = {"concept_ratio": sizes.concept_ratio} if follows else {"num_concepts": sizes.num_concepts}
        self.config = preset_config(
            preset,
            sizes.num_layers,
            **fields,
            hidden_size=sizes.hidden_size,
            num_attention_heads=sizes.num_heads,
            vocab_size=sizes.vocab_size,
            max_position_embeddings=sizes.max_length,
            num_labels=sizes.num_labels,
            classifier_dropout=0.0,
        )
        classifies = mode == "finetune"
        self.network = (ConceptEncoderForSequenceClassification if classifies else ConceptEncoderForMaskedLM)(
            self.config
        )
        self.network.set_attn_implementation(attention)

    def body(self, batch: Batch) -> Tensor:
        """Both streams as one `[B, N + C, D]`, where the last move leaves both to be heard: nothing goes unlearned."""
        s = self.network.model.encode(batch.input_ids, batch.attention_mask)
        live = [states for states in (s.x_BND, s.z_BCD) if states is not None and states.requires_grad]
        return torch.cat(live or [s.x_BND if s.z_BCD is None else s.z_BCD], dim=1)

    def masked_lm_loss(self, batch: Batch) -> Tensor:
        asked = {"labels": batch.labels, "label_index": batch.label_index}
        return self.network(batch.input_ids, attention_mask=batch.attention_mask, **asked).loss

    def classification_loss(self, batch: Batch) -> Tensor:
        return self.network(batch.input_ids, attention_mask=batch.attention_mask, labels=batch.classes).loss


class Peer(nn.Module):
    """An encoder of transformers; the head is BERT's (dense, gelu, norm, tied vocabulary), at labelled tokens only."""

    def __init__(self, encoder: nn.Module, sizes: Sizes, needs_mask: bool):
        super().__init__()
        self.encoder, self.needs_mask = encoder, needs_mask
        width = sizes.hidden_size
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.decoder = nn.Linear(width, sizes.vocab_size)
        self.decoder.weight = encoder.get_input_embeddings().weight
        self.classifier = nn.Linear(width, sizes.num_labels)

    def body(self, batch: Batch) -> Tensor:
        mask = batch.attention_mask
        if mask is None and self.needs_mask:
            mask = torch.ones_like(batch.input_ids)
        return self.encoder(batch.input_ids, attention_mask=mask).last_hidden_state

    def masked_lm_loss(self, batch: Batch) -> Tensor:
        states = self.body(batch)
        if states.shape[1] != batch.input_ids.shape[1]:
            raise NotImplementedError("this peer has no decoder to tokens")
        asked = states.gather(1, batch.label_index[..., None].expand(-1, -1, states.shape[-1]))
        return masked_cross_entropy(self.head(asked), self.decoder, batch.labels, None)

    def classification_loss(self, batch: Batch) -> Tensor:
        states_BND, mask_BN = self.body(batch), batch.attention_mask
        if mask_BN is None or states_BND.shape[1] != mask_BN.shape[1]:
            pooled_BD = states_BND.mean(1)
        else:
            pooled_BD = (states_BND * mask_BN[..., None]).sum(1) / mask_BN.sum(1, keepdim=True)
        return nn.functional.cross_entropy(self.classifier(pooled_BD).float(), batch.classes)


def _bert_like(kind: str, fields: Callable[[Sizes], dict] = lambda sizes: {}, attention: str = "sdpa", **options):
    """A peer whose configuration speaks BERT's words; dropout off, as everywhere here."""

    def build(sizes: Sizes) -> nn.Module:
        shared = {
            "vocab_size": sizes.vocab_size,
            "hidden_size": sizes.hidden_size,
            "num_attention_heads": sizes.num_heads,
            "num_hidden_layers": sizes.num_layers,
            "intermediate_size": 4 * sizes.hidden_size,
            "max_position_embeddings": sizes.max_length,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        config = AutoConfig.for_model(kind, **{**shared, **fields(sizes)})
        return Peer(
            AutoModel.from_config(config, attn_implementation=attention, **options), sizes, kind == "longformer"
        )

    return build


def _modernbert(sizes: Sizes) -> dict:
    # A gated feed-forward has three maps: 8/3 D makes it as large as BERT's two at 4 D.
    return {
        "intermediate_size": round(sizes.hidden_size * 8 / 3 / 64) * 64,
        "pad_token_id": 0,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "reference_compile": False,
    }


def _longformer(sizes: Sizes) -> dict:
    return {"attention_window": 128, "max_position_embeddings": sizes.max_length + 2, "pad_token_id": 0}


def _funnel(sizes: Sizes) -> nn.Module:
    config = FunnelConfig(
        vocab_size=sizes.vocab_size,
        block_sizes=[max(sizes.num_layers // 3, 1)] * 3,
        d_model=sizes.hidden_size,
        n_head=sizes.num_heads,
        d_head=sizes.hidden_size // sizes.num_heads,
        d_inner=4 * sizes.hidden_size,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    return Peer(FunnelModel(config), sizes, needs_mask=True)


def _perceiver(sizes: Sizes) -> nn.Module:
    config = PerceiverConfig(
        vocab_size=sizes.vocab_size,
        d_model=sizes.hidden_size,
        d_latents=sizes.hidden_size,
        num_latents=sizes.num_concepts,
        num_blocks=1,
        num_self_attends_per_block=sizes.num_layers,
        num_self_attention_heads=sizes.num_heads,
        num_cross_attention_heads=sizes.num_heads,
        qk_channels=sizes.hidden_size,
        v_channels=sizes.hidden_size,
        self_attention_widening_factor=4,
        max_position_embeddings=sizes.max_length,
        attention_probs_dropout_prob=0.0,
    )
    text = PerceiverTextPreprocessor(config)
    model = PerceiverModel(config, input_preprocessor=text)
    model.get_input_embeddings = lambda: text.embeddings
    return Peer(model, sizes, needs_mask=True)


PEERS: dict[str, Callable[[Sizes], nn.Module]] = {
    "hf:bert": _bert_like("bert", add_pooling_layer=False),
    "hf:modernbert": _bert_like("modernbert", _modernbert),
    "hf:perceiver": _perceiver,
    "hf:funnel": _funnel,
    "hf:longformer": _bert_like("longformer", _longformer, attention="eager", add_pooling_layer=False),
}


def _may_be_fixed(options: dict) -> bool:
    """Whether C is a number of its own."""
    return "num_concepts" in SOURCES[options["concept_source"]].options


def _may_follow(options: dict) -> bool:
    """Whether it may follow N instead; `:ratio` says so."""
    return _may_be_fixed(options) and not DECODERS[options["decoder"]].needs_fixed_number


PRESET_NAMES = [
    entry
    for name, preset in PRESETS.items()
    for entry in ([name, f"{name}:ratio"] if _may_follow(preset.options) else [name])
]


def build_contestant(name: str, sizes: Sizes, mode: str, attention: str = "sdpa") -> nn.Module:
    """A contestant by name, with seeded weights.

    Raises:
        UserError: an unknown name, or a file without `build`.
        ValueError: a preset that does not exist at these sizes.
    """
    torch.manual_seed(0)
    check_names([name])
    if name in PRESET_NAMES:
        return Preset(name, sizes, mode, attention)
    return PEERS[name](sizes) if name in PEERS else _load_peer(Path(name)).build(sizes)


def check_names(names: list[str]) -> None:
    """Raises `UserError` for a name that nobody has, or a file that makes no contestant."""
    for name in names:
        if name.endswith(".py"):
            _load_peer(Path(name))
        elif name not in PRESET_NAMES and name not in PEERS:
            raise UserError(f"--models: no contestant is called {name!r}; {nearest(name, [*PRESET_NAMES, *PEERS])}")


def _load_peer(path: Path):
    if not path.is_file():
        raise UserError(f"--peer: {path} does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"--peer: {path} cannot be imported ({type(error).__name__}: {error})") from None
    if not callable(vars(module).get("build")):
        raise UserError(f"--peer: {path} has no function build(sizes) that returns a contestant")
    return module
