"""LTCHM in JAX: a remote-sensing image codec with real bitstreams."""

__version__ = "0.1.0"
