"""Sound in: reading files, 16 kHz mono, and the log-mel patches that VGGish was trained on."""

import math
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor

from avslib.core.errors import SoundError

__all__ = ["SAMPLE_RATE", "fit_length", "load_clip", "load_wav", "log_mel", "mel_filterbank", "to_mono_16k"]

SAMPLE_RATE = 16000
RATES = (1000, 384_000)  # sample rates of sound hardware; a damaged header says others
MOST_CHANNELS = 32
MOST_SAMPLES = 2**28  # of all channels: 1 GiB as float32, 46 minutes of stereo at 48 kHz
WINDOW, HOP, FFT = 400, 160, 512
MELS, PATCH = 64, 96
MEL_LOW_HZ, MEL_HIGH_HZ = 125.0, 7500.0


def load_wav(path: str | Path | BinaryIO, seconds: float | None = None) -> tuple[Float[Tensor, "C S"], int]:
    """Read a sound file, by path or from its open bytes, as float samples in [-1, 1].

    Any format of libsndfile works where the package `soundfile` is installed (WAV, FLAC, OGG, MP3); without it WAV
    alone is read, by SciPy, with the same result. What the header says is looked at before any sample is read.

    Args:
        seconds: read no more than these from the beginning; None: all.

    Returns:
        waveform [C, S] float32, and its rate in Hz.

    Raises:
        AvsError: the file is missing, not a sound file, empty, or holds samples that are not finite; a rate outside
            `RATES`, more than `MOST_CHANNELS` channels, more than `MOST_SAMPLES` samples to be read.
    """
    opened = hasattr(path, "read")
    if not opened and not Path(path).is_file():
        raise SoundError(f"{path}: no such sound file")
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: the package is there, its libsndfile is not
        samples, rate = _read_with_scipy(path)
        samples = samples[: _frames_to_read(path, *samples.shape, rate, seconds)]
    else:
        try:
            with soundfile.SoundFile(path if opened else str(path)) as sound:
                rate = sound.samplerate
                frames = _frames_to_read(path, sound.frames, sound.channels, rate, seconds)
                samples = sound.read(frames, dtype="float32", always_2d=True)
        except SoundError:
            raise
        except (RuntimeError, ValueError, TypeError) as error:
            raise SoundError(f"{path}: cannot be read as a sound file ({error}); write it as a WAV file") from error
    if samples.size == 0:
        raise SoundError(f"{path}: holds no samples; record or convert it again")
    if not np.isfinite(samples).all():
        raise SoundError(f"{path}: holds samples that are NaN or infinite; convert it again")
    return torch.from_numpy(np.ascontiguousarray(samples.T)), int(rate)


def _frames_to_read(path: str | Path | BinaryIO, frames: int, channels: int, rate: int, seconds: float | None) -> int:
    """Samples of each channel that are wanted of a file whose header says these; none of them are in memory yet."""
    if not RATES[0] <= rate <= RATES[1] or not 1 <= channels <= MOST_CHANNELS:
        raise SoundError(
            f"{path}: its header says {channels} channels of {rate} samples a second; expected up to "
            f"{MOST_CHANNELS}, and {RATES[0]} to {RATES[1]}: convert it to 16 kHz WAV"
        )
    frames = frames if seconds is None else min(frames, math.ceil(seconds * rate))
    if frames * channels > MOST_SAMPLES:
        raise SoundError(
            f"{path}: its header says {frames / rate:.0f} s in {channels} channels; expected at most "
            f"{MOST_SAMPLES} samples: cut it into shorter files"
        )
    return frames


def _read_with_scipy(path: str | Path | BinaryIO) -> tuple[np.ndarray, int]:
    import scipy.io.wavfile

    try:
        rate, samples = scipy.io.wavfile.read(path)
    except Exception as error:  # SciPy raises whatever its parsing meets: struct.error, UnboundLocalError, ValueError
        raise SoundError(
            f"{path}: cannot be read as a WAV file ({error}); other formats need the package "
            "soundfile (pip install soundfile)"
        ) from error
    if samples.dtype.kind == "u":
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    return samples.astype(np.float32).reshape(len(samples), samples.shape[1] if samples.ndim > 1 else 1), rate


