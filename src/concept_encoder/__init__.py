"""Text encoders with a concept bottleneck: C concept vectors read N tokens, think, and answer for the tokens."""

__version__ = "0.1.0"
