"""Frames and masks from files that may be damaged, of a different size, or hostile."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from avslib.core.errors import PictureError
from avslib.core.parsing import first_line, read_bytes

LARGEST_PICTURE = 64 * 10**6  # pixels; larger ones are decompression bombs, or not frames; decoded within 10 s
LARGEST_FILE = 256 * 2**20  # bytes: `LARGEST_PICTURE` in 32 bits, not compressed
MOST_SCANS = 100  # of a progressive JPEG, which has 10: each costs a pass over all pixels, and takes 10 bytes


def _open(path: Path | BinaryIO, wanted: tuple[int, int] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """A decoded picture and its own (height, width); a JPEG much larger than `wanted` is decoded smaller."""
    data = path.read() if hasattr(path, "read") else read_bytes(path, LARGEST_FILE, PictureError, "a PNG or JPEG")
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        size = picture.height, picture.width
        if size[0] * size[1] > LARGEST_PICTURE:
            raise PictureError(f"{path}: has {size[1]}x{size[0]} pixels, more than {LARGEST_PICTURE}; resize it")
        if picture.format != "PNG" and data.count(b"\xff\xda") > MOST_SCANS:
            raise PictureError(f"{path}: has more than {MOST_SCANS} scans, which no camera writes; save it again")
        if wanted:
            picture.draft("RGB", wanted[::-1])
        picture.load()
        return picture, size
    except (PictureError, MemoryError):  # running out of memory is not the file's fault
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise PictureError(
            f"{path}: truncated, or not a PNG or JPEG picture ({first_line(error)}); get the file again"
        ) from error


def read_frame(
    path: Path | BinaryIO, image_size: tuple[int, int] | None = None
) -> tuple[UInt8[np.ndarray, "H W 3"], tuple[int, int]]:
    """A frame as uint8 [H, W, 3], resized bilinearly to `image_size`, and its size on disk (height, width)."""
    picture, size = _open(path, image_size)
    picture = picture.convert("RGB")
    if image_size and picture.size != image_size[::-1]:
        picture = picture.resize(image_size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(picture), size


def read_mask(
    path: Path | BinaryIO, image_size: tuple[int, int] | None = None
) -> tuple[UInt8[np.ndarray, "H W"], tuple[int, int]]:
    """A mask as uint8 0/1 [H, W], resized to the nearest pixel, and its size on disk. AvsError when not binary."""
    picture, size = _open(path)
    values = np.asarray(picture.convert("L"))
    if not _is_binary(values) and picture.mode == "P":
        values = np.asarray(picture)  # a coloured palette: the indices are the labels
    if not _is_binary(values):
        found = np.flatnonzero(np.bincount(values.ravel()))[:6].tolist()
        raise PictureError(f"{path}: the mask is not binary, it holds the values {found}; expected 0 and 255 only")
    mask = (values > 0).astype(np.uint8)
    if image_size and size != image_size:
        mask = np.asarray(Image.fromarray(mask).resize(image_size[::-1], Image.Resampling.NEAREST))
    return mask, size


def _is_binary(values: np.ndarray) -> bool:
    on = values > 0
    return bool((values[on] == 255).all() or (values[on] == 1).all())


def require_same_size(mask_path: Path | BinaryIO, mask_size: tuple[int, int], frame_size: tuple[int, int]) -> None:
    """Raise AvsError unless a mask and its frame, both (height, width), agree."""
    if mask_size != frame_size:
        raise PictureError(
            f"{mask_path}: the mask has {mask_size[1]}x{mask_size[0]} pixels and its frame "
            f"{frame_size[1]}x{frame_size[0]}; expected the same size"
        )
