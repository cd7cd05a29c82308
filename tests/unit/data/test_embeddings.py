"""Audio embeddings are computed once, found again by content, and never loaded from a damaged file."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from avslib.audio.encoders import AudioEncoder
from avslib.core.errors import AvsError
from avslib.data.avsbench import AVSBench
from avslib.data.embeddings import embed_dataset
from tests.helpers.avsbench_folder import write_avsbench, write_wav


class Loudness(AudioEncoder):
    """An encoder that counts how often it is asked."""

    takes_log_mel = False

    def __init__(self, weights="a"):
        torch.nn.Module.__init__(self)
        self.weights, self.calls = weights, 0

    def fingerprint(self):
        return f"loudness-{self.weights}"

    def embed(self, waveforms, frames):
        self.calls += 1
        return waveforms.reshape(len(waveforms), frames, -1, 16000).abs().mean(3).expand(-1, -1, 4)


class LoudnessOfMel(Loudness):
    takes_log_mel = True

    def embed_log_mel(self, log_mel):
        self.calls += 1
        return log_mel.mean((2, 3, 4))[:, :, None]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_avsbench(tmp_path_factory.mktemp("avsbench"), splits=("test",), per_split=3)


@pytest.fixture
def dataset(pristine, tmp_path):
    return AVSBench(shutil.copytree(pristine, tmp_path / "data"), "s4", "test", image_size=32)


def test_computed_once(dataset, tmp_path):
    encoder = Loudness()
    first = embed_dataset(dataset, encoder, tmp_path / "cache", batch=2, progress=False)
    again = embed_dataset(dataset, encoder, tmp_path / "cache", progress=False)
    assert encoder.calls == 2
    assert list(first) == [clip.name for clip in dataset.clips]
    assert all(torch.equal(first[name], again[name]) for name in first)
    expected = dataset.waveform(1).reshape(5, 16000).abs().mean(1)
    assert torch.allclose(first[dataset.clips[1].name][:, 0], expected)
    item = AVSBench(dataset.folder, "s4", "test", image_size=32).with_audio(first)[1]
    assert torch.equal(item["audio"], first[item["name"]])


def test_other_content_or_weights_are_computed_again(dataset, tmp_path):
    encoder = Loudness()
    first = embed_dataset(dataset, encoder, tmp_path / "cache", progress=False)
    write_wav(dataset.clips[0].wav_path, seed=77)
    second = embed_dataset(dataset, encoder, tmp_path / "cache", progress=False)
    name, other = dataset.clips[0].name, dataset.clips[1].name
    assert encoder.calls == 2
    assert not torch.equal(first[name], second[name]) and torch.equal(first[other], second[other])
    changed = Loudness("b")
    embed_dataset(dataset, changed, tmp_path / "cache", progress=False)
    assert changed.calls == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_cache_is_computed_again(dataset, tmp_path, damage):
    first = embed_dataset(dataset, Loudness(), tmp_path / "cache", progress=False)
    (path,) = (tmp_path / "cache").glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-5] ^= 64
    path.write_bytes({"cut": data[:-40], "flipped": data, "empty": b""}[damage])
    encoder = Loudness()
    with pytest.warns(UserWarning, match="damaged cache, computed again"):
        again = embed_dataset(dataset, encoder, tmp_path / "cache", progress=False)
    assert encoder.calls == 1 and all(torch.equal(first[name], again[name]) for name in first)
    embed_dataset(dataset, encoder, tmp_path / "cache", progress=False)
    assert encoder.calls == 1


def test_nothing_is_left_when_the_encoder_fails(dataset, tmp_path):
    class Broken(Loudness):
        def embed(self, waveforms, frames):
            return super().embed(waveforms, frames) * torch.nan

    with pytest.raises(AvsError, match="not finite"):
        embed_dataset(dataset, Broken(), tmp_path / "cache", progress=False)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def test_log_mel_pickles(dataset, tmp_path):
    for clip in dataset.clips:
        pickled = str(clip.wav_path).replace("audio_wav", "audio_log_mel")[:-3] + "pkl"
        os.makedirs(os.path.dirname(pickled), exist_ok=True)
        with open(pickled, "wb") as stream:
            pickle.dump(torch.full((5, 1, 96, 64), 0.5, requires_grad=True), stream)
        clip.wav_path.unlink()
    dataset = AVSBench(dataset.folder, "s4", "test")
    found = embed_dataset(dataset, LoudnessOfMel(), tmp_path / "cache", progress=False)
    assert found[dataset.clips[0].name].tolist() == [[0.5]] * 5
    with pytest.raises(AvsError, match="has no wav; choose VGGish"):
        embed_dataset(dataset, Loudness("b"), tmp_path / "cache", progress=False)


def test_vggish_takes_the_log_mel_where_there_is_one(dataset, tmp_path):
    """As AVSBench's own pipeline does: a whole pickle beside a wav that is too short."""
    patches, wav = torch.rand(5, 1, 96, 64), dataset.clips[1].wav_path
    write_wav(wav, 3.9)
    pickled = Path(str(wav).replace("audio_wav", "audio_log_mel")).with_suffix(".pkl")
    pickled.parent.mkdir(parents=True)
    pickled.write_bytes(pickle.dumps(patches))
    dataset = AVSBench(dataset.folder, "s4", "test")
    found = list(embed_dataset(dataset, LoudnessOfMel(), tmp_path / "cache", progress=False).values())
    assert torch.equal(found[1], patches.mean((1, 2, 3))[:, None])
    assert torch.equal(found[0], dataset.log_mel(0).mean((1, 2, 3))[:, None])
    with pytest.raises(AvsError, match=r"3\.90 s"):
        embed_dataset(dataset, Loudness(), tmp_path / "cache", progress=False)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(96 * 64, 7))
    network.dim = 7
    encoder = AudioEncoder("vggish", network)
    assert torch.equal(encoder.embed_log_mel(patches[None])[0], network(patches))


def test_unwritable_cache_still_gives_embeddings(dataset, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="not cached"):
        found = embed_dataset(dataset, Loudness(), tmp_path / "cache", progress=False)
    assert len(found) == 3
