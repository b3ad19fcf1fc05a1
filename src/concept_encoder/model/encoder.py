"""`ConceptEncoderModel`: embeddings, a sequence of moves, and the decoder that lets concepts answer for tokens.

Shape suffixes: see `streams.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from concept_encoder.model.attention import ResidualOutput, make_norm
from concept_encoder.model.config import ConceptEncoderConfig
from concept_encoder.model.decoders import DECODERS
from concept_encoder.model.moves import MOVES, Move, Read
from concept_encoder.model.positions import LearnedScale, states_position
from concept_encoder.model.sources import SOURCES
from concept_encoder.model.streams import Intervention, Streams


@dataclass
class ConceptEncoderOutput(ModelOutput):
    """What `ConceptEncoderModel` returns.

    Attributes:
        last_hidden_state: `[B, C, D]` normed concepts, or `[B, N, D]` normed tokens where there are none.
        concepts: `[B, C, D]`, the same; None without concepts.
        concept_mask: `[B, C]`, True for concepts that exist; None when all do.
        tokens: `[B, N, D]`, the token stream after the last move.
        read_attentions: with `output_attentions=True` and the eager kernel, `[B, H, C, N]` for every
            move in which concepts attend to tokens.
    """

    last_hidden_state: Tensor | None = None
    concepts: Tensor | None = None
    concept_mask: Tensor | None = None
    tokens: Tensor | None = None
    read_attentions: tuple[Tensor, ...] | None = None


def read_runs(config: ConceptEncoderConfig) -> dict[int, list[int]]:
    """Where several reads see the same tokens: the index of the first, and the groups of all."""
    runs: dict[int, list[int]] = {}
    start: int | None = None
    for layer, (name, group) in enumerate(zip(config.layer_types, config.layer_groups)):
        if MOVES[name].projects_tokens:
            start = layer if start is None else start
            runs.setdefault(start, []).append(group)
        elif "tokens" in MOVES[name].updates:
            start = None
    return {start: sorted(set(groups)) for start, groups in runs.items() if len(groups) > 1}


def _is_read(move: type[Move]) -> bool:
    """Whether concepts attend to tokens in it."""
    return move.attends == ("concepts", "tokens")


def _is_plain(map_: nn.Module) -> bool:
    """A linear map with its weights at hand: no adapter (LoRA) stands in for it, and no other process has a part."""
    return type(map_) is nn.Linear and type(map_.weight) is nn.Parameter


def normed_concepts(s: Streams) -> Tensor:
    """Concepts `[B, C, D]` at unit scale. No weights: masked language modelling would not train them."""
    return F.layer_norm(s.heard_BCD, s.z_BCD.shape[-1:])


class Embeddings(nn.Module):
    """Words (in `token_dim`, widened to D), segments and positions, summed and normed."""

    def __init__(self, config: ConceptEncoderConfig):
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.token_dim)
        inverted = config.token_dim != config.hidden_size
        self.projection = nn.Linear(config.token_dim, config.hidden_size, bias=False) if inverted else nn.Identity()
        self.segment = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.position = states_position(config.token_position, config)
        self.norm = make_norm(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None, pos_BN: Tensor) -> Tensor:
        segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x_BND = self.projection(self.word(input_ids)) + self.segment(segments)
        added = self.position.states(pos_BN)
        return self.dropout(self.norm(x_BND if added is None else x_BND + added))


class ConceptEncoderPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by all models. Initialisation is here and nowhere else."""

    config_class = ConceptEncoderConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal(0, initializer_range); residual outputs smaller by 1/sqrt(2 x layers), as in GPT-2."""
        std = self.config.initializer_range
        if isinstance(module, ResidualOutput):
            init.normal_(module.weight, std=std / (2 * len(self.config.layer_types)) ** 0.5)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
        elif isinstance(module, LearnedScale):
            init.constant_(module.weight, std)


class ConceptEncoderModel(ConceptEncoderPreTrainedModel):
    """Tokens in, concepts out. `encode` runs the moves, `decode` answers for tokens; heads use both."""

    def __init__(self, config: ConceptEncoderConfig):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.source = SOURCES[config.concept_source](config)
        first = {group: name for name, group in reversed(list(zip(config.layer_types, config.layer_groups)))}
        self.groups = nn.ModuleDict({str(group): MOVES[first[group]](config) for group in sorted(first)})
        self.decoder = DECODERS[config.decoder](config)
        self.read_runs = read_runs(config)
        # What must stay in one piece when a model is spread over devices (FSDP, `device_map`).
        self._no_split_modules = sorted(
            {type(module).__name__ for module in self.modules() if isinstance(module, Move)}
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word = value

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        attentions: list[tuple[str, Tensor]] | None = None,
        intervention: Intervention | None = None,
    ) -> Streams:
        """Run the moves. `input_ids` `[B, N]`; `attention_mask` None means that nothing is padded.

        With an `intervention` tokens hear other concepts, here and in `decode`; concepts themselves go on as they are.
        """
        if input_ids.ndim != 2 or input_ids.is_floating_point() or not input_ids.numel():
            found = f"{input_ids.dtype} of shape {tuple(input_ids.shape)}"
            raise ValueError(f"input_ids: expected whole numbers [B, N], one token at least, found {found}")
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            shapes = f"{tuple(attention_mask.shape)} for input_ids {tuple(input_ids.shape)}"
            raise ValueError(f"attention_mask: shape {shapes}; give a 1 or 0 for every token")
        length = input_ids.shape[1]
        if length > self.config.max_position_embeddings:
            limit = self.config.max_position_embeddings
            raise ValueError(f"input_ids: {length} tokens exceed max_position_embeddings {limit}; truncate the text")
        pos_BN = torch.arange(length, device=input_ids.device)[None]
        mask_BN = None if attention_mask is None else attention_mask.bool()
        start = Streams(
            self.embeddings(input_ids, token_type_ids, pos_BN),
            pos_BN,
            mask_BN,
            intervention=intervention,
            attentions=attentions,
        )
        hidden_BN = input_ids == self.config.mask_token_id if self.config.mask_free else None
        s = start.replace(start=start, x_hidden_BN=hidden_BN)
        kv: dict[int, Tensor] = {}
        for layer, (name, group) in enumerate(zip(self.config.layer_types, self.config.layer_groups)):
            if s.z_BCD is None and "concepts" in MOVES[name].uses:
                s = self.source(s)
            if layer in self.read_runs:
                kv = self.project_reads(self.read_runs[layer], s)
            elif "tokens" in MOVES[name].updates:
                kv = {}
            s = self.groups[str(group)](s.replace(kv_BNE=kv.get(group)))
        s = s.replace(kv_BNE=None)  # they were for the reads of the moves, not for those of a decoder
        return self.source(s) if s.z_BCD is None and self.source.has_concepts else s

    def project_reads(self, groups: list[int], s: Streams) -> dict[int, Tensor]:
        """Keys and values for the reads of these groups; empty where one must make them itself."""
        reads = [self.groups[str(group)] for group in groups]
        if not all(map(_is_plain, (read.attention.key_value for read in reads))):
            return {}
        return dict(zip(groups, Read.project_together(reads, s)))

    def decode(self, streams: Streams, index_BK: Tensor | None = None) -> Tensor:
        """Normed token states `[B, N, D]`, or `[B, K, D]` at the tokens `index_BK`."""
        return self.decoder(streams, index_BK)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> ConceptEncoderOutput | tuple:
        """Encode; see `ConceptEncoderOutput`. `output_attentions` needs `attn_implementation="eager"`."""
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError(
                'output_attentions: only the eager kernel keeps weights; load with attn_implementation="eager"'
            )
        attentions: list[tuple[str, Tensor]] | None = [] if output_attentions else None
        s = self.encode(input_ids, attention_mask, token_type_ids, attentions)
        concepts = None if s.z_BCD is None else normed_concepts(s)
        reads = None if attentions is None else tuple(weights for name, weights in attentions if _is_read(MOVES[name]))
        output = ConceptEncoderOutput(
            last_hidden_state=self.decode(s) if concepts is None else concepts,
            concepts=concepts,
            concept_mask=s.z_mask_BC,
            tokens=s.x_BND,
            read_attentions=reads,
        )
        return output if return_dict is not False else output.to_tuple()
