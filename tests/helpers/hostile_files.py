"""Files made to harm a reader, a few kilobytes each: what writes one, what reads it, and the word of the refusal."""

import gzip
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from avslib import audio, config
from avslib.audio import vggish
from avslib.data import avsbench, layout, packed, pickles, pictures
from avslib.study import run as experiment
from avslib.study.sweep.grid import load_grid
from avslib.video import reader as video
from avslib.weights import released
from avslib.weights.checkpoints import load_checkpoint
from tests.fuzz.seeds import seeds
from tests.helpers.hostile_bytes import (
    HASHES,
    LAUGHS,
    MERGES,
    TENSOR,
    RunsCode,
    chunk,
    flac,
    many_scans,
    member,
    packed_folder,
    pipe,
    png,
    sparse,
    torch_file,
    wav,
    y4m,
)
from tools.notebooks import read_parameters


class Hostile(NamedTuple):
    """A file called `name`: what reads it, what is in it (bytes, or what writes it), and why it is refused."""

    reader: Callable[[Path], object]
    name: str
    content: bytes | Callable[[Path], None]
    words: str


def read_clips(path: Path) -> None:
    list(packed.PackedClips(path.parent, "test", 16, 1))


def s4(path: Path) -> object:
    return layout.read_csv(path, "s4")


def row(name: str, category: str = "dog") -> bytes:
    return b'name,category,split\n"%s","%s",test\n' % (name.encode("utf-8", "surrogatepass"), category.encode())


def frame(path: Path) -> object:
    return pictures.read_frame(path, (32, 32))


def manifest(content: bytes | Callable[[Path], None], words: str) -> Hostile:
    def write(path: Path) -> None:
        path.with_name("s4_meta_data.csv").write_bytes(row("clip_0"))
        content(path) if callable(content) else path.write_bytes(content)

    return Hostile(lambda path: experiment.dataset_info(path.parent, "s4"), "manifest.json", write, words)


def wide_checkpoint(path: Path) -> None:
    path.write_bytes(b"extends: mini\nmodel: {channels: 1000000000}\n")
    path.with_name("model.safetensors").write_bytes(seeds("safetensors")[1])


NAMES = (
    "..",
    ".",
    "",
    "../../etc/passwd",
    "a/../b",
    "/etc/passwd",
    "a\\b",
    "..\\b",
    "C:\\b",
    "C:b",
    "a:b",
    "CON",
    "nul.txt",
    "com1.png",
    "LPT\u00b9",
    "aux .x",
    "a.",
    "a ",
    "a\nb",
    "a\rb",
    "a\tb",
    "a\0b",
    "\x1b[31mred",
    "a\u202egnp",
    "a\u200bb",
    "a\ufeffb",
    "a\u2028b",
    "a" * 201,
    "\u4e2d" * 67,
    "what?",
    "a*",
    "a|b",
    "<a>",
    "$(rm -r)|sh",
    "\ud800",
)
DEEP = 100_000

