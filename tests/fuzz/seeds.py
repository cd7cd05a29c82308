"""Small valid files of every kind that avslib reads, made at run time: what fuzzing starts from."""

import io
import json
import pickle
import tarfile
import tempfile
import wave
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save as save_safetensors

__all__ = ["seeds"]

CSV = (
    b"name,start,category,split\n-0cJ_1,1,dog,train\nclip two_5,5,male speech,test\n",
    b'\xef\xbb\xbfvideo_id,split,video\r\n"a,""b""_0",val,a.mp4\r\n\xe4\xb8\xad_2,test,\r\n',
)
YAML = (
    b"extends: mini\ntrain: {epochs: 3, lr: 1e-4, precision: bf16}\nmodel: {image_size: 96}\n",
    b"model:\n  image_encoder_channels: [4, 4, 4, 4, 4]\n  latent_dim: 4\ndata:\n  root: null\n",
    b"preset: mini\nvariants: {ecmvae: {}, no_mi: {loss.mi: 0}}\ntasks: [s4, ms3]\nseeds: 3\n"
    b"axes: {model.latent_dim: [8, 16]}\ndata: {mini: tiny, seed: 0}\n",
    b"all: {SEED: 1, OUT_DIR: here}\n'07': {EPOCHS: 2}\n? [1, 2]\n: 0x1F\n",
    b"a: &a {k: !!int 1}\nb: {<<: *a, d: 2026-11-23, t: 1:30, f: .inf, s: |\n  text\n}\n",
)
INDEX = {
    "format": "avslib-packed-1",
    "task": "s4",
    "frames": 5,
    "splits": {
        "test": {
            "shards": [{"file": "test-000000.tar", "sha256": "0" * 64, "bytes": 10240, "clips": 1}],
            "names": ["clip_0"],
        }
    },
}
MANIFEST = {
    "version": 1,
    "size": "tiny",
    "seed": 0,
    "image_size": 64,
    "assets": "0" * 16,
    "clips": [
        {
            "name": "clip_0",
            "task": "s4",
            "split": "test",
            "index": 0,
            "category": "drum",
            "sources": [{"category": "drum", "on": [True] * 5}],
            "objects": [{"category": "drum"}],
        }
    ],
}


def _picture(mode: str, side: int = 8) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    values[: side // 2] = 255
    return Image.fromarray(values).convert(mode)


def _saved(picture: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, **options)
    return stream.getvalue()


def _png() -> list[bytes]:
    text = PngInfo()
    text.add_text("Comment", "a" * 200, zip=True)
    found = [_saved(_picture(mode), format="PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    found.append(_saved(Image.fromarray(np.zeros((8, 8), np.uint16)), format="PNG"))
    found.append(_saved(_picture("P"), format="PNG", transparency=b"\x00\x80", pnginfo=text))
    found.append(_saved(_picture("RGB"), format="PNG", save_all=True, append_images=[_picture("RGB")]))
    return found


def _jpeg() -> list[bytes]:
    plain = [_saved(_picture(mode, 16), format="JPEG") for mode in ("L", "RGB", "CMYK")]
    return [*plain, _saved(_picture("RGB", 16), format="JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")]


def _wav() -> list[bytes]:
    plain = io.BytesIO()
    with wave.open(plain, "wb") as stream:
        stream.setnchannels(2)
        stream.setsampwidth(2)
        stream.setframerate(16000)
        stream.writeframes(bytes(range(256)) * 2)
    return [plain.getvalue()]


def _sound() -> list[bytes]:
    """The formats of libsndfile too."""
    import soundfile

    samples, found = np.sin(np.arange(400) / 5).astype(np.float32), _wav()
    kinds = (
        ("WAV", "PCM_U8"),
        ("WAV", "PCM_24"),
        ("WAV", "FLOAT"),
        ("WAV", "IMA_ADPCM"),
        ("WAVEX", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("MP3", "MPEG_LAYER_III"),
        ("AIFF", "PCM_16"),
    )
    for kind, subtype in kinds:
        stream = io.BytesIO()
        soundfile.write(stream, samples, 16000, format=kind, subtype=subtype)
        found.append(stream.getvalue())
    return found


def _pickle() -> list[bytes]:
    patch = torch.zeros(1).expand(5, 1, 96, 64)  # one number in the file
    values = (patch, torch.arange(6.0).view(2, 3), torch.nn.Parameter(torch.zeros(2)), {"a": (1, "b", None)})
    return [pickle.dumps(value, protocol) for value in values for protocol in (0, 2, 4)]


def _weights() -> list[bytes]:
    state, found = {"encoder.layer1.0.weight": torch.arange(4.0), "epoch": 3, "lr": [1e-4]}, []
    for value, new in ((state, True), (state, False), (torch.zeros(1).expand(3, 4), True)):
        stream = io.BytesIO()
        torch.save(value, stream, _use_new_zipfile_serialization=new)
        found.append(stream.getvalue())
    return found


def _safetensors() -> list[bytes]:
    shapes = {"log_mel": (1, 1, 96, 64)}
    found = [save_safetensors({k: torch.zeros(s, dtype=torch.float16) for k, s in shapes.items()})]
    return [*found, save_safetensors({"log_mel": torch.zeros(2, 2)}, {"by": "hand"})]


def _video() -> list[bytes]:
    from avslib.video.overlay_video import write_video

    pictures = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 32 * 32 * 3).reshape(5, 32, 32, 3)
    sound = np.sin(np.arange(16000) / 9).astype(np.float32) / 4
    with tempfile.TemporaryDirectory() as folder:
        found = [write_video(Path(folder) / "a.mp4", pictures, sound, 4).read_bytes()]
        found += [_copied(Path(folder) / "a.mp4", Path(folder) / f"b.{ending}") for ending in ("mkv", "ts")]
    return found


def _copied(source: Path, target: Path) -> bytes:
    """The same packets in another container."""
    import av

    with av.open(str(source)) as given, av.open(str(target), "w") as out:
        tracks = {stream.index: out.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = tracks[packet.stream_index]
                out.mux(packet)
    return target.read_bytes()


def shard() -> bytes:
    """A packed clip of one frame."""
    names = {
        "json": json.dumps({"name": "clip_0", "category": "dog", "annotated": [True]}).encode(),
        "frame_1.png": _saved(_picture("RGB"), format="PNG"),
        "mask_1.png": _saved(_picture("1"), format="PNG"),
        "wav": _wav()[0],
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in names.items():
            member = tarfile.TarInfo(f"00000000.{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "csv": lambda: list(CSV),
    "index": lambda: [json.dumps(INDEX).encode()],
    "jpeg": _jpeg,
    "manifest": lambda: [json.dumps(MANIFEST).encode()],
    "pickle": _pickle,
    "png": _png,
    "safetensors": _safetensors,
    "shard": lambda: [shard()],
    "skip": lambda: [b"# left out\nclip_0\n\n  clip two_5\r\n"],
    "video": _video,
    "wav": _sound,
    "weights": _weights,
    "yaml": lambda: list(YAML),
}


@cache
def seeds(name: str) -> tuple[bytes, ...]:
    """The valid files of one reader."""
    return tuple(SEEDS[name]())
