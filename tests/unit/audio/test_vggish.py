"""VGGish and the encoders: golden log-mel and embedding, weights, names."""

import json
from pathlib import Path

import numpy as np
import pytest
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
    with pytest.raises(AvsError, match=r"part\.pth .*features\.0\.bias is missing.*extra is unknown"):
        load_vggish(tmp_path / "part.pth")
    (tmp_path / "not.pth").write_bytes(b"not a state dict")
    with pytest.raises(AvsError, match=r"not\.pth"):
        load_vggish(tmp_path / "not.pth")
    with pytest.raises(AvsError, match=r"none\.pth: no such file; expected the state dict"):
        load_vggish(tmp_path / "none.pth")
    with pytest.raises(AvsError, match=r"has shape .* expected"):
        VGGish.forward(torch.nn.Module(), torch.zeros(1, 96, 64))


@pytest.mark.parametrize("arguments", [("wav2vec",), ("vggish",), ("soundnet", "weights.pth")])
def test_build_audio_encoder_names_what_is_wrong(arguments):
    with pytest.raises(AvsError, match=arguments[0]):
        build_audio_encoder(*arguments)