HOSTILE = {
    **{f"csv name {name[:30]!a}": Hostile(s4, "a.csv", row(name), "plain name|cannot be read") for name in NAMES},
    "csv category": Hostile(s4, "a.csv", row("a", "../.."), "plain name"),
    "csv field of 200 kB": Hostile(s4, "a.csv", row("a" * 200_000), "field larger"),
    "csv of 3 GB": Hostile(s4, "a.csv", sparse(3 * 2**30), "has more than"),
    "csv not UTF-8": Hostile(s4, "a.csv", b"name,category,split\n\xff\xfe,dog,test\n", "UTF-8"),
    "csv name twice at the end": Hostile(
        s4, "a.csv", b"name,category,split\n" + b"".join(b"n%d,d,t\n" % (k % 99_999) for k in range(100_000)), "twice"
    ),
    "csv pipe": Hostile(s4, "a.csv", pipe, "not a regular file"),
    "skip list of 3 GB": Hostile(avsbench.read_skip_list, "a.txt", sparse(3 * 2**30), "has more than"),
    "skip list pipe": Hostile(avsbench.read_skip_list, "a.txt", pipe, "not a regular file"),
    **{
        f"{what} {kind}": Hostile(reader, "a.yaml", content, words)
        for what, reader in (("config", config.load_config), ("grid", load_grid), ("parameters", read_parameters))
        for kind, content, words in (
            ("billion laughs", LAUGHS, "aliases"),
            ("merge bomb", MERGES, "aliases"),
            ("within itself", b"a: &a [*a]", "aliases"),
            ("deep", b"[" * 60_000, "nested too deeply"),
            ("runs code", b"!!python/object/apply:os.system ['echo harmed']", "not valid YAML"),
            ("long number", b"a: " + b"9" * 60_000, "digits"),
            ("no number", b"a: !!int b", "not valid YAML"),
            ("of 3 GB", sparse(3 * 2**30), "has more than"),
            ("not text", b"\xff\xfe\0", "UTF-8"),
            ("pipe", pipe, "not a regular file|no such preset"),
        )
    },
    "config keys": Hostile(config.load_config, "a.yaml", b"model: {1: 2}", "should be strings"),
    "config width": Hostile(config.load_config, "a.yaml", b"model: {latent_dim: 1000000000000}", "latent_dim"),
    "checkpoint of terabytes": Hostile(
        lambda path: load_checkpoint(path.parent), "config.yaml", wide_checkpoint, "channels"
    ),
    "png bomb": Hostile(frame, "a.png", png(60_000, 60_000), "60000x60000|exceeds limit"),
    "png bomb that Pillow warns of": Hostile(frame, "a.png", png(12_000, 12_000), "12000x12000"),
    "png text bomb": Hostile(
        frame, "a.png", png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))), "not a PNG"
    ),
    "png profile bomb": Hostile(
        frame, "a.png", png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8)))), "not a PNG"
    ),
    "png without pixels": Hostile(pictures.read_mask, "a.png", png(8, 8), "not a PNG"),
    "png of no size": Hostile(frame, "a.png", png(0, 0), "not a PNG"),
    "jpeg of 3,000 scans": Hostile(frame, "a.jpg", lambda path: path.write_bytes(many_scans()), "scans"),
    "jpeg scans as a mask": Hostile(pictures.read_mask, "a.png", lambda path: path.write_bytes(many_scans()), "scans"),
    "picture of 3 GB": Hostile(frame, "a.png", sparse(3 * 2**30), "has more than"),
    "picture pipe": Hostile(frame, "a.png", pipe, "not a regular file"),
    "wav of 65,535 channels": Hostile(audio.load_wav, "a.wav", wav(65_535), "channels|sound file"),
    "wav at 4 GHz": Hostile(audio.load_wav, "a.wav", wav(rate=2**32 - 1), "Hz|sound file"),
    "wav at 0 Hz": Hostile(audio.load_wav, "a.wav", wav(rate=0), "Hz|sound file"),
    "wav at 44,101 Hz": Hostile(audio.load_clip, "a.wav", wav(rate=44_101), "sample_rate|samples"),
    "flac of 68 billion samples": Hostile(audio.load_wav, "a.flac", flac(16_000, 2**36 - 1), "samples"),
    "flac of 600 kHz": Hostile(audio.load_wav, "a.flac", flac(600_000, 1000), "Hz|sound file"),
    "sound pipe": Hostile(audio.load_wav, "a.wav", pipe, "no such sound file"),
    "video of 100k x 100k": Hostile(video.probe, "a.mp4", y4m(100_000, 100_000), "video|frame|damaged"),
    "video of 12k x 12k": Hostile(video.probe, "a.mp4", png(12_000, 12_000), "video|frame"),
    "video that lists others": Hostile(video.probe, "a.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n", "no video"),
    "video playlist": Hostile(
        video.probe,
        "a.m3u8",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        "no video",
    ),
    "video session": Hostile(video.probe, "a.sdp", b"v=0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n", "no video"),
    "video sound in 255 channels": Hostile(
        lambda p: list(video.read_sound(p)), "a.wav", wav(255, size=64), "channels|no sound"
    ),
    "pickle that runs code": Hostile(pickles.unpickle_tensor, "a.pkl", pickle.dumps(RunsCode()), "system"),
    "pickle whose hash never ends": Hostile(pickles.unpickle_tensor, "a.pkl", HASHES, "dictionaries"),
    "pickle of objects without end": Hostile(
        pickles.unpickle_tensor, "a.pkl", b"\x80\x02K\x01" + b"2\x86" * 60 + b".", "expected a tensor"
    ),
    "pickle of terabytes": Hostile(pickles.unpickle_tensor, "a.pkl", TENSOR, "torch.Tensor"),
    "pickle nested": Hostile(
        pickles.unpickle_tensor, "a.pkl", b"\x80\x02" + b"K\x01" + b"\x85" * DEEP + b".", "expected a tensor"
    ),
    "pickle memo": Hostile(pickles.unpickle_tensor, "a.pkl", b"\x80\x02K\x01r\xff\xff\xff\xff.", "expected a tensor"),
    "pickle of 3 GB": Hostile(pickles.unpickle_tensor, "a.pkl", sparse(3 * 2**30), "has more than"),
    "pickle with compressed storage": Hostile(
        pickles.unpickle_tensor,
        "a.pkl",
        pickle.dumps(
            type(
                "Storage",
                (),
                {
                    "__reduce__": lambda self: (
                        torch.storage._load_from_bytes,
                        (torch_file(b"\x80\x02}.", zipfile.ZIP_DEFLATED, bytes(10**8)),),
                    )
                },
            )()
        ),
        "more than numbers",
    ),
    "log-mel of a billion patches that are one": Hostile(
        lambda path: pickles.load_log_mel(path)[:0].item(),
        "a.pkl",
        pickle.dumps(torch.full((1,), torch.nan).expand(10**9, 1, 96, 64)),
        "not finite",
    ),
    "weights that run code": Hostile(
        released.load_official, "a.pth", torch_file(pickle.dumps(RunsCode(), 2)), "tensors only"
    ),
    "weights of terabytes": Hostile(vggish.load_vggish, "a.pth", torch_file(TENSOR), "tensors only"),
    "weights compressed": Hostile(
        vggish.load_vggish, "a.pth", torch_file(b"\x80\x02}.", zipfile.ZIP_DEFLATED, bytes(10**8)), "tensors only"
    ),
    "weights of other methods": Hostile(
        released.load_official,
        "a.pth",
        torch_file(b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb."),
        "not ECMVAE's|only",
    ),
    "safetensors header of 2**63 bytes": Hostile(
        pickles.load_log_mel, "a.safetensors", struct.pack("<Q", 2**63) + b"{}", "safetensors"
    ),
    "safetensors nested": Hostile(
        pickles.load_log_mel, "a.safetensors", struct.pack("<Q", DEEP) + b"[" * DEEP, "safetensors"
    ),
    "safetensors of 3 GB": Hostile(pickles.load_log_mel, "a.safetensors", sparse(3 * 2**30), "has more than"),
    "index nested": Hostile(read_clips, "index.json", b"[" * DEEP, "recursion limit"),
    "index that leads elsewhere": Hostile(
        read_clips, "index.json", packed_folder(b"", file="../../etc/passwd"), "pattern"
    ),
    "index of 10**15 clips": Hostile(read_clips, "index.json", packed_folder(b"", clips=10**15), "do not agree"),
    "index of half a clip": Hostile(read_clips, "index.json", packed_folder(b"", clips=0.5), "clips"),
    "index of 3 GB": Hostile(read_clips, "index.json", sparse(3 * 2**30), "has more than"),
    "shard compressed": Hostile(
        read_clips, "index.json", packed_folder(gzip.compress(bytes(10**7), mtime=0)), "damaged"
    ),
    "shard of 8 EB": Hostile(
        read_clips,
        "index.json",
        packed_folder(member("0.json", size=2**63).tobuf(tarfile.GNU_FORMAT) + bytes(1024)),
        "damaged",
    ),
    "manifest nested": manifest(b"[" * DEEP, "nested too deeply"),
    "manifest of a list": manifest(b"[1]", "size and seed"),
    "manifest that leads elsewhere": manifest(b'{"size": "../../x", "seed": 1}', "size and seed"),
    "manifest of 3 GB": manifest(sparse(3 * 2**30), "has more than"),
}
