"""Reading sound files and converting them to 16 kHz mono."""

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor

from avslib.core.errors import SoundError

SAMPLE_RATE = 16000
RATES = (1000, 384_000)  # sample rates of sound hardware; others come from damaged headers
MOST_CHANNELS = 32
MOST_SAMPLES = 2**28  # of all channels: 1 GiB as float32, 46 minutes of stereo at 48 kHz


def load_wav(path: str | Path | BinaryIO, seconds: float | None = None) -> tuple[Float[Tensor, "C S"], int]:
    """Read a sound file, by path or from its open bytes, as float samples in [-1, 1].

    Any format of libsndfile works: WAV, FLAC, OGG, MP3. The header is checked before any sample is read.

    Args:
        seconds: read at most this much from the beginning; None: all.

    Returns:
        waveform [C, S] float32, and its rate in Hz.

    Raises:
        AvsError: the file is missing, not a sound file, empty, or holds samples that are not finite; a rate outside
            `RATES`, more than `MOST_CHANNELS` channels, more than `MOST_SAMPLES` samples to be read.
    """
    import soundfile

    opened = hasattr(path, "read")
    if not opened and not Path(path).is_file():
        raise SoundError(f"{path}: no such sound file")
    try:
        with soundfile.SoundFile(path if opened else str(path)) as sound:
            rate = sound.samplerate
            frames = _frames_to_read(path, sound.frames, sound.channels, rate, seconds)
            samples = sound.read(frames, dtype="float32", always_2d=True)
    except SoundError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        raise SoundError(f"{path}: cannot be read as a sound file ({error}); convert it to WAV") from error
    if samples.size == 0:
        raise SoundError(f"{path}: holds no samples; record or convert it again")
    if not np.isfinite(samples).all():
        raise SoundError(f"{path}: holds samples that are NaN or infinite; convert it again")
    return torch.from_numpy(np.ascontiguousarray(samples.T)), int(rate)


def _frames_to_read(path: str | Path | BinaryIO, frames: int, channels: int, rate: int, seconds: float | None) -> int:
    """How many samples of each channel to read from a file with this header."""
    if not RATES[0] <= rate <= RATES[1] or not 1 <= channels <= MOST_CHANNELS:
        raise SoundError(
            f"{path}: its header declares {channels} channels at {rate} Hz; expected at most {MOST_CHANNELS} channels "
            f"at {RATES[0]} to {RATES[1]} Hz: convert it to 16 kHz WAV"
        )
    frames = frames if seconds is None else min(frames, math.ceil(seconds * rate))
    if frames * channels > MOST_SAMPLES:
        raise SoundError(
            f"{path}: its header declares {frames / rate:.0f} s in {channels} channels; expected at most "
            f"{MOST_SAMPLES} samples: cut it into shorter files"
        )
    return frames


def to_mono_16k(waveform: Float[Tensor, "C S"] | Float[Tensor, "S"], rate: int) -> Float[Tensor, "S2"]:
    """Mean of the channels, resampled to 16 kHz (windowed sinc).

    Raises:
        AvsError: a different number of dimensions, no samples, samples that are not finite, a rate outside `RATES`, or
            one that shares almost no divisor with 16 kHz, so that the resampling filter would need gigabytes.
    """
    waveform = torch.as_tensor(waveform)
    if waveform.ndim not in (1, 2) or waveform.numel() == 0:
        raise SoundError(f"waveform has shape {list(waveform.shape)}; expected [samples] or [channels, samples]")
    if not waveform.is_floating_point():
        raise SoundError(f"waveform is of type {waveform.dtype}; expected float samples in [-1, 1]")
    if not torch.isfinite(waveform).all():
        raise SoundError("waveform holds NaN or infinite samples; read or convert it again")
    if int(rate) != rate or not RATES[0] <= rate <= RATES[1]:
        raise SoundError(f"sample_rate is {rate}; expected a whole number of Hz from {RATES[0]} to {RATES[1]}")
    if SAMPLE_RATE // math.gcd(int(rate), SAMPLE_RATE) > 2000:
        raise SoundError(
            f"sample_rate is {rate}, which shares almost no divisor with {SAMPLE_RATE}; is the file's header right? "
            "Convert the sound to 16 kHz first"
        )
    if waveform.ndim == 2:
        waveform = waveform.mean(0)
    return torchaudio.functional.resample(waveform.float(), int(rate), SAMPLE_RATE)


def fit_length(waveform: Float[Tensor, "*B S"], samples: int) -> Float[Tensor, "*B samples"]:
    """Cut the end off, or append silence, to get `samples` samples."""
    missing = samples - waveform.shape[-1]
    return torch.nn.functional.pad(waveform, (0, missing)) if missing > 0 else waveform[..., :samples]


def load_clip(path: str | Path | BinaryIO, seconds: int = 5, tolerance: float = 0.5) -> Float[Tensor, "S"]:
    """The first `seconds` seconds of a sound file as 16 kHz mono: exactly `seconds` * 16000 samples.

    Raises:
        AvsError: as `load_wav`, and when more than `tolerance` seconds are missing.
    """
    waveform = to_mono_16k(*load_wav(path, seconds + 1))
    length = waveform.shape[-1] / SAMPLE_RATE
    if length < seconds - tolerance:
        raise SoundError(f"{path}: lasts {length:.2f} s; expected {seconds} s, one second for each frame of the clip")
    return fit_length(waveform, seconds * SAMPLE_RATE)
