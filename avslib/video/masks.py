"""The masks of a prediction on disk, in one of three forms: a PNG each, arrays in a zip file, or COCO's run lengths."""

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image

from avslib.core.errors import UsageError
from avslib.core.files import atomic_path
from avslib.video.overlay import Second

FORMS = ("png", "npz", "rle")


@contextmanager
def mask_files(form: str, out: Path, digits: int) -> Iterator[Callable[[Second], None]]:
    """A function that writes the mask of a step; the single file of npz and rle gets its name at the end."""
    if form == "png":
        yield lambda s: write_grey(out / "masks" / f"{s.index:0{digits}d}.png", s.mask * np.uint8(255))
    elif form == "npz":
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


def masks_in(form: str, out: Path) -> Iterator[Bool[np.ndarray, "H W"]]:
    """The masks that `mask_files` wrote, in their order. A damaged file raises many kinds of error."""
    if form == "png":
        yield from (
            np.asarray(Image.open(path)) > 0
            for path in sorted(out.glob("masks/[0-9]*.png"), key=lambda path: int(path.stem))
        )
    elif form == "npz":
        with np.load(out / "masks.npz") as arrays:
            yield from (arrays[name] for name in sorted(arrays.files, key=int))
    else:
        with open(out / "masks.jsonl", encoding="utf-8") as lines:
            yield from (rle_decode(row["counts"], row["size"]) for row in map(json.loads, lines))


def write_grey(path: Path, values: UInt8[np.ndarray, "H W"]) -> None:
    """Write a PNG beside and renamed; the caller flushes the folder."""
    with atomic_path(path, flush=False) as part:
        Image.fromarray(values).save(part, format="png")


def rle_encode(mask: Shaped[np.ndarray, "H W"]) -> list[int]:
    """The ``counts`` of COCO's uncompressed masks (Lin et al., ECCV 2014), which pycocotools reads: lengths of the runs
    of a mask read down its columns; the first run is of zeros and may be empty.

    >>> rle_encode(np.array([[0, 1, 1], [0, 0, 1]])), rle_encode(np.ones((2, 2)))
    ([2, 1, 1, 2], [0, 4])
    """
    flat = np.asarray(mask).astype(bool).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return [0, *counts] if len(flat) and flat[0] else counts


def rle_decode(counts: Sequence[int], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The mask of (height, width) that `rle_encode` counted. Raises AvsError where the counts do not sum up to it.

    >>> rle_decode([2, 1, 1, 2], (2, 3)).astype(int)
    array([[0, 1, 1],
           [0, 0, 1]])
    """
    height, width = size
    lengths = np.asarray(counts, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        wanted = f"counts >= 0 that sum up to {height} x {width} = {height * width}"
        raise UsageError(f"run lengths: expected {wanted}; got a sum of {lengths.sum()}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T
