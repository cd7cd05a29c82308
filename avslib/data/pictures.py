"""Frames and masks from files that may be damaged, of a different size, ambiguous or hostile."""

import io
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from avslib.core.errors import PictureError
from avslib.core.parsing import first_line, read_bytes

LARGEST_PICTURE = 64 * 10**6  # pixels; larger ones are decompression bombs, or not frames; decoded within 10 s
LARGEST_FILE = 256 * 2**20  # bytes: `LARGEST_PICTURE` in 32 bits, not compressed
MOST_SCANS = 100  # of a progressive JPEG, which has 10: each costs a pass over all pixels, and takes 10 bytes


def read_frame(
    path: Path | BinaryIO, image_size: tuple[int, int] | None = None
) -> tuple[UInt8[np.ndarray, "H W 3"], tuple[int, int]]:
    """A frame as uint8 [H, W, 3], resized bilinearly to `image_size`, and its size on disk (height, width).

    Raises PictureError on a damaged file, or one with 16 bits per channel or transparent pixels.
    """
    picture, size = _open(path, image_size)
    if picture.has_transparency_data and np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
        raise PictureError(f"{path}: the frame has transparent pixels; export it without transparency")
    picture = picture.convert("RGB")
    if image_size and picture.size != image_size[::-1]:
        picture = picture.resize(image_size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(picture), size


def read_mask(
    path: Path | BinaryIO, image_size: tuple[int, int] | None = None, frame_size: tuple[int, int] | None = None
) -> tuple[UInt8[np.ndarray, "H W"], tuple[int, int]]:
    """A mask as uint8 0/1 [H, W], resized to the nearest pixel, and its size on disk (height, width).

    The object is white or has the value 1, or is the only colour beside black in a palette; what is transparent is
    background. Raises PictureError on a damaged file or one with 16 bits per channel, on a size other than
    `frame_size`, and where more values, colours or half-transparent pixels leave open what the object is.
    """
    picture, size = _open(path)
    try:
        mask = _object(picture)
    except ValueError as error:
        reason = first_line(error)
        raise PictureError(f"{path}: the mask {reason}; expected 0 and 255 only, in a grey picture of 8 bits") from None
    if frame_size and size != frame_size:
        expected = f"its frame {frame_size[1]}x{frame_size[0]}; expected the same size"
        raise PictureError(f"{path}: the mask has {size[1]}x{size[0]} pixels and {expected}")
    if image_size and size != image_size:
        mask = np.asarray(Image.fromarray(mask).resize(image_size[::-1], Image.Resampling.NEAREST))
    return mask, size


def _open(path: Path | BinaryIO, wanted: tuple[int, int] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """A decoded picture and its own (height, width); a JPEG much larger than `wanted` is decoded smaller."""
    data = path.read() if hasattr(path, "read") else read_bytes(path, LARGEST_FILE, PictureError, "a PNG or JPEG")
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        size = (picture.height, picture.width)
        if size[0] * size[1] > LARGEST_PICTURE:
            raise PictureError(f"{path}: has {size[1]}x{size[0]} pixels, more than {LARGEST_PICTURE}; resize it")
        if picture.format == "PNG" and data[24] == 16:  # of which Pillow would clip or drop some
            raise PictureError(f"{path}: has 16 bits per channel; save it with 8")
        if picture.format != "PNG" and data.count(b"\xff\xda") > MOST_SCANS:
            raise PictureError(f"{path}: has more than {MOST_SCANS} scans, which no camera writes; save it again")
        if wanted:
            picture.draft("RGB", wanted[::-1])
        picture.load()
        if picture.mode == "P" and picture.palette is None:
            raise ValueError("its palette is missing")
        if _turned(picture):  # some programs turn it as it says, others do not
            raise PictureError(f"{path}: its EXIF orientation rotates or mirrors it; save it upright, without one")
        return picture, size
    except (PictureError, MemoryError):  # running out of memory is not the file's fault
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        why = f"truncated, or not a PNG or JPEG picture ({first_line(error)})"
        raise PictureError(f"{path}: {why}; get the file again") from error


def _turned(picture: Image.Image) -> bool:
    with suppress(Exception):  # damaged EXIF, which no program follows
        return picture.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    return False


def _object(picture: Image.Image) -> UInt8[np.ndarray, "H W"]:
    """1 where a mask's object is. Raises ValueError where that cannot be known, or PIL cannot convert the picture."""
    if picture.mode in ("1", "L") and not picture.has_transparency_data:
        return _binary(np.asarray(picture.convert("L")))
    rgba = np.asarray(picture.convert("RGBA"))
    opaque = rgba[..., 3] == 255
    if rgba[..., 3][~opaque].any():
        raise ValueError("has half-transparent pixels")
    colours = rgba[..., :3] * opaque[..., None]  # transparent pixels may hide any colour
    values = colours.max(-1)
    if not opaque.all() and opaque.any() and not values.any():
        raise ValueError("is black where it is opaque, and transparent elsewhere")
    if picture.mode == "P":
        lit = {entry[:3] for _, entry in picture.convert("RGBA").getcolors() if entry[3] and any(entry[:3])}
        if len(picture.getcolors()) > 1 and len(lit) != 1:
            raise ValueError(f"is not binary, its palette has the colours {sorted(lit)[:6]} beside black")
        return values.astype(bool).astype(np.uint8)
    if (colours != values[..., None]).any():
        raise ValueError("is coloured")
    return _binary(values)


def _binary(values: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    mask = values > 0
    if (top := values.max()) not in (0, 1, 255) or (values[mask] != top).any():
        found = np.flatnonzero(np.bincount(values.ravel()))[:6].tolist()
        raise ValueError(f"is not binary, it holds the values {found}")
    return mask.astype(np.uint8)
