"""Sound in: waveforms at 16 kHz, log-mel patches, and the frozen encoders SoundNet and VGGish."""

from avslib.audio.logmel import FFT, HOP, MEL_HIGH_HZ, MEL_LOW_HZ, MELS, PATCH, WINDOW, log_mel, mel_filterbank
from avslib.audio.waveforms import (
    MOST_CHANNELS,
    MOST_SAMPLES,
    RATES,
    SAMPLE_RATE,
    fit_length,
    load_clip,
    load_wav,
    to_mono_16k,
)

__all__ = [
    "FFT",
    "HOP",
    "MELS",
    "MEL_HIGH_HZ",
    "MEL_LOW_HZ",
    "MOST_CHANNELS",
    "MOST_SAMPLES",
    "PATCH",
    "RATES",
    "SAMPLE_RATE",
    "WINDOW",
    "fit_length",
    "load_clip",
    "load_wav",
    "log_mel",
    "mel_filterbank",
    "to_mono_16k",
]
