"""Embeddings of a frozen audio encoder, computed once per data set and kept by content."""

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from avslib.audio.encoders import AudioEncoder
from avslib.core.errors import DiskFullError, NonFiniteError
from avslib.core.files import locked
from avslib.core.tensors import load_tensors, save_tensors
from avslib.data.avsbench import AVSBench, Sound
from avslib.data.packed import PackedClips

logger = logging.getLogger(__name__)

FORMAT = "avslib-embeddings-3"


def embed_dataset(
    dataset: AVSBench | PackedClips,
    encoder: AudioEncoder,
    cache_dir: str | Path,
    batch: int = 16,
    progress: bool = True,
) -> dict[str, Float[Tensor, "T D"]]:
    """The embedding [T, D] of every clip by name; the same from loose and from packed clips.

    They are kept in `cache_dir`, in a file named by a hash of the encoder's fingerprint and of the sounds' checksums.
    Several processes compute them once. A damaged file is computed again, and a folder that cannot be written keeps
    nothing, with a warning.

    Raises AvsError on sounds that cannot be read; on clips with only a log-mel pickle and an encoder that needs
    samples; on embeddings that are not finite.
    """
    names, frames = dataset.names, dataset.frames
    content = [FORMAT, encoder.fingerprint(), frames, names, *dataset.sound_checksums(encoder.takes_log_mel)]
    title = f"audio embeddings, {dataset.task} {dataset.split}"
    sounds = track(dataset.sounds(), title, len(names), disable=not progress)
    return _kept(content, names, cache_dir, lambda: _compute(sounds, batch, encoder, frames))


def _kept(
    content: list[Any], names: list[str], cache_dir: str | Path, compute: Callable[[], Tensor]
) -> dict[str, Float[Tensor, "T D"]]:
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    path = Path(cache_dir) / f"{key[:32]}.safetensors"
    with locked(path.with_suffix(".lock"), "the computation of audio embeddings"):
        embeddings = None
        if path.is_file():
            try:
                embeddings = load_tensors(path)[0]["embeddings"]
            except Exception as error:  # safetensors raises its own error, OSError, KeyError, TypeError, ...
                warnings.warn(f"{path}: damaged cache, computed again ({error})", stacklevel=2)
        logger.info("audio embeddings: %s %s", "computed, kept in" if embeddings is None else "from", path)
        if embeddings is None:
            embeddings = compute()
            try:
                save_tensors(path, {"embeddings": embeddings}, {"key": key})
            except (OSError, DiskFullError) as error:
                warnings.warn(f"{path.parent}: embeddings are not cached ({error})", stacklevel=2)
    return dict(zip(names, embeddings, strict=True))


# no_grad, not inference_mode: training needs to save these tensors for backward
@torch.no_grad()
def _compute(sounds: Iterable[Sound], batch: int, encoder: AudioEncoder, frames: int) -> Float[Tensor, "clips T D"]:
    sounds, parts = iter(sounds), []
    while part := list(islice(sounds, batch)):
        if encoder.takes_log_mel:
            result = encoder.embed_log_mel(torch.stack([sound.log_mel() for sound in part]))
        else:
            result = encoder.embed(torch.stack([sound.waveform() for sound in part]), frames)
        if not torch.isfinite(result).all():
            clips = f"clips {part[0].name!r} to {part[-1].name!r}"
            raise NonFiniteError(f"{type(encoder).__name__} gave embeddings that are not finite, for {clips}")
        parts.append(result.float().cpu())
    return torch.cat(parts).contiguous() if parts else torch.empty(0, frames, 0)
