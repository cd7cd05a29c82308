"""The log-mel patches that VGGish was trained on."""

from functools import cache

import numpy as np
import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor

from avslib.audio.waveforms import SAMPLE_RATE, fit_length, to_mono_16k
from avslib.core.errors import SoundError

WINDOW, HOP, FFT = 400, 160, 512
MELS, PATCH = 64, 96
MEL_LOW_HZ, MEL_HIGH_HZ = 125.0, 7500.0


def mel_filterbank() -> Float[Tensor, "257 64"]:
    """VGGish's triangles: linear in mel = 1127 ln(1 + f / 700), 125 to 7500 Hz, height 1, zero for the DC bin.

    torchaudio's HTK filterbank draws its triangles linear in Hz, which moves the log-mel by about 1e-2.
    """
    bins = 1127 * np.log1p(np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1) / 700)[:, None]
    low, high = 1127 * np.log1p(np.array([MEL_LOW_HZ, MEL_HIGH_HZ]) / 700)
    edges = np.linspace(low, high, MELS + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    bank = np.maximum(0, np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)))
    bank[0] = 0
    return torch.from_numpy(bank).float()


@cache
def _mel_spectrogram() -> torchaudio.transforms.MelSpectrogram:
    transform = torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE, n_fft=FFT, win_length=WINDOW, hop_length=HOP, n_mels=MELS, power=1, center=False
    )
    transform.mel_scale.fb.copy_(mel_filterbank())
    return transform


def log_mel(
    waveform: Float[Tensor, "C S"] | Float[Tensor, "S"], sample_rate: int, frames: int | None = None
) -> Float[Tensor, "T 1 96 64"]:
    """VGGish's input: log(mel magnitude + 0.01), one patch of 96 steps of 10 ms for each 0.96 s.

    25 ms periodic Hann windows without centring, FFT 512, magnitude, 64 mel bands; patches do not overlap, and the
    remainder at the end is dropped (Hershey et al., "CNN Architectures for Large-Scale Audio Classification", 2017).

    Args:
        waveform: samples in [-1, 1]; channels are averaged, other rates (`sample_rate`, in Hz) resampled.
        frames: T; the sound is cut or filled with silence to `frames` seconds, which give `frames` patches up
            to 24 s. None: as many patches as the sound fills (77,040 samples give 5).

    Raises AvsError: as `to_mono_16k`, and when the sound is too short for one patch.
    """
    waveform = to_mono_16k(waveform, sample_rate)
    if frames is not None:
        waveform = fit_length(waveform, frames * SAMPLE_RATE)
    needed = WINDOW + (PATCH - 1) * HOP
    if waveform.shape[-1] < needed:
        lasts = waveform.shape[-1] / SAMPLE_RATE
        raise SoundError(f"waveform lasts {lasts:.3f} s; a log-mel patch needs at least {needed / SAMPLE_RATE:.3f} s")
    # torch centres the 400-sample window in the 512-sample FFT frame: 56 samples on either side undo it
    margin = (FFT - WINDOW) // 2
    mel = _mel_spectrogram()(torch.nn.functional.pad(waveform, (margin, margin)).cpu())
    steps = torch.log(mel + 0.01).T
    count = len(steps) // PATCH if frames is None else min(frames, len(steps) // PATCH)
    return steps[: count * PATCH].reshape(count, 1, PATCH, MELS).to(waveform.device)
