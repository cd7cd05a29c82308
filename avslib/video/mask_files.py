"""The masks of a prediction on disk, in one of three forms: a PNG each, arrays in a zip file, or COCO's run lengths."""

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from avslib.core.files import atomic_path
from avslib.video.overlay import Second
from avslib.video.rle import rle_decode, rle_encode


@contextmanager
def mask_files(kind: str, out: Path, digits: int) -> Iterator[Callable[[Second], None]]:
    """A function that writes the mask of a step; the single file of npz and rle gets its name at the end."""
    if kind == "png":
        yield lambda s: write_grey(out / "masks" / f"{s.index:0{digits}d}.png", s.mask * np.uint8(255))
    elif kind == "npz":
        with atomic_path(out / "masks.npz") as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:

            def add(second: Second) -> None:
                with archive.open(f"{second.index:0{digits}d}.npy", "w") as stream:
                    np.lib.format.write_array(stream, np.ascontiguousarray(second.mask), allow_pickle=False)

            yield add
    else:
        with atomic_path(out / "masks.jsonl") as part, open(part, "w", encoding="utf-8", newline="\n") as stream:

            def add(second: Second) -> None:
                row = {"step": second.index, "time": round(second.time, 4), "size": list(second.mask.shape)}
                stream.write(json.dumps(row | {"counts": rle_encode(second.mask)}) + "\n")

            yield add


def hash_mask(digest: Any, mask: Bool[np.ndarray, "H W"]) -> None:
    """Add a mask to a ``hashlib`` digest."""
    digest.update(repr(mask.shape).encode() + np.packbits(mask != 0).tobytes())


def _png_masks(out: Path) -> Iterator[Bool[np.ndarray, "H W"]]:
    yield from (np.asarray(Image.open(path)) > 0 for path in sorted(out.glob("masks/[0-9]*.png")))


def _npz_masks(out: Path) -> Iterator[Bool[np.ndarray, "H W"]]:
    with np.load(out / "masks.npz") as arrays:
        yield from (arrays[name] for name in sorted(arrays.files))


def _rle_masks(out: Path) -> Iterator[Bool[np.ndarray, "H W"]]:
    with open(out / "masks.jsonl", encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            yield rle_decode(line["counts"], line["size"])


READERS = {"png": _png_masks, "npz": _npz_masks, "rle": _rle_masks}


def write_grey(path: Path, values: UInt8[np.ndarray, "H W"]) -> None:
    """Write a PNG beside and renamed; the caller flushes the folder."""
    with atomic_path(path, flush=False) as part:
        Image.fromarray(values).save(part, format="png")
