"""avslib: ECMVAE for audio-visual segmentation, trainable, tested, and explained term by term."""

import os
from importlib import import_module
from importlib.util import find_spec

__version__ = "0.1.0"
# read when torch is loaded: what an Apple GPU cannot compute is computed on the CPU, with a warning
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

# loaded on first use: `avs --help` and the processes that compose clips need no torch
_LAZY = {
    "Config": "avslib.config",
    "load_config": "avslib.config",
    "ECMVAE": "avslib.models.ecmvae",
    "ECMVAEOutput": "avslib.models.ecmvae",
    "load_checkpoint": "avslib.weights.checkpoints",
    "load_official": "avslib.weights.released",
    "train": "avslib.training.loop",
    "evaluate": "avslib.training.evaluate",
    "Predictor": "avslib.video.predictor",
    "AvsError": "avslib.core.errors",
}

__all__ = [*_LAZY, "__version__"]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if find_spec(f"avslib.{name}"):
        return import_module(f"avslib.{name}")
    raise AttributeError(f"module 'avslib' has no attribute {name!r}")
