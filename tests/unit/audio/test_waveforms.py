"""Reading sound: rates, channels, widths, lengths, bad files."""

import math

import numpy as np
import pytest
import scipy.io.wavfile
import torch

from avslib import audio
from avslib.core.errors import AvsError, SoundError


@pytest.mark.parametrize("rate", [8000, 44100])
def test_other_rates_and_stereo_give_the_same_tone(rate):
    def tone(rate):
        return (0.5 * torch.sin(2 * math.pi * 440 * torch.arange(5 * rate, dtype=torch.float64) / rate)).float()

    stereo = torch.stack([1.5 * tone(rate), 0.5 * tone(rate)])
    mono = audio.to_mono_16k(stereo, rate)
    assert mono.shape == (80000,)
    assert float((mono - tone(16000))[1000:-1000].abs().max()) < 1e-2
    assert float((audio.log_mel(stereo, rate) - audio.log_mel(tone(16000), 16000)).abs()[1:-1].mean()) < 0.05


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float32])
def test_wav_of_any_width_is_read_as_samples_up_to_one(tmp_path, dtype):
    samples = np.random.default_rng(1).uniform(-0.9, 0.9, (1600, 2))
    scale, shift = {np.int16: (2**15, 0), np.int32: (2**31, 0), np.uint8: (128, 128), np.float32: (1, 0)}[dtype]
    scipy.io.wavfile.write(tmp_path / "a.wav", 22050, (samples * scale + shift).astype(dtype))
    found, rate = audio.load_wav(tmp_path / "a.wav")
    assert found.shape == (2, 1600) and rate == 22050
    assert float((found - torch.from_numpy(samples.T)).abs().max()) < 0.01


@pytest.mark.parametrize("content", ["garbage", "nothing", "no samples", "nan", "missing", "cut header"])
def test_bad_files_get_one_sentence_with_their_name(tmp_path, content):
    path = tmp_path / "clip.wav"
    if content == "garbage":
        path.write_bytes(bytes(range(256)) * 20)
    elif content == "nothing":
        path.write_bytes(b"")
    elif content != "missing":
        count = 0 if content == "no samples" else 100
        scipy.io.wavfile.write(path, 16000, np.full(count, np.nan if content == "nan" else 0, np.float32))
        if content == "cut header":
            path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(AvsError, match=r"clip\.wav") as error:
        audio.load_wav(path)
    assert "\n" not in str(error.value)


def test_clip_of_two_seconds_is_refused_and_one_a_little_short_is_filled(tmp_path):
    scipy.io.wavfile.write(tmp_path / "two.wav", 16000, np.zeros(32000, np.int16))
    scipy.io.wavfile.write(tmp_path / "near.wav", 16000, np.full(78000, 1000, np.int16))
    with pytest.raises(AvsError, match=r"two\.wav: lasts 2\.00 s; expected 5 s"):
        audio.load_clip(tmp_path / "two.wav")
    clip = audio.load_clip(tmp_path / "near.wav")
    assert clip.shape == (80000,) and clip[77999] != 0 and (clip[78000:] == 0).all()


@pytest.mark.parametrize("rate", [1, 15999, 44101, 2**31 - 1])
def test_rate_of_a_damaged_header_is_refused_at_once(rate):
    with pytest.raises(AvsError, match="sample_rate is"):
        audio.to_mono_16k(torch.zeros(16000), rate)


@pytest.mark.parametrize("full_scale", [2**7, 2**15, 2**23, 2**31])
def test_float_samples_in_the_scale_of_integers_are_refused(tmp_path, full_scale):
    tone = 0.5 * full_scale * np.sin(np.arange(80_000) / 10)
    scipy.io.wavfile.write(tmp_path / "a.wav", 16000, tone.astype(np.float32))
    with pytest.raises(SoundError, match=rf"a\.wav: its samples reach {full_scale // 2}; expected .* in \[-1, 1\]"):
        audio.load_clip(tmp_path / "a.wav")
    with pytest.raises(SoundError, match="waveform: its samples reach"):
        audio.log_mel(torch.from_numpy(tone), 16000)


def test_a_mix_over_full_scale_is_read_as_it_is(tmp_path):
    tone = (3 * np.sin(np.arange(80_000) / 10)).astype(np.float32)
    scipy.io.wavfile.write(tmp_path / "a.wav", 16000, tone)
    assert torch.equal(audio.load_clip(tmp_path / "a.wav"), torch.from_numpy(tone))
