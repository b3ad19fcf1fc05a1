"""Asking a pretrained model."""

import torch
from transformers import PreTrainedTokenizerBase

from concept_encoder.model import ConceptEncoderForMaskedLM


@torch.no_grad()
def fill_masks(
    model: ConceptEncoderForMaskedLM, tokenizer: PreTrainedTokenizerBase, texts: list[str], top: int = 5
) -> list[list[list[tuple[str, float]]]]:
    """For each text, for each of its [MASK], the `top` words with their probabilities.

    Raises:
        ValueError: a text is longer than the model's position table (from the model).
    """
    model.eval()
    answers = []
    for text in texts:
        batch = tokenizer(text, return_tensors="pt").to(model.device)
        logits_NV = model(**batch).logits[0]
        masks = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
        likely = logits_NV[masks, : len(tokenizer)].float().softmax(-1).topk(min(top, len(tokenizer)))
        answers.append(
            [
                [(tokenizer.decode([token]).strip(), share) for token, share in zip(ids, shares)]
                for ids, shares in zip(likely.indices.tolist(), likely.values.tolist())
            ]
        )
    return answers
