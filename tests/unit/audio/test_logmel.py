"""Log-mel patches: an independent filterbank and transform, lengths, bad waveforms."""

import math

import numpy as np
import pytest
import torch

from avslib import audio
from avslib.core.errors import AvsError


def test_filterbank_is_the_formula_bin_by_bin():
    def mel(hz):
        return 1127 * math.log(1 + hz / 700)

    bank = audio.mel_filterbank()
    step = (mel(7500) - mel(125)) / 65
    for frequency in range(257):
        for band in range(64):
            distance = abs(mel(frequency * 8000 / 256) - (mel(125) + step * (band + 1))) / step
            expected = max(0.0, 1 - distance) if frequency else 0.0
            assert float(bank[frequency, band]) == pytest.approx(expected, abs=1e-6)


def test_log_mel_is_the_plain_dft_of_each_window():
    waveform = np.random.default_rng(0).normal(size=16000).astype(np.float32)
    found = audio.log_mel(torch.from_numpy(waveform), 16000)[0, 0]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    for step in (0, 1, 50, 95):
        magnitude = np.abs(np.fft.rfft(waveform[step * 160 : step * 160 + 400] * window, 512))
        expected = np.log(magnitude @ audio.mel_filterbank().numpy() + 0.01)
        np.testing.assert_allclose(found[step], expected, atol=2e-4)


@pytest.mark.parametrize(("samples", "patches"), [(80000, 5), (77200, 5), (77040, 5), (77039, 4), (15600, 1)])
def test_patches_by_length(samples, patches):
    assert len(audio.log_mel(torch.zeros(samples), 16000)) == patches


@pytest.mark.parametrize("samples", [40000, 76800, 80000, 90000])
def test_a_clip_of_five_frames_always_gets_five_patches(samples):
    patches = audio.log_mel(torch.zeros(samples), 16000, frames=5)
    assert patches.shape == (5, 1, 96, 64)
    assert torch.allclose(patches, torch.full_like(patches, math.log(0.01)))


@pytest.mark.parametrize(
    ("waveform", "rate", "words"),
    [
        (torch.zeros(15599), 16000, "at least 0.975 s"),
        (torch.zeros(0), 16000, "shape"),
        (torch.zeros(1, 1, 16000), 16000, "shape"),
        (torch.zeros(16000, dtype=torch.int16), 16000, "float"),
        (torch.full((16000,), torch.nan), 16000, "NaN"),
        (torch.zeros(16000), 0, "sample_rate"),
    ],
)
def test_bad_waveforms(waveform, rate, words):
    with pytest.raises(AvsError, match=words):
        audio.log_mel(waveform, rate)
