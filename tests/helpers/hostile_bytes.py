"""Parts of files made to harm: bombs of a few bytes, headers that lie, archives that lead elsewhere."""

import hashlib
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.fuzz.seeds import INDEX


class RunsCode:
    def __reduce__(self):
        return os.system, ("echo harmed",)


LAUGHS = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(12)
)
MERGES = b"a: &a {x: 1}\n" + b"".join(
    b"%c: &%c {<<: [%s]}\n" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(12)
)
# a pair of a pair of a pair, 60 deep, as a key: its hash is taken 2**60 times
HASHES = b"\x80\x02}K\x01" + b"q\x00h\x00\x86" * 60 + b"K\x01s."
TENSOR = b"\x80\x02ctorch\nTensor\n\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85R."


def sparse(size: int) -> Callable[[Path], None]:
    """A file of `size` zeros that takes no room."""
    return lambda path: path.write_bytes(b"") or os.truncate(path, size)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *more: bytes, rows: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join((chunk(b"IHDR", header), *more, chunk(b"IDAT", rows), chunk(b"IEND", b"")))


def many_scans() -> bytes:
    """A progressive JPEG of 36 million pixels whose last scan comes 3,000 times."""
    stream = io.BytesIO()
    Image.new("RGB", (6000, 6000)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 3000 + data[-2:]


def wav(channels: int = 1, rate: int = 16000, size: int = 2**32 - 9, bits: int = 16) -> bytes:
    block = channels * bits // 8
    header = struct.pack("<HHIIHH", 1, channels % 2**16, rate, rate * block % 2**32, block % 2**16, bits)
    return (
        b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<I", 16) + header + b"data" + struct.pack("<I", size) + bytes(64)
    )


def flac(rate: int, samples: int) -> bytes:
    """A FLAC file that declares `samples` samples and holds none."""
    packed_fields = (rate << 44) | (0 << 41) | (15 << 36) | samples
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + packed_fields.to_bytes(8, "big") + bytes(16)
    return b"fLaC\x80\0\0\x22" + info


def y4m(width: int, height: int) -> bytes:
    """An uncompressed video of one frame, most of which is missing."""
    return f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420jpeg\nFRAME\n".encode() + bytes(10_000)


def torch_file(content: bytes, compression: int = zipfile.ZIP_STORED, storage: bytes = bytes(64)) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as stream:
        for name, data in (("a/data.pkl", content), ("a/byteorder", b"little"), ("a/data/0", storage)):
            stream.writestr(name, data)
    return out.getvalue()


def packed_folder(data: bytes, **changes: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        one = {"file": "test-000000.tar", "sha256": hashlib.sha256(data).hexdigest(), "clips": 1} | changes
        path.with_name("test-000000.tar").write_bytes(data)
        index = INDEX | {"frames": 1, "splits": {"test": {"shards": [one], "names": ["clip_0"]}}}
        path.write_text(json.dumps(index))

    return write


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info
