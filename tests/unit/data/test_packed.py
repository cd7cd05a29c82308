"""Packed clips: the reader's items to the bit, each clip once, any number of workers and processes, damage by name."""

import json
import shutil
import tarfile

import fsspec
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from avslib.audio import log_mel
from avslib.audio.encoders import build_audio_encoder
from avslib.cli import app
from avslib.config import load_config
from avslib.core.errors import AvsError
from avslib.data.avsbench import AVSBench
from avslib.data.embeddings import embed_dataset
from avslib.data.loading import FlippedClips, train_loader
from avslib.data.packed import PackedClips, pack, read_index
from avslib.data.pickles import convert_audio
from avslib.training.loop import train
from avslib.training.state import RunState
from tests.helpers.avsbench_folder import write_avsbench
from tests.helpers.tiny import TINY

CLIPS = 11


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_avsbench(tmp_path_factory.mktemp("avsbench"), splits=("train", "val"), per_split=CLIPS)


@pytest.fixture(scope="module", params=["s4", "ms3"])
def packed(request, root, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "packed"
    pack(root, out, request.param, shard_mb=0.6, progress=False)  # four clips a shard, and three in the last
    return out


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(v, second[k]) and v.dtype == second[k].dtype if isinstance(v, torch.Tensor) else v == second[k]
        for k, v in first.items()
    )


def names(items):
    return [item["name"] for item in items]


def every_name(source, world=1, epoch=0, buffer=128, **options):
    """Names in the order in which each process reads them."""
    found = []
    for rank in range(world):
        clips = PackedClips(source, "train", 32, shuffle=True, **options)
        clips.rank, clips.world, clips.buffer = rank, world, buffer
        found.append(names(map(clips.decode, clips.samples(epoch))))
        assert len(found[-1]) == len(clips) == CLIPS // world
    return [name for part in found for name in part]


@pytest.mark.parametrize("split", ["train", "val"])
def test_items_are_those_of_the_loose_files_to_the_bit(root, packed, split):
    task = read_index(packed).task
    loose = AVSBench(root, task, split, 48, mask_size=32)
    audio = {clip.name: torch.rand(5, 8) for clip in loose.clips}
    loose = loose.with_audio(audio)
    stream = PackedClips(packed, split, 48).with_audio(audio)
    stream.mask_size = 32, 32
    assert stream.names == [clip.name for clip in loose.clips] and len(stream) == CLIPS
    assert all(same(item, loose[i]) for i, item in enumerate(stream))


def test_shards_hold_the_files_byte_for_byte_and_packing_repeats(root, packed, tmp_path):
    index = read_index(packed)
    shards = index.splits["train"].shards
    assert [shard.clips for shard in shards] == [4, 4, 3]
    assert [shard.bytes for shard in shards] == [(packed / shard.file).stat().st_size for shard in shards]
    clip = AVSBench(root, index.task, "train").clips[0]
    with tarfile.open(packed / shards[0].file) as tar:
        files = {m.name.partition(".")[2]: tar.extractfile(m).read() for m in tar if m.name.startswith("00000000")}
    assert files["frame_5.png"] == clip.frame_paths[4].read_bytes() and files["wav"] == clip.wav_path.read_bytes()
    assert files["mask_1.png"] == clip.mask_paths[0].read_bytes()
    assert ("mask_2.png" in files) == (index.task == "ms3")
    assert json.loads(files["json"])["category"] == clip.category
    assert pack(root, tmp_path / "again", index.task, shard_mb=0.6, progress=False) == index


@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_clip_comes_once_over_processes(packed, world):
    found, left_out = every_name(packed, world), CLIPS % world
    assert len(set(found)) == len(found) == CLIPS - left_out


