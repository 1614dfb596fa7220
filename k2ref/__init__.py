"""Kimi K2 as a reference: a forward pass to read, kernels to trust, a checkpoint reader."""

__version__ = "0.1.0"
