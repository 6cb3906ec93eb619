"""X1: pre-train one 50M-parameter language model on one rented GPU, and defend every number."""

__version__ = "0.1.0"