def test_order_is_a_function_of_seed_and_epoch(packed):
    first = every_name(packed, seed=3, buffer=4)
    assert first == every_name(packed, seed=3, buffer=4) != PackedClips(packed, "train").names
    others = [every_name(packed, seed=3, buffer=4, epoch=1), every_name(packed, seed=4, buffer=4)]
    assert first not in others and all(sorted(other) == sorted(first) for other in others)


def test_workers_that_stay_see_the_epoch(packed):
    task = read_index(packed).task
    config = load_config("mini", {"data.workers": 2, "data.task": task, "data.flip_probability": 0.5}).data
    clips, seen = PackedClips(packed, "train", 32, shuffle=True), []
    loader = train_loader(clips, config, 2, seed=1)
    for loader.sampler.epoch in range(2):
        seen.append({n: image for batch in loader for n, image in zip(batch["name"], batch["image"], strict=True)})
    plain = dict(zip(clips.names, PackedClips(packed, "train", 32), strict=True))
    flips = FlippedClips(clips, config, 1)
    assert list(seen[0]) != list(seen[1])
    for epoch, images in enumerate(seen):
        assert len(images) == 10  # only whole batches
        for name, image in images.items():
            assert torch.equal(image, flips.flip(dict(plain[name]), epoch, clips.names.index(name))["image"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("world", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(packed, world):
    def batches(workers, rank):
        values = {"data.workers": workers, "data.task": read_index(packed).task, "data.flip_probability": 0.5}
        clips = PackedClips(packed, "train", 32, shuffle=True)
        clips.rank, clips.world, clips.buffer = rank, world, 4
        loader, found = train_loader(clips, load_config("mini", values).data, 2, seed=1), []
        for loader.sampler.epoch in range(2):
            found += list(loader)
        return found

    for rank in range(world):
        expected = batches(0, rank)
        assert len(expected) == 2 * (CLIPS // world // 2)
        for workers in (1, 2, 3):
            assert all(same(*pair) for pair in zip(batches(workers, rank), expected, strict=True))


def test_each_shard_is_read_once_for_any_number_of_workers(packed, monkeypatch):
    from avslib.data import packed as module

    opened, fetch = [], module._fetch
    monkeypatch.setattr(module, "_fetch", lambda source, file, most: opened.append(file) or fetch(source, file, most))
    config = load_config("mini", {"data.workers": 2, "data.task": read_index(packed).task}).data
    list(train_loader(PackedClips(packed, "train", 32, shuffle=True), config, 2, seed=1))
    read = sorted(file for file in opened if file.endswith(".tar"))
    assert read == [shard.file for shard in read_index(packed).splits["train"].shards]


@pytest.mark.parametrize("url", ["memory", "file", "simplecache"])
def test_any_fsspec_url(packed, url):
    expected = PackedClips(packed, "val").names
    source = {"file": packed.as_uri(), "simplecache": f"simplecache::{packed.as_uri()}"}.get(url)
    if url == "memory":
        source = f"memory://{packed.parent.name}"
        fsspec.filesystem("memory").put(f"{packed}/", source, recursive=True)
    assert names(PackedClips(source, "val")) == expected


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "swapped"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_damaged_shard_is_named(packed, tmp_path, damage, shuffle):
    copy = shutil.copytree(packed, tmp_path / "copy")
    shard = copy / "train-000001.tar"
    data = bytearray(shard.read_bytes())
    if damage == "bit":
        data[len(data) - 3000] ^= 1  # in the padding, or in a file that the items do not hold
    shard.write_bytes(bytes(data[: len(data) // 2]) if damage == "cut" else bytes(data))
    if damage == "gone":
        shard.unlink()
    if damage == "swapped":
        shutil.copy(copy / "train-000000.tar", shard)
    with pytest.raises(AvsError, match=r"train-000001\.tar.*(copy|pack)"):
        names(PackedClips(copy, "train", 32, shuffle=shuffle))
    assert len(names(PackedClips(copy, "val", 32))) == CLIPS


def test_embeddings_are_those_of_the_loose_files(root, packed, tmp_path):
    encoder, task = build_audio_encoder("soundnet", None), read_index(packed).task
    clips = PackedClips(packed, "val")
    expected = embed_dataset(AVSBench(root, task, "val"), encoder, tmp_path / "a", progress=False)
    for _ in range(2):  # computed, then kept
        assert same(embed_dataset(clips, encoder, tmp_path / "b", progress=False), expected)


def test_log_mel_pickles_are_packed_as_safetensors(tmp_path):
    import pickle

    root = write_avsbench(tmp_path / "data", splits=("test",), per_split=1)
    dataset = AVSBench(root, "s4", "test")
    patches, wav = log_mel(dataset.waveform(0), 16000, 5), dataset.clips[0].wav_path
    target = root / "Single-source/s4_data/audio_log_mel/test/dog" / f"{wav.stem}.pkl"
    target.parent.mkdir(parents=True)
    target.write_bytes(pickle.dumps(patches.requires_grad_()))
    wav.unlink()
    for _ in range(2):  # from the pickle, then from what became of it
        pack(root, tmp_path / "packed", "s4", progress=False)
        (sound,) = PackedClips(tmp_path / "packed", "test").sounds()
        assert sound.wav is None and torch.equal(sound.log_mel(), patches)
        shutil.rmtree(tmp_path / "packed")
        convert_audio(root, progress=False)


def test_what_cannot_be_packed_or_read(root, packed, tmp_path):
    with pytest.raises(AvsError, match="not an empty folder"):
        pack(root, packed, "s4")
    with pytest.raises(AvsError, match="no clip of split 'tset'"):
        pack(root, tmp_path / "new", "s4", ["tset"])
    for source, split, words in (
        (tmp_path, "train", r"index\.json: cannot be read"),
        (packed, "tset", "it has train, val"),
        ("nowhere://x", "train", "Protocol not known"),
    ):
        with pytest.raises(AvsError, match=words):
            PackedClips(source, split)
    with pytest.raises(AvsError, match="packed with 5 frames"):
        PackedClips(packed, "train", frames=6)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(AvsError, match="not written by avs data pack"):
        read_index(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.json"]


def test_training_sees_every_packed_clip_once_an_epoch(mini_data, tmp_path, monkeypatch):
    from avslib.data import loading

    pack(mini_data, tmp_path / "packed", "s4", ["train"], shard_mb=0.2, progress=False)
    seen, flip = [], loading.FlippedClips.flip
    monkeypatch.setattr(
        loading.FlippedClips,
        "flip",
        lambda self, item, epoch, index: seen.append((epoch, index)) or flip(self, item, epoch, index),
    )
    values = TINY | {"data.root": str(mini_data), "data.packed": str(tmp_path / "packed")}
    trained = train(load_config("mini", values), tmp_path / "run", progress=False)
    assert sorted(seen) == [(epoch, clip) for epoch in range(2) for clip in range(8)]
    save = RunState.save

    def save_and_stop(self, *args):
        save(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunState, "save", save_and_stop)  # after step 3 of 4 of the first epoch
        train(load_config("mini", values), tmp_path / "stopped", progress=False)
    values["data.workers"] = 2
    again = train(load_config("mini", values), tmp_path / "stopped", resume=True, progress=False)
    assert same(*(load_file(t.checkpoint / "model.safetensors") for t in (trained, again)))
    with pytest.raises(AvsError, match="avs data pack --skip"):
        train(load_config("mini", values | {"data.max_clips": 2}), tmp_path / "other", progress=False)


def test_command(root, tmp_path):
    (tmp_path / "skip.txt").write_text("clip-train-0_0\n")
    arguments = ["data", "pack", root, tmp_path / "out", "--split", "train", "--skip", tmp_path / "skip.txt", "-q"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--measure"])
    assert result.exit_code == 0, result.output
    assert "10 clips in 1 shards" in result.output and "packed / loose" in result.output
