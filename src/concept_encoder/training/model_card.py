"""The README.md of a checkpoint, in the hub's format."""

from typing import Any

import yaml
from transformers import PreTrainedConfig

from concept_encoder.model import ConceptEncoderConfig
from concept_encoder.model.layout import format_layout


def model_card(config: PreTrainedConfig, recipe: dict[str, Any], log: list[dict[str, Any]]) -> str:
    """What the checkpoint is, how it was made, and what was measured so far."""
    losses = [f"| {entry['step']} | {entry['eval_loss']:.4f} |" for entry in log if "eval_loss" in entry]
    table = "\n".join(["| step | held-out loss |", "| --- | --- |", *losses]) if losses else "No evaluation yet."
    tags = ["concept-encoder", "fill-mask"] if isinstance(config, ConceptEncoderConfig) else ["concept-encoder"]
    front = yaml.safe_dump({"library_name": "transformers", "tags": tags}, sort_keys=False)
    return f"""---
{front}---

{_description(config)}
from transformers import AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

## Measured

{table}

## Recipe

```yaml
{yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)}```
"""


def _description(config: PreTrainedConfig) -> str:
    if not isinstance(config, ConceptEncoderConfig):
        return f"# {config.model_type}, fine-tuned\n\nBy the code that fine-tunes concept encoders.\n\n```python"
    return f"""# Concept encoder

A text encoder with a concept bottleneck: `{format_layout(config.layer_types)}`, concepts from
`{config.concept_source}`,
decoder `{config.decoder}` ({" ".join(config.decoder_layer_types) or "no layers"}), width {config.hidden_size},
{config.num_attention_heads} heads, vocabulary {config.vocab_size}, at most {config.max_position_embeddings} tokens.

```python
import concept_encoder.model  # registers the architecture with the Auto classes"""
