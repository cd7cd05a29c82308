"""Embeddings of a frozen audio encoder, computed once per data set and kept by content."""

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from avslib.audio import SAMPLE_RATE, load_clip, log_mel
from avslib.core.errors import DataError, DiskFullError, NonFiniteError
from avslib.core.files import sha256_file
from avslib.core.listing import require_as_built
from avslib.core.locks import locked
from avslib.core.tensors import load_tensors, save_tensors
from avslib.data.avsbench import AUDIO_TOLERANCE, AVSBench
from avslib.data.packed import NamedBytes, PackedClips
from avslib.data.pickles import load_log_mel

logger = logging.getLogger(__name__)

FORMAT = "avslib-embeddings-2"


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

    The file's name is a hash of the encoder's fingerprint and of every sound file's bytes, so a change of either
    computes it again. A lock lets several processes compute it once. A damaged file is computed again with a warning;
    where the folder cannot be written, nothing is kept, with a warning.

    Raises:
        AvsError: sounds that cannot be read, or are not as a Mini-AVS build lists them; clips with only a log-mel
            pickle and an encoder that needs waveforms; embeddings that are not finite.
    """
    sounds = [clip.wav_path or clip.log_mel_path for clip in dataset.clips]
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(sha256_file, sounds))
    require_as_built(dataset.folder, dict(zip(sounds, digests, strict=True)))
    names = [clip.name for clip in dataset.clips]
    content = [FORMAT, encoder.fingerprint(), dataset.frames, names, [path.suffix for path in sounds], digests]
    rows = (
        _Sound(clip.name, clip.wav_path and partial(dataset.waveform, i), partial(dataset.log_mel, i))
        for i, clip in enumerate(dataset.clips)
    )
    rows = track(rows, f"audio embeddings, {dataset.task} {dataset.split}", len(names), disable=not progress)
    return _kept(content, names, dataset.frames, cache_dir, lambda: _compute(rows, batch, encoder, dataset.frames))


def embed_packed(
    clips: PackedClips, encoder: AudioEncoder, cache_dir: str | Path, batch: int = 16, progress: bool = True
) -> dict[str, Float[Tensor, "T D"]]:
    """As `embed_dataset`, for all clips of a packed split, in one pass over its shards; the same embeddings.

    The file's name is a hash of the encoder's fingerprint and of the shards' checksums.

    Raises:
        AvsError: as `embed_dataset` and `PackedClips`.
    """
    content = [FORMAT, encoder.fingerprint(), clips.frames, clips.names, [shard.sha256 for shard in clips.shards]]
    rows = (_packed_sound(name, files, clips.frames) for name, files in clips.sounds())
    rows = track(rows, f"audio embeddings, {clips.task} {clips.split}", len(clips.names), disable=not progress)
    return _kept(content, clips.names, clips.frames, cache_dir, lambda: _compute(rows, batch, encoder, clips.frames))


class _Sound(NamedTuple):
    """How to read a clip's sound; `waveform` is None where there is only the log-mel."""

    name: str
    waveform: Callable[[], Tensor] | None
    log_mel: Callable[[], Tensor]


def _packed_sound(name: str, files: Mapping[str, NamedBytes], frames: int) -> _Sound:
    wav, given = files.get("wav"), files.get("log_mel.safetensors")
    waveform = partial(load_clip, wav, frames, AUDIO_TOLERANCE) if wav else None
    patches = partial(load_log_mel, given, frames) if given else lambda: log_mel(waveform(), SAMPLE_RATE, frames)
    return _Sound(name, waveform, patches)


def _kept(
    content: list[Any], names: list[str], frames: int, cache_dir: str | Path, compute: Callable[[], Tensor]
) -> dict[str, Float[Tensor, "T D"]]:
    """What the cache holds for `content`, else what `compute` gives, kept for the next time."""
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    path = Path(cache_dir) / f"{key[:32]}.safetensors"
    with locked(path.with_suffix(".lock"), "the computation of audio embeddings"):
        embeddings = _load(path, key, (len(names), frames)) if path.is_file() else None
        logger.info("audio embeddings: %s %s", "computed, kept in" if embeddings is None else "from", path)
        if embeddings is None:
            embeddings = compute()
            try:
                save_tensors(path, {"embeddings": embeddings}, {"key": key})
            except (OSError, DiskFullError) as error:
                warnings.warn(f"{path.parent}: embeddings are not kept ({error})", stacklevel=2)
    return dict(zip(names, embeddings, strict=True))


def _load(path: Path, key: str, shape: tuple[int, int]) -> Tensor | None:
    """What the cache file holds, or None, with a warning, when it cannot be trusted."""
    try:
        tensors, metadata = load_tensors(path)
        if metadata["key"] == key and tensors["embeddings"].shape[:2] == shape:
            return tensors["embeddings"]
        reason = "it belongs to other sounds"
    except Exception as error:  # safetensors raises its own error, OSError, KeyError, TypeError, ...
        reason = error
    warnings.warn(f"{path}: damaged cache, computed again ({reason})", stacklevel=3)
    return None


# no_grad, not inference_mode: training needs to save these tensors for backward
@torch.no_grad()
def _compute(sounds: Iterable[_Sound], batch: int, encoder: AudioEncoder, frames: int) -> Float[Tensor, "clips T D"]:
    sounds, parts = iter(sounds), []
    while part := list(islice(sounds, batch)):
        if all(sound.waveform for sound in part):
            result = encoder.embed(torch.stack([sound.waveform() for sound in part]), frames)
        elif hasattr(encoder, "embed_log_mel"):
            result = encoder.embed_log_mel(torch.stack([sound.log_mel() for sound in part]))
        else:
            name = next(sound.name for sound in part if not sound.waveform)
            raise DataError(
                f"clip {name!r} has a log-mel pickle but no wav, and {type(encoder).__name__} starts from "
                "waveforms; choose VGGish as audio encoder, or add the wav files"
            )
        if not torch.isfinite(result).all():
            raise NonFiniteError(
                f"{type(encoder).__name__} gave embeddings that are not finite, for clips "
                f"{part[0].name!r} to {part[-1].name!r}; check its weights"
            )
        parts.append(result.float().cpu())
    return torch.cat(parts).contiguous() if parts else torch.empty(0, frames, 0)
