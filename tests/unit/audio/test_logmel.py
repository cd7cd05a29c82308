"""Reading sound and VGGish: golden figures, an independent filterbank, lengths, rates, bad files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
import torch

from avslib import audio
from avslib.audio.encoders import build_audio_encoder
from avslib.audio.vggish import VGGish, load_vggish
from avslib.core.errors import AvsError
from tests.golden import fill

GOLDEN = Path(__file__).parents[2] / "golden"


def relative(found, expected):
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def vggish_state():
    shapes = json.loads((GOLDEN / "official_vggish_state_dict.json").read_text())
    return {name: torch.from_numpy(fill.tensor("vggish/" + name, tuple(shape))) for name, shape in shapes}


@pytest.fixture(scope="module")
def vggish(vggish_state):
    with torch.device("meta"):
        model = VGGish()
    assert list(model.state_dict()) == list(vggish_state)
    model.load_state_dict(vggish_state, assign=True)
    return model.eval().requires_grad_(False)


def test_golden_log_mel_and_embedding(vggish):
    golden = np.load(GOLDEN / "audio.npz")
    patches = audio.log_mel(torch.from_numpy(fill.waveform()), 16000)
    assert patches.shape == (5, 1, 96, 64)
    assert relative(patches[:, 0], golden["logmel"]) < 1e-4
    assert float((patches[:, 0] - torch.from_numpy(golden["logmel"])).abs().max()) < 1e-3
    assert relative(vggish(patches), golden["embedding"]) < 1e-3


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


def test_load_vggish(tmp_path, vggish, vggish_state):
    torch.save(vggish_state | {"pproc.pca_means": torch.zeros(1)}, tmp_path / "vggish.pth")
    encoder = build_audio_encoder("vggish", tmp_path / "vggish.pth")
    waveform = torch.from_numpy(fill.waveform())
    rows = encoder.embed(waveform[None], frames=5)
    assert rows.shape == (1, 5, 128) and not rows.requires_grad
    assert relative(rows[0], vggish(audio.log_mel(waveform, 16000))) < 1e-5
    assert len(encoder.fingerprint()) == 32


def test_bad_vggish_weights(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1), "extra": torch.zeros(1)}, tmp_path / "part.pth")
    with pytest.raises(AvsError, match=r"part\.pth.*missing: embeddings\.0\.bias.*unexpected: extra"):
        load_vggish(tmp_path / "part.pth")
    (tmp_path / "not.pth").write_bytes(b"not a state dict")
    with pytest.raises(AvsError, match=r"not\.pth"):
        load_vggish(tmp_path / "not.pth")
    with pytest.raises(AvsError, match="no such VGGish weights file"):
        load_vggish(tmp_path / "none.pth")
    with pytest.raises(AvsError, match="expects"):
        VGGish.forward(torch.nn.Module(), torch.zeros(1, 96, 64))


@pytest.mark.parametrize("arguments", [("wav2vec",), ("vggish",), ("soundnet", "weights.pth")])
def test_build_audio_encoder_names_what_is_wrong(arguments):
    with pytest.raises(AvsError, match=arguments[0]):
        build_audio_encoder(*arguments)


@pytest.mark.parametrize("rate", [1, 15999, 44101, 2**31 - 1])
def test_rate_of_a_damaged_header_is_refused_at_once(rate):
    with pytest.raises(AvsError, match="sample_rate is"):
        audio.to_mono_16k(torch.zeros(16000), rate)
