"""Kimi K2 as a reference: a forward pass to read, kernels to trust, a checkpoint reader."""

from k2ref.checkpoint import Checkpoint
from k2ref.config import Config, load_config
from k2ref.errors import InputError
from k2ref.model import Model
from k2ref.numerics import Numerics

__all__ = ["Checkpoint", "Config", "InputError", "Model", "Numerics", "load_config"]
__version__ = "0.1.0"