def to_mono_16k(waveform: Float[Tensor, "C S"] | Float[Tensor, "S"], rate: int) -> Float[Tensor, "S2"]:
    """Mean of the channels, resampled to 16 kHz (windowed sinc).

    Raises:
        AvsError: another number of dimensions, no samples, samples that are not finite, or a rate outside `RATES`,
            or one whose ratio to 16 kHz is so odd that the resampling filter would need gigabytes.
    """
    waveform = torch.as_tensor(waveform)
    if waveform.ndim not in (1, 2) or waveform.numel() == 0:
        raise SoundError(f"waveform has shape {list(waveform.shape)}; expected [samples] or [channels, samples]")
    if not waveform.is_floating_point():
        raise SoundError(f"waveform is of type {waveform.dtype}; expected float samples in [-1, 1]")
    if not torch.isfinite(waveform).all():
        raise SoundError("waveform holds NaN or infinite samples; read or convert it again")
    if int(rate) != rate or not RATES[0] <= rate <= RATES[1]:
        raise SoundError(
            f"sample_rate is {rate}; expected a whole number of samples a second, {RATES[0]} to {RATES[1]}"
        )
    if SAMPLE_RATE // math.gcd(int(rate), SAMPLE_RATE) > 2000:
        raise SoundError(
            f"sample_rate is {rate}, which has next to no divisor in common with {SAMPLE_RATE}; "
            "is the file's header right? Convert the sound to 16 kHz first"
        )
    if waveform.ndim == 2:
        waveform = waveform.mean(0)
    return torchaudio.functional.resample(waveform.float(), int(rate), SAMPLE_RATE)


def fit_length(waveform: Float[Tensor, "*B S"], samples: int) -> Float[Tensor, "*B samples"]:
    """Crop the end, or append silence, so that `samples` samples remain."""
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


def mel_filterbank() -> Float[Tensor, "257 64"]:
    """VGGish's triangles: linear in mel = 1127 ln(1 + f / 700), 125 to 7500 Hz, height 1, nothing for the DC bin.

    torchaudio's HTK filterbank draws its triangles linear in Hz, which moves the log-mel by about 1e-2.
    """

    def mel(hz):
        return 1127 * np.log1p(np.asarray(hz) / 700)

    bins = mel(np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1))[:, None]
    edges = np.linspace(mel(MEL_LOW_HZ), mel(MEL_HIGH_HZ), MELS + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    bank = np.maximum(0, np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)))
    bank[0] = 0
    return torch.from_numpy(bank).float()


@cache
def _front_end() -> torchaudio.transforms.MelSpectrogram:
    transform = torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE,
        n_fft=FFT,
        win_length=WINDOW,
        hop_length=HOP,
        n_mels=MELS,
        f_min=MEL_LOW_HZ,
        f_max=MEL_HIGH_HZ,
        power=1,
        center=False,
        mel_scale="htk",
        wkwargs={"periodic": True},
    )
    transform.mel_scale.fb.copy_(mel_filterbank())
    return transform


def log_mel(
    waveform: Float[Tensor, "C S"] | Float[Tensor, "S"], sample_rate: int, frames: int | None = None
) -> Float[Tensor, "T 1 96 64"]:
    """VGGish's input: log(mel magnitude + 0.01), one patch of 96 steps of 10 ms for each 0.96 s.

    25 ms periodic Hann windows without centring, FFT 512, magnitude, 64 mel bands; patches do not overlap and what
    is left at the end is dropped (Hershey et al., "CNN Architectures for Large-Scale Audio Classification", 2017).

    Args:
        waveform: samples in [-1, 1]; channels are averaged, other rates resampled.
        sample_rate: of the waveform, in Hz.
        frames: T; the sound is cropped or filled with silence to `frames` seconds, which give `frames` patches up
            to 24 s. None: as many patches as the sound fills (77,040 samples give 5).

    Raises:
        AvsError: as `to_mono_16k`, and when the sound is too short for one patch.
    """
    waveform = to_mono_16k(waveform, sample_rate)
    if frames is not None:
        waveform = fit_length(waveform, frames * SAMPLE_RATE)
    needed = WINDOW + (PATCH - 1) * HOP
    if waveform.shape[-1] < needed:
        raise SoundError(
            f"waveform lasts {waveform.shape[-1] / SAMPLE_RATE:.3f} s; a log-mel patch needs at least "
            f"{needed / SAMPLE_RATE:.3f} s"
        )
    # torch centres the 400-sample window in the 512-sample FFT frame: 56 samples on either side undo it
    margin = (FFT - WINDOW) // 2
    mel = _front_end()(torch.nn.functional.pad(waveform, (margin, margin)).cpu())
    steps = torch.log(mel + 0.01).T
    count = len(steps) // PATCH if frames is None else min(frames, len(steps) // PATCH)
    return steps[: count * PATCH].reshape(count, 1, PATCH, MELS).to(waveform.device)
