"""What the model says about one second of a video, and the letterbox between the video's frames and the network."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

BORDER = (124, 116, 104)  # ImageNet's mean colour: 0 after normalisation
KEPT = 640  # pixels of the longer side of what `keep_some` keeps


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
