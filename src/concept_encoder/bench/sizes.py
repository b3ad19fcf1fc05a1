"""What every contestant of a benchmark has in common."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Equal width, depth, heads and vocabulary. The defaults are the project's canonical size.

    Attributes:
        hidden_size: D.
        num_layers: Transformer layers, or the L of a preset.
        num_heads: heads of every attention.
        num_concepts: C, where it is fixed.
        concept_ratio: N / C, where C follows N.
        vocab_size: V.
        max_length: the longest text; decides the size of learned positions.
        num_labels: classes of the fine-tuning step.
    """

    hidden_size: int = 512
    num_layers: int = 6
    num_heads: int = 8
    num_concepts: int = 128
    concept_ratio: int = 4
    vocab_size: int = 50_368
    max_length: int = 512
    num_labels: int = 2
