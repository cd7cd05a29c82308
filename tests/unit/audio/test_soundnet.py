"""The shipped SoundNet encoder: frozen, deterministic, per second, and better than chance on sounds it never heard."""

import json
from importlib import resources

import pytest
import torch
from safetensors.torch import load_file

from avslib.audio.encoders import build_audio_encoder
from avslib.audio.soundnet import SoundNetEmbedding, SoundNetSlice
from avslib.core.errors import AvsError
from avslib.core.files import sha256_file
from avslib.data.mini.assets import CLASSES
from tools.soundnet_score import AS_IN_MINI_AVS, by_centroid, compose, macro_accuracy, statistics
from tools.soundnet_train import SETTINGS, train_head

ASSETS = resources.files("avslib") / "assets" / "soundnet"


@pytest.fixture(scope="module")
def encoder():
    return build_audio_encoder("soundnet")


@pytest.fixture(scope="module")
def noise():
    return 0.1 * torch.randn(3, 80000, generator=torch.Generator().manual_seed(0))


def test_one_row_a_second_not_negative_and_repeatable(encoder, noise):
    rows = encoder.embed(noise, frames=5)
    assert rows.shape == (3, 5, 128) and encoder.dim == 128 and encoder.sample_rate == 16000
    assert (rows >= 0).all() and rows.isfinite().all() and not rows.requires_grad
    assert torch.equal(rows, build_audio_encoder("soundnet").embed(noise, frames=5))
    torch.testing.assert_close(encoder.embed(noise, frames=5, batch_size=1), rows, rtol=1e-4, atol=1e-4)
    assert torch.equal(encoder.network(noise, 5).reshape(3, 5, 128), rows)


@pytest.mark.parametrize(("samples", "frames"), [(80000, 1), (16000, 5), (77200, 5), (160000, 10), (1, 2)])
def test_any_length_is_cropped_or_filled(encoder, samples, frames):
    assert encoder.embed(torch.zeros(1, samples), frames).shape == (1, frames, 128)


def test_silence_is_finite_and_a_second_depends_on_its_surroundings_alone(encoder, noise):
    silence = torch.zeros(1, 80000)
    first = silence.clone()
    first[:, :16000] = noise[:1, :16000]
    quiet, heard = encoder.embed(silence)[0], encoder.embed(first)[0]
    assert quiet.isfinite().all()
    assert float((heard - quiet)[0].norm()) > 0.5
    torch.testing.assert_close(heard[2:], quiet[2:], rtol=1e-4, atol=1e-4)


def test_frozen(encoder):
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_fingerprint_follows_the_weights(encoder):
    other = build_audio_encoder("soundnet")
    assert other.fingerprint() == encoder.fingerprint()
    other.network.mean[0] += 1
    assert other.fingerprint() != encoder.fingerprint()


def test_slice_frames_follow_the_layers_arithmetic(noise):
    features = SoundNetSlice().forward(noise, 5)
    assert features.shape == (3, 5, 3 * (128 + 256))
    mean, peak = features[..., :128], features[..., 128:256]
    assert (peak >= mean).all()


def test_unheard_recordings_of_a_class_are_nearer_to_it_than_chance(encoder):
    rows, labels = {}, {}
    for part in ("train", "test"):
        waveforms, seconds = compose(part, 60, [1], AS_IN_MINI_AVS, seed=5)
        rows[part], labels[part] = encoder.embed(waveforms).flatten(0, 1), seconds.flatten(0, 1)
    for part, floor in (("train", 0.7), ("test", 5 / len(CLASSES))):
        found = by_centroid(rows["train"], labels["train"], rows[part])
        assert macro_accuracy(found, labels[part].argmax(1)) > floor


def test_head_training_learns_the_labels_and_leaves_the_slice_alone():
    pretrained = SoundNetEmbedding.pretrained()
    model = SoundNetEmbedding(hidden=32)
    model.slice = pretrained.slice
    waveforms, labels = compose("train", 24, [1, 2, 0], AS_IN_MINI_AVS, 0)
    rows, labels = statistics(model, waveforms), labels.flatten(0, 1)
    train_head(model, rows, labels, SETTINGS | {"epochs": 60, "batch": 60}, seed=0)
    embedding = model.head(model.standardise(rows))
    assert float(embedding.square().mean()) == pytest.approx(1, rel=1e-3)
    single = labels.sum(1) == 1
    found = by_centroid(embedding[single], labels[single], embedding[single])
    assert macro_accuracy(found, labels[single].argmax(1)) > 0.7
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_shipped_weights_are_the_recorded_ones_with_their_licence():
    record = json.loads((ASSETS / "record.json").read_text(encoding="utf-8"))
    assert record["head_sha256"] == sha256_file(ASSETS / "head.safetensors")
    assert record["slice_sha256"] == sha256_file(ASSETS / "slice.safetensors")
    assert record["scores"]["test"]["centroid_accuracy"] > record["scores"]["test"]["centroid_accuracy_of_statistics"]
    assert "MIT License" in (ASSETS / "LICENSE").read_text(encoding="utf-8")
    weights = [*load_file(ASSETS / "slice.safetensors").values(), *load_file(ASSETS / "head.safetensors").values()]
    assert sum(value.numel() * value.element_size() for value in weights) < 3e6


@pytest.mark.parametrize("waveform", [torch.zeros(80000), torch.zeros(1, 1, 80000), torch.zeros(1, 80000).int()])
def test_other_shapes_and_types_get_one_sentence(waveform):
    with pytest.raises(AvsError, match=r"the batch of waveforms .* expected (\[clips, samples\]|float samples)"):
        SoundNetEmbedding()(waveform)
