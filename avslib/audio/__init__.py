"""Sound in: waveforms at 16 kHz, log-mel patches, and the frozen encoders SoundNet and VGGish."""

from avslib.audio.logmel import log_mel, mel_filterbank
from avslib.audio.waveforms import RATES, SAMPLE_RATE, fit_length, load_clip, load_wav, to_mono_16k
