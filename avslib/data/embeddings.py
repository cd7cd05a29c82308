"""Embeddings of a frozen audio encoder, computed once a data set and kept by content."""

import hashlib
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import torch
from filelock import FileLock
from jaxtyping import Float
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from avslib.data.avsbench import AVSBench
from avslib.errors import AvsError
from avslib.files import atomic_path, sha256_file

__all__ = ["AudioEncoder", "embed_dataset"]

FORMAT = "avslib-embeddings-1"


class AudioEncoder(Protocol):
    """What an encoder offers; one that starts from log-mels has `embed_log_mel(log_mel [B, T, 1, 96, 64])` too."""

    def fingerprint(self) -> str:
        """Changes with the encoder's weights and settings."""
        ...

    def embed(self, waveforms: Float[Tensor, "B S"], frames: int) -> Float[Tensor, "B frames D"]: ...


def embed_dataset(
    dataset: AVSBench, encoder: AudioEncoder, cache_dir: str | Path, batch: int = 16, progress: bool = True
) -> dict[str, Float[Tensor, "T D"]]:
    """The embedding [T, D] of every clip by name, from `cache_dir` where it is known.

    The file's name is a hash of the encoder's fingerprint and of every sound file's bytes, so that a change of either
    computes it again. It is written beside and renamed under a lock: several processes compute it once. A damaged file
    is computed again with a warning; where the folder cannot be written, nothing is kept, with a warning.

    Raises:
        AvsError: sounds that cannot be read; clips with log-mel pickles alone and an encoder that needs waveforms;
            embeddings that are not finite.
    """
    sounds = [clip.wav_path or clip.log_mel_path for clip in dataset.clips]
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(sha256_file, sounds))
    names = [clip.name for clip in dataset.clips]
    content = [FORMAT, encoder.fingerprint(), dataset.frames, names, [path.suffix for path in sounds], digests]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    path = Path(cache_dir) / f"{key[:32]}.safetensors"
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
            writable = True
        except OSError as error:
            warnings.warn(f"{path.parent}: embeddings are not kept ({error})", stacklevel=2)
            writable = False
        embeddings = _load(path, key, len(names), dataset.frames)
        if embeddings is None:
            embeddings = _compute(dataset, encoder, batch, progress)
            if writable:
                metadata = {"key": key, "sha256": _checksum(embeddings), "names": json.dumps(names)}
                with atomic_path(path) as temporary:
                    save_file({"embeddings": embeddings}, temporary, metadata)
    return dict(zip(names, embeddings, strict=True))


def _checksum(embeddings: Tensor) -> str:
    return hashlib.sha256(embeddings.contiguous().numpy().tobytes()).hexdigest()


def _load(path: Path, key: str, clips: int, frames: int) -> Tensor | None:
    """What the cache file holds, or None when there is none that can be trusted."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as stream:
            metadata, embeddings = stream.metadata(), stream.get_tensor("embeddings").clone()
        whole = metadata["key"] == key and metadata["sha256"] == _checksum(embeddings)
    except Exception as error:  # safetensors raises its own error, OSError, KeyError, TypeError, ...
        warnings.warn(f"{path}: damaged cache, computed again ({error})", stacklevel=3)
        return None
    if not whole or embeddings.shape[:2] != (clips, frames):
        warnings.warn(f"{path}: damaged cache, computed again (its checksum does not fit)", stacklevel=3)
        return None
    return embeddings


# no_grad, not inference_mode: training needs to save these tensors for backward
@torch.no_grad()
def _compute(dataset: AVSBench, encoder: AudioEncoder, batch: int, progress: bool) -> Float[Tensor, "clips T D"]:
    indices = list(range(len(dataset.clips)))
    batches = [indices[start : start + batch] for start in indices[::batch]]
    parts = []
    for part in track(batches, f"audio embeddings, {dataset.task} {dataset.split}", disable=not progress):
        if all(dataset.clips[i].wav_path is not None for i in part):
            result = encoder.embed(torch.stack([dataset.waveform(i) for i in part]), dataset.frames)
        elif hasattr(encoder, "embed_log_mel"):
            result = encoder.embed_log_mel(torch.stack([dataset.log_mel(i) for i in part]))
        else:
            name = next(dataset.clips[i].name for i in part if dataset.clips[i].wav_path is None)
            raise AvsError(
                f"clip {name!r} has a log-mel pickle but no wav, and {type(encoder).__name__} starts from "
                "waveforms; choose VGGish as audio encoder, or add the wav files"
            )
        if not torch.isfinite(result).all():
            raise AvsError(
                f"{type(encoder).__name__} gave embeddings that are not finite, for clips "
                f"{dataset.clips[part[0]].name!r} to {dataset.clips[part[-1]].name!r}; check its weights"
            )
        parts.append(result.float().cpu())
    return torch.cat(parts).contiguous() if parts else torch.empty(0, dataset.frames, 0)
