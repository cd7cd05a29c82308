"""Reading sound files and converting them to 16 kHz mono."""

import math
from pathlib import Path
from typing import Any, BinaryIO

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
LOUDEST = 8.0  # 18 dB over full scale: loud mixes stay below, samples in the scale of integers do not


def load_wav(path: str | Path | BinaryIO, seconds: float | None = None) -> tuple[Float[Tensor, "C S"], int]:
    """The float32 samples [C, S] in [-1, 1] of a sound file, by path or from its open bytes, and their rate in Hz.

    Any format of libsndfile works: WAV, FLAC, OGG, MP3. The header is checked before any sample is read; `seconds`: at
    most this much from the beginning; None: all.

    Raises AvsError: the file is missing, not a sound file, empty, or holds samples that are not finite or far beyond 1;
    a rate outside `RATES`, more than `MOST_CHANNELS` channels, more than `MOST_SAMPLES` samples.
    """
    import soundfile

    if isinstance(path, (str, Path)) and not Path(path).is_file():
        raise SoundError(f"{path}: no such sound file")
    try:
        with soundfile.SoundFile(str(path) if isinstance(path, Path) else path) as sound:
            rate = sound.samplerate
            samples = sound.read(_frames_to_read(sound, path, seconds), dtype="float32", always_2d=True)
    except SoundError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        raise SoundError(f"{path}: cannot be read as a sound file ({error}); convert it to WAV") from error
    if samples.size == 0:
        raise SoundError(f"{path}: holds no samples; record or convert it again")
    waveform = torch.from_numpy(np.ascontiguousarray(samples.T))
    require_scale(waveform, path)
    return waveform, rate


def require_scale(waveform: Tensor, source: object) -> None:
    """Raise SoundError unless the samples are finite, and not far beyond 1 as those in the scale of integers."""
    peak = float(waveform.abs().max())
    if not math.isfinite(peak):
        raise SoundError(f"{source}: holds NaN or infinite samples; read or convert it again")
    if peak > LOUDEST:
        advice = "divide them by the full scale of their format, which is 32768 for 16-bit samples"
        raise SoundError(f"{source}: its samples reach {peak:.0f}; expected float samples in [-1, 1]: {advice}")


def _frames_to_read(sound: Any, source: object, seconds: float | None) -> int:
    frames = sound.frames if seconds is None else min(sound.frames, math.ceil(seconds * sound.samplerate))
    possible = RATES[0] <= sound.samplerate <= RATES[1] and 1 <= sound.channels <= MOST_CHANNELS
    if not possible or frames * sound.channels > MOST_SAMPLES:
        found = f"{frames} samples in {sound.channels} channels at {sound.samplerate} Hz"
        expected = f"at most {MOST_SAMPLES} samples in {MOST_CHANNELS} channels at {RATES[0]} to {RATES[1]} Hz"
        advice = "convert it to 16 kHz WAV, or cut it into shorter files"
        raise SoundError(f"{source}: its header declares {found}; expected {expected}: {advice}")
    return frames


def to_mono_16k(
    waveform: Float[Tensor, "C S"] | Float[Tensor, "S"], rate: int, source: object = "waveform"
) -> Float[Tensor, "S2"]:
    """Mean of the channels, resampled to 16 kHz (windowed sinc); errors name the `source`.

    Raises AvsError: a different number of dimensions, samples as in `load_wav`, a rate outside `RATES`, or one that
    shares almost no divisor with 16 kHz, so that the resampling filter would need gigabytes.
    """
    waveform = torch.as_tensor(waveform)
    if waveform.ndim not in (1, 2) or waveform.numel() == 0 or not waveform.is_floating_point():
        expected = "float samples in [-1, 1] of shape [samples] or [channels, samples]"
        raise SoundError(f"{source} is {waveform.dtype} of shape {list(waveform.shape)}; expected {expected}")
    require_scale(waveform, source)
    if int(rate) != rate or not RATES[0] <= rate <= RATES[1] or math.gcd(int(rate), SAMPLE_RATE) < 8:
        expected = f"{RATES[0]} to {RATES[1]} Hz with a divisor of at least 8 in common with {SAMPLE_RATE}"
        advice = "is the file's header right? Convert the sound to 16 kHz first"
        raise SoundError(f"{source}: sample_rate is {rate}; expected {expected}: {advice}")
    if waveform.ndim == 2:
        waveform = waveform.mean(0)
    return torchaudio.functional.resample(waveform.float(), int(rate), SAMPLE_RATE)


def fit_length(waveform: Float[Tensor, "*B S"], samples: int) -> Float[Tensor, "*B samples"]:
    """Cut the end off, or append silence, to get `samples` samples."""
    missing = samples - waveform.shape[-1]
    return torch.nn.functional.pad(waveform, (0, missing)) if missing > 0 else waveform[..., :samples]


def load_clip(path: str | Path | BinaryIO, seconds: int = 5, tolerance: float = 0.5) -> Float[Tensor, "S"]:
    """The first `seconds` seconds of a sound file as 16 kHz mono: exactly `seconds` * 16000 samples.

    Raises AvsError as `load_wav`, and when more than `tolerance` seconds are missing.
    """
    waveform = to_mono_16k(*load_wav(path, seconds + 1), path)
    length = waveform.shape[-1] / SAMPLE_RATE
    if length < seconds - tolerance:
        raise SoundError(f"{path}: lasts {length:.2f} s; expected {seconds} s, one second for each frame of the clip")
    return fit_length(waveform, seconds * SAMPLE_RATE)
