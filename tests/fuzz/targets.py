"""One function for each reader: takes the bytes of a file, lets only avslib's own errors through, checks what is read.

A target returns True when the reader took the file. Anything else that is raised, a crash, a hang or memory beyond the
limits of `avslib`'s docstrings is a find.
"""

import hashlib
import io
import json
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from unittest import mock

import numpy as np
import torch

from avslib import audio, config
from avslib.audio.vggish import load_vggish
from avslib.core.errors import AvsError
from avslib.data import avsbench, layout, packed, pickles, pictures
from avslib.data.mini import sources as sounding
from avslib.study import run as experiment
from avslib.study.sweep import grid
from avslib.video import reader as video
from avslib.weights.released import load_official
from tools.notebooks import read_parameters

__all__ = ["TARGETS"]

FOLDER = tempfile.TemporaryDirectory(prefix="avslib-fuzz-")


def _file(name: str, data: bytes) -> Path:
    path = Path(FOLDER.name, name)
    path.write_bytes(data)
    return path


def fuzz_csv(data: bytes) -> None:
    """Whatever the csv says, the files of a clip lie below the data folder."""
    path = _file("meta.csv", data)
    for task in layout.LAYOUTS:
        with suppress(AvsError):
            for row in layout.read_csv(path, task, ("start", "video")):
                for part in layout.clip_folders(task, row)[:2]:
                    assert not part.is_absolute() and ".." not in part.parts, part
                    assert not PureWindowsPath(part).drive and len(PurePosixPath(part).parts) <= 3, part
                with suppress(AvsError):
                    layout.make_clip(Path(FOLDER.name), task, row)


def fuzz_skip(data: bytes) -> None:
    with suppress(AvsError):
        names = avsbench.read_skip_list(_file("skip.txt", data))
        assert all(name.rstrip() == name for name in names)


def fuzz_yaml(data: bytes) -> None:
    """Configuration, grid and notebook parameters; what is accepted as a configuration is written and read again."""
    path = _file("any.yaml", data)
    with suppress(AvsError):
        found = config.load_config(path)
        assert config.load_config("mini", _flat(found.model_dump(mode="json"))).model == found.model
    with suppress(AvsError):
        grid.load_grid(path)
    with suppress(AvsError):
        read_parameters(path)
    with suppress(AvsError, UnicodeDecodeError):
        config.load_config("mini", [data.decode()[:200]])


def _flat(values: dict) -> dict:
    return {f"{s}.{k}": v for s, fields in values.items() if isinstance(fields, dict) for k, v in fields.items()}


def fuzz_png(data: bytes) -> None:
    """As it is, and with its checksums mended, so that the decoder gets to see what was changed."""
    for version in (data, with_right_sums(data)):
        _read_picture(_file("a.png", version))


def fuzz_jpeg(data: bytes) -> None:
    _read_picture(_file("a.jpg", data))


def _read_picture(path: Path) -> None:
    with suppress(AvsError):
        image, size = pictures.read_frame(path, (16, 12))
        assert image.shape == (16, 12, 3) and image.dtype == np.uint8 and min(size) > 0
    with suppress(AvsError):
        mask, _ = pictures.read_mask(path, (16, 12))
        assert mask.shape == (16, 12) and mask.max() <= 1
    with suppress(AvsError):
        pictures.read_frame(path)


