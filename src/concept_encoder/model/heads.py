"""Models with a head: masked language modelling, sequence and token classification.

Shape suffixes: see `streams.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput, TokenClassifierOutput

from concept_encoder.model.config import ConceptEncoderConfig
from concept_encoder.model.encoder import ConceptEncoderModel, ConceptEncoderPreTrainedModel
from concept_encoder.model.losses import IGNORE, masked_cross_entropy
from concept_encoder.model.pooling import CLASSIFIER_HEADS
from concept_encoder.model.streams import Intervention


class ConceptEncoderForMaskedLM(ConceptEncoderPreTrainedModel):
    """A concept encoder with the masked-LM head, tied to the word embeddings (through `token_dim`, when it is smaller).

    Logits are computed at labelled tokens only: at a masking rate of 15 % that is 6.7 times less of the largest
    product.
    """

    _tied_weights_keys = {"head.decoder.weight": "model.embeddings.word.weight"}  # noqa: RUF012

    def __init__(self, config: ConceptEncoderConfig):
        super().__init__(config)
        self.model = ConceptEncoderModel(config)
        self.head = MaskedLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.head.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.head.decoder = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        label_index: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        concept_intervention: Intervention | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple:
        """Without labels: logits `[B, N, V]`. With labels: the loss alone, as logits would not fit in memory.

        Args:
            labels: `[B, N]`, -100 where nothing is asked; or `[B, K]` together with `label_index`.
            label_index: `[B, K]`, the tokens that the labels belong to. A fixed K (a masking budget) keeps the
                graph static for `torch.compile`. Without labels: the only tokens with logits, `[B, K, V]`.
            num_items_in_batch: labels in the whole accumulated batch; the summed loss is divided by it.
            concept_intervention: maps `(z_BCD, mask_BC)` to what tokens hear of the concepts instead, wherever they do.
        """
        s = self.model.encode(input_ids, attention_mask, token_type_ids, intervention=concept_intervention)
        if labels is None:
            output = MaskedLMOutput(logits=self.head(self.model.decode(s, label_index)))
            return output if return_dict is not False else output.to_tuple()
        if label_index is None:
            label_index, labels = labelled_tokens(labels)
        h_BKE = self.head.transform(self.model.decode(s, label_index))
        loss = masked_cross_entropy(h_BKE, self.head.decoder, labels, num_items_in_batch)
        return MaskedLMOutput(loss=loss) if return_dict is not False else (loss,)


class MaskedLMHead(nn.Module):
    """Dense, activation, norm, then the vocabulary. Source: BERT (arXiv:1810.04805)."""

    def __init__(self, config: ConceptEncoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.token_dim, bias=False)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(config.token_dim, eps=config.layer_norm_eps, bias=False)
        self.decoder = nn.Linear(config.token_dim, config.vocab_size)

    def transform(self, x_BND: Tensor) -> Tensor:
        """States in the space of the word embeddings, `[B, N, token_dim]`."""
        return self.norm(self.activation(self.dense(x_BND)))

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.decoder(self.transform(x_BND))


def labelled_tokens(labels_BN: Tensor) -> tuple[Tensor, Tensor]:
    """From labels `[B, N]` to `(index, labels)`, each `[B, K]`, K the most labels of any text; the rest is ignored."""
    asked_BN = labels_BN != IGNORE
    most = max(int(asked_BN.sum(1).max()), 1)
    index_BK = asked_BN.to(torch.int8).topk(most, dim=1).indices
    return index_BK, labels_BN.gather(1, index_BK)


class ConceptEncoderForSequenceClassification(ConceptEncoderPreTrainedModel):
    """A concept encoder that labels whole texts; `num_labels=1` with `problem_type="regression"` predicts a number."""

    def __init__(self, config: ConceptEncoderConfig):
        super().__init__(config)
        self.model = ConceptEncoderModel(config)
        self.pool = CLASSIFIER_HEADS[config.classifier_head](config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(self.pool.size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        concept_intervention: Intervention | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """Logits `[B, num_labels]`; with `labels` `[B]` also the loss (squared error for regression).

        `input_ids` and its companions are `[B, N]`, or `[B, 2, N]` for the head `pair`.
        """
        inputs = self.pool.texts(input_ids, attention_mask, token_type_ids)
        s = self.model.encode(*inputs, intervention=concept_intervention)
        logits = self.classifier(self.dropout(self.pool(self.model, s)))
        loss = None if labels is None else _classification_loss(logits, labels, self.config)
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output if return_dict is not False else output.to_tuple()


class ConceptEncoderForTokenClassification(ConceptEncoderPreTrainedModel):
    """A concept encoder that labels each token, from the decoded tokens."""

    def __init__(self, config: ConceptEncoderConfig):
        super().__init__(config)
        self.model = ConceptEncoderModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        concept_intervention: Intervention | None = None,
        return_dict: bool | None = None,
    ) -> TokenClassifierOutput | tuple:
        """Logits `[B, N, num_labels]`; with `labels` `[B, N]` (-100 ignored) also the loss.

        `num_items_in_batch` and `concept_intervention` as in masked language modelling.
        """
        s = self.model.encode(input_ids, attention_mask, token_type_ids, intervention=concept_intervention)
        logits = self.classifier(self.dropout(self.model.decode(s)))
        loss = None
        if labels is not None:
            total = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")
            loss = total / ((labels != IGNORE).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        output = TokenClassifierOutput(loss=loss, logits=logits)
        return output if return_dict is not False else output.to_tuple()


def _classification_loss(logits: Tensor, labels: Tensor, config: ConceptEncoderConfig) -> Tensor:
    if config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1):
        return F.mse_loss(logits.squeeze(-1).float(), labels.float().view_as(logits.squeeze(-1)))
    if config.problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float())
    return F.cross_entropy(logits.float(), labels)
