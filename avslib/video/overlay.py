"""What is shown of a segmented video: the result of a second, the letterbox that brings it back, and the overlay."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from avslib.video.reader import BrokenOff, Moment, probe, read_sound, read_video
from avslib.video.writer import SOUND_RATES, write_video

TINT = (230, 159, 0)  # the orange that predictions have in every figure
BORDER = (124, 116, 104)  # ImageNet's mean colour: 0 after normalisation
FASTEST = 30.0  # frames a second of an overlay


@dataclass
class Second:
    """What the model says about one second of a video, or about one step where there are several a second.

    Attributes:
        index, time: which step, and where it begins, in seconds.
        image: the frame that was segmented, at the size of the video.
        probability: that a pixel sounds, [H, W]; the mean over the samples where there are any.
        uncertainty: entropy of `probability` in bits, 0 (sure) to 1 (a coin); None without samples.
        disagreement: the part of it that the samples do not agree on, in bits; None without samples.
        length: of the step, in seconds.
    """

    index: int
    time: float
    image: UInt8[np.ndarray, "H W 3"]
    probability: Float[np.ndarray, "H W"]
    uncertainty: Float[np.ndarray, "H W"] | None = None
    disagreement: Float[np.ndarray, "H W"] | None = None
    length: float = 1.0

    @property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        return self.probability > 0.5

    def summary(self) -> dict[str, Any]:
        """Plain numbers for JSON.

        second: the one that the step lies in; time: where the step begins, in seconds; area: share of the picture that
        is marked; confidence: mean probability within the mask (null when it is empty); box: [left, top, right, bottom]
        in pixels, right and bottom exclusive (null when empty); with samples uncertainty and disagreement: mean over
        the picture, in bits.
        """
        mask = self.mask
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        values = {
            "second": int(self.time + 1e-6),
            "time": round(self.time, 4),
            "area": round(float(mask.mean()), 5),
            "confidence": round(float(self.probability[mask].mean()), 4) if mask.any() else None,
            "box": [int(x) for x in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)] if mask.any() else None,
        }
        for name in ("uncertainty", "disagreement"):
            if getattr(self, name) is not None:
                values[name] = round(float(getattr(self, name).mean()), 5)
        return values


@dataclass(frozen=True)
class Letterbox:
    """Fits a picture of (height, width) into a square, its aspect ratio kept, and brings maps back.

    Example:
        >>> box = Letterbox(360, 640, 128)
        >>> box.inner, box.corner
        ((72, 128), (28, 0))
    """

    height: int
    width: int
    side: int

    @property
    def inner(self) -> tuple[int, int]:
        """(height, width) of the picture within the square."""
        scale = self.side / max(self.height, self.width)
        return max(1, round(self.height * scale)), max(1, round(self.width * scale))

    @property
    def corner(self) -> tuple[int, int]:
        """(top, left) of the picture within the square."""
        return (self.side - self.inner[0]) // 2, (self.side - self.inner[1]) // 2

    def fit(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[Tensor, "3 S S"]:
        """The picture, resized as the data set's frames are, on a square of ImageNet's mean colour."""
        (top, left), (height, width) = self.corner, self.inner
        square = Image.new("RGB", (self.side, self.side), BORDER)
        picture = Image.fromarray(image)
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        square.paste(picture, (left, top))
        return torch.from_numpy(np.array(square).transpose(2, 0, 1).copy())

    def back(self, maps: Float[Tensor, "N S S"]) -> Float[Tensor, "N H W"]:
        """Maps over the square, cut to the picture and resized to its size."""
        (top, left), (height, width) = self.corner, self.inner
        cut = maps[:, None, top : top + height, left : left + width]
        size = (self.height, self.width)
        return cut[:, 0] if size == (height, width) else F.interpolate(cut, size, mode="bilinear")[:, 0]


def paint(
    image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"], alpha: float = 0.35
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with the mask tinted orange and outlined in white and black, so that it is seen on any ground."""
    return _painted(image, mask, *_outline(mask), alpha)


def _outline(mask: Bool[np.ndarray, "H W"]) -> tuple[Bool[np.ndarray, "H W"], Bool[np.ndarray, "H W"]]:
    """The white line within the mask, and the black one around it."""
    from scipy.ndimage import binary_dilation, binary_erosion

    thick, cross = max(1, round(min(mask.shape) / 240)), np.ones((3, 3), bool)
    return mask & ~binary_erosion(mask, cross, thick), ~mask & binary_dilation(mask, cross, thick)


def _painted(
    image: UInt8[np.ndarray, "H W 3"], mask: np.ndarray, white: np.ndarray, black: np.ndarray, alpha: float = 0.35
) -> UInt8[np.ndarray, "H W 3"]:
    painted = image.copy()
    tinted = (1 - alpha) * image[mask].astype(np.float32) + alpha * np.array(TINT, np.float32)
    painted[mask], painted[white], painted[black] = tinted.round().astype(np.uint8), 255, 0
    return painted


def overlay_video(
    video: str | Path,
    seconds: Iterable[Second],
    path: str | Path,
    audio: str | Path | None = None,
    *,
    longest: int | None = None,
    quality: int = 23,
    partial: bool = False,
) -> Path:
    """Write the video, at its own frame rate (up to 30) and with its sound, with each step's mask on its frames.

    Args:
        seconds: of the same video, in order; may be a generator, which is drawn from as the frames need it.
        path: an .mp4 file.
        audio: another file to take the sound from.
        longest: larger videos are made smaller, so that their longer side has that many pixels.
        quality: see :func:`avslib.video.writer.write_video`.
        partial: True writes what there is of a video that breaks off.

    Raises:
        AvsError: as `read_video` and `write_video`.
    """
    info = probe(video)
    fps = min(info.fps or 25.0, FASTEST)
    scale = min(1.0, (longest or max(info.width, info.height)) / max(info.width, info.height))
    size = max(1, round(info.width * scale)), max(1, round(info.height * scale))

    def frames() -> Iterator[np.ndarray]:
        following = iter(seconds)
        second, mask = None, np.zeros(size[::-1], bool)
        lines = _outline(mask)
        for moment in _moments(video, fps, partial):
            middle, before = moment.start + 0.5 / fps, second
            while second is not _END and (second is None or second.time + second.length <= middle):
                second = next(following, _END)
                mask = mask if second is _END else second.mask
            if second is not before:
                mask = _resized(mask, size)
                lines = _outline(mask)
            yield _painted(_resized(moment.image, size), mask, *lines)

    rate = next((r for r in SOUND_RATES if audio is None and r >= info.sound_rate), 44100)
    sound = read_sound(video if audio is None else audio, rate)
    return write_video(path, frames(), sound, fps, rate=rate, quality=quality)


def _moments(video: str | Path, fps: float, partial: bool) -> Iterator[Moment]:
    try:
        yield from read_video(video, fps, sound=False, phase=0.5)
    except BrokenOff:
        if not partial:
            raise


_END: Any = object()  # after the last second: its mask stays


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if picture.shape[1::-1] == size:
        return picture
    how = Image.Resampling.NEAREST if picture.dtype == bool else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize(size, how))