def with_right_sums(data: bytes) -> bytes:
    """A PNG whose chunks have the CRCs of what they hold."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, at)
        if at + 12 + length > len(out):
            break
        struct.pack_into(">I", out, at + 8 + length, zlib.crc32(out[at + 4 : at + 8 + length]))
        at += 12 + length
    return bytes(out)


def fuzz_wav(data: bytes) -> None:
    """By path and from open bytes."""
    path = _file("a.wav", data)
    for source in (path, io.BytesIO(data)):
        with suppress(AvsError):
            waveform, rate = audio.load_wav(source)
            assert waveform.ndim == 2 and waveform.numel() and torch.isfinite(waveform).all() and rate > 0
    with suppress(AvsError):
        assert audio.load_clip(path, 1).shape == (audio.SAMPLE_RATE,)


def fuzz_video(data: bytes) -> None:
    """Header, pictures and sound, as far as 20 steps."""
    path = _file("a.mp4", data)
    with suppress(AvsError):
        info = video.probe(path)
        assert info.width * info.height > 0
    with suppress(AvsError):
        for moment in islice(video.read_video(path, 2.0), 20):
            assert moment.image.ndim == 3 and len(moment.sound) == audio.SAMPLE_RATE // 2
            assert np.isfinite(moment.sound).all()
    with suppress(AvsError):
        for block in islice(video.read_sound(path), 200):
            assert np.isfinite(block).all()


def fuzz_pickle(data: bytes) -> None:
    path = _file("a.pkl", data)
    with suppress(AvsError):
        assert isinstance(pickles.unpickle_tensor(path), torch.Tensor)
    with suppress(AvsError):
        assert pickles.load_log_mel(path).shape == (5, 1, 96, 64)


def fuzz_safetensors(data: bytes) -> None:
    path = _file("a.safetensors", data)
    for source in (path, io.BytesIO(data)):
        with suppress(AvsError):
            assert pickles.load_log_mel(source, 1).shape == (1, 1, 96, 64)
    with suppress(AvsError):
        load_vggish(path)


def fuzz_weights(data: bytes) -> None:
    """A released state dict, as a file and as what the file's pickle says."""
    for version in (data, _as_torch_file(data)):
        path = _file("a.pth", version)
        with suppress(AvsError):
            load_official(path)
        with suppress(AvsError):
            load_vggish(path)


def _as_torch_file(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as stream:
        for name, content in (
            ("a/data.pkl", data),
            ("a/byteorder", b"little"),
            ("a/data/0", bytes(64)),
            ("a/version", b"3\n"),
        ):
            stream.writestr(name, content)
    return out.getvalue()


def fuzz_index(data: bytes) -> None:
    _file("index.json", data)
    with suppress(AvsError):
        clips = packed.PackedClips(FOLDER.name, "test", 16, 1)
        for _ in islice(clips, 3):
            pass


def fuzz_shard(data: bytes) -> None:
    """A tar file whose index gives its right checksum; as it is, and with the checksums of its headers mended."""
    for version in (data, with_right_headers(data)):
        _file("test-000000.tar", version)
        shard = {
            "file": "test-000000.tar",
            "sha256": hashlib.sha256(version).hexdigest(),
            "bytes": len(version),
            "clips": 1,
        }
        index = {
            "format": "avslib-packed-1",
            "task": "s4",
            "frames": 1,
            "splits": {"test": {"shards": [shard], "names": ["clip_0"]}},
        }
        _file("index.json", json.dumps(index).encode())
        with suppress(AvsError):
            clips = packed.PackedClips(FOLDER.name, "test", 16, 1)
            for item in clips:
                assert item["image"].shape == (1, 3, 16, 16)
        with suppress(AvsError):
            for sound in packed.PackedClips(FOLDER.name, "test", 16, 1).sounds():
                sound.log_mel()


def with_right_headers(data: bytes) -> bytes:
    """A tar file whose headers have the checksums of what they say."""
    out = bytearray(data)
    for at in range(0, len(out) - 511, 512):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out)


def fuzz_manifest(data: bytes) -> None:
    """manifest.json of a Mini-AVS build beside the csv of one clip."""
    root = Path(FOLDER.name)
    _file("manifest.json", data)
    _file("s4_meta_data.csv", b"name,category,split\nclip_0,drum,test\n")
    dataset = mock.Mock(clips=[mock.Mock(**{"category": "drum"})], frames=5)
    dataset.clips[0].name = "clip_0"
    with suppress(AvsError):
        experiment.dataset_info(root, "s4")
    with suppress(AvsError):
        sounding.read_labels(root, dataset)


TARGETS: dict[str, Callable[[bytes], None]] = {
    name.removeprefix("fuzz_"): value for name, value in dict(globals()).items() if name.startswith("fuzz_")
}
warnings.simplefilter("ignore")
