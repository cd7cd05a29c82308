"""What is shown of a segmented video: the result of a step, the letterbox that brings it back, overlay and strip."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion
from torch import Tensor
from torch.nn import functional as F

from avslib.core.errors import UsageError
from avslib.video.reader import BrokenOff, probe, read_video
from avslib.video.tracks import AudioSource, read_sound
from avslib.video.writer import write_video

TINT = (230, 159, 0, 89)  # the orange that predictions have in every figure, at 35 %
BORDER = (124, 116, 104)  # ImageNet's mean colour: 0 after normalisation
KEPT = 640  # pixels of the longer side of what `keep_some` keeps
FASTEST, RATE = 30.0, 44100  # frames and samples of sound per second of an overlay, at most


@dataclass
class Second:
    """What the model says about one second of a video, or about one step where there are several in a second."""

    index: int
    time: float  # in seconds, where the step begins
    image: UInt8[np.ndarray, "H W 3"]  # the frame that was segmented, at the size of the video
    probability: Float[np.ndarray, "H W"]  # that a pixel sounds; the mean over the samples where there are any
    uncertainty: Float[np.ndarray, "H W"] | None = None  # with samples: entropy of it in bits, 0 (sure) to 1 (a coin)
    disagreement: Float[np.ndarray, "H W"] | None = None  # the part of that which the samples do not agree on, in bits
    length: float = 1.0  # in seconds

    @property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        return self.probability > 0.5

    def summary(self) -> dict[str, Any]:
        """Plain numbers for JSON; with samples also the means of `uncertainty` and `disagreement`."""
        mask = self.mask
        box = Image.fromarray(mask).getbbox()
        doubts = {"uncertainty": self.uncertainty, "disagreement": self.disagreement}
        return {
            "second": int(self.time + 1e-6),
            "time": round(self.time, 4),
            "area": round(float(mask.mean()), 5),  # share of the picture that is marked
            "confidence": round(float(self.probability[mask].mean()), 4) if box else None,  # within the mask
            "box": list(box) if box else None,  # left, top, right, bottom in pixels; the last two exclusive
        } | {name: round(float(doubt.mean()), 5) for name, doubt in doubts.items() if doubt is not None}


@dataclass(frozen=True)
class Letterbox:
    """Fits a picture of (height, width) into a square, its aspect ratio kept, and brings maps back.

    >>> Letterbox(1080, 1920, 128).inner, Letterbox(1080, 1920, 128).corner
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
        square = Image.new("RGB", (self.side, self.side), BORDER)
        square.paste(Image.fromarray(image).resize(self.inner[::-1], Image.Resampling.BILINEAR), self.corner[::-1])
        return torch.from_numpy(np.array(square).transpose(2, 0, 1).copy())

    def back(self, maps: Float[Tensor, "N S S"]) -> Float[Tensor, "N H W"]:
        """Maps over the square, cut to the picture and resized to its size."""
        (top, left), (height, width) = self.corner, self.inner
        cut = maps[:, None, top : top + height, left : left + width]
        return F.interpolate(cut, (self.height, self.width), mode="bilinear")[:, 0]


def outlined(mask: Bool[np.ndarray, "H W"], size: tuple[int, int] | None = None) -> Image.Image:
    """A layer for `painted`, of `size` (width, height): the mask in orange, outlined in white and black."""
    mask = np.asarray(Image.fromarray(mask).resize(size or mask.shape[::-1], Image.Resampling.NEAREST))
    thick, cross = max(1, round(min(mask.shape) / 240)), np.ones((3, 3), bool)
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[mask] = TINT
    layer[mask & ~binary_erosion(mask, cross, thick)] = 255
    layer[~mask & binary_dilation(mask, cross, thick)] = 0, 0, 0, 255
    return Image.fromarray(layer)


def painted(image: UInt8[np.ndarray, "H W 3"], layer: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """The picture, at the size of the layer, with the layer on it."""
    picture = Image.fromarray(image).resize(layer.size, Image.Resampling.BILINEAR)
    picture.paste(layer, mask=layer)
    return np.asarray(picture)


def overlay_video(
    video: str | Path,
    seconds: Iterable[Second],
    path: str | Path,
    audio: AudioSource = None,
    longest: int | None = None,
) -> Path:
    """Write the video, at its own frame rate (up to 30) and with its sound, with each step's mask on its frames.

    `seconds` of the same video, in order, are drawn from as the frames need them. A longer side above `longest` pixels
    is made as long. Of a video that breaks off, what there is of it is written. Raises as `probe` and `write_video`.
    """
    info = probe(video)
    fps, longer = min(info.fps or 25.0, FASTEST), max(info.width, info.height)
    size = Letterbox(info.height, info.width, min(longest or longer, longer)).inner[::-1]

    def frames() -> Iterator[np.ndarray]:
        following, end, layer = iter(seconds), 0.0, Image.new("RGBA", size)
        with suppress(BrokenOff):
            for moment in read_video(video, fps, sound=False, phase=0.5):
                new = None
                while end <= moment.start + 0.5 / fps and (second := next(following, None)) is not None:
                    end, new = second.time + second.length, second
                layer = layer if new is None else outlined(new.mask, size)
                yield painted(moment.image, layer)

    return write_video(path, frames(), read_sound(video, RATE, audio), fps, rate=RATE)


def keep_some(seconds: Iterable[Second], kept: list[Second], most: int = 24) -> Iterator[Second]:
    """Pass `seconds` on, and keep at most `most` of them in `kept`: evenly spread, and with smaller pictures."""
    stride = 1
    for count, second in enumerate(seconds):
        if count % stride == 0:
            step = -(-max(second.image.shape[:2]) // KEPT)
            maps = {name: values for name, values in vars(second).items() if isinstance(values, np.ndarray)}
            kept.append(replace(second, **{name: values[::step, ::step].copy() for name, values in maps.items()}))
        if len(kept) > most:
            del kept[1::2]
            stride *= 2
        yield second


def strip_figure(seconds: Sequence[Second], columns: int = 6) -> Any:
    """A matplotlib Figure of `columns` of the `seconds`, evenly spread: frames with their masks, and below them the
    uncertainty in bits, where there is one. Its label says in words what it shows."""
    count = min(columns, len(seconds))
    if not count:
        raise UsageError("strip_figure: there is no second to draw; give the results of predict(...)")
    shown = [seconds[(2 * i + 1) * len(seconds) // (2 * count)] for i in range(count)]
    rows = 1 + (shown[0].uncertainty is not None)
    height, width = shown[0].image.shape[:2]
    size = (1.3 * count + 0.5 * (rows - 1), rows * 1.3 * height / width + 0.25)
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=80, layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    for column, second in zip(axes.T, shown, strict=True):
        column[0].imshow(painted(second.image, outlined(second.mask)))
        column[0].set_title(f"{second.time:.0f} s: {100 * second.mask.mean():.1f} %", fontsize=8, pad=3)
        if rows == 2:
            drawn = column[1].imshow(second.uncertainty, cmap="cividis", vmin=0, vmax=1)
    for axis in axes.flat:
        axis.set_axis_off()
    shares = ", ".join(f"second {s.index}: {100 * s.mask.mean():.1f} %" for s in shown)
    label = f"{count} frames of the video with what sounds outlined; share of pixels marked: {shares}."
    if rows == 2:
        figure.colorbar(drawn, ax=list(axes[1]), label="uncertainty / bit", fraction=0.05, pad=0.01)
        label += " Below each the uncertainty, bright where the model is unsure."
    figure.set_label(label)
    return figure
