"""Masks for a whole video file: letterbox, windows of a clip's length, results by the second, overlay and files.

All of it is a chain of generators: memory does not grow with the length of the video.
"""

import json
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

from avslib.calibration import entropy_parts
from avslib.errors import AvsError
from avslib.files import atomic_path
from avslib.video import SOUND_RATES, Moment, probe, read_sound, read_video, write_video

__all__ = ["Letterbox", "Second", "overlay_video", "paint", "predict_video", "write_prediction"]

TINT = (230, 159, 0)  # the orange that predictions have in every figure
BORDER = (124, 116, 104)  # ImageNet's mean colour: 0 after normalisation
FASTEST = 30.0  # frames a second of an overlay


@dataclass
class Second:
    """What the model says about one second of a video.

    Attributes:
        index, time: which second, and where it begins.
        image: the frame that was segmented, at the size of the video.
        probability: that a pixel sounds, [H, W]; the mean over the samples where there are any.
        uncertainty: entropy of `probability` in bits, 0 (sure) to 1 (a coin); None without samples.
        disagreement: the part of it that the samples do not agree on, in bits; None without samples.
    """

    index: int
    time: float
    image: UInt8[np.ndarray, "H W 3"]
    probability: Float[np.ndarray, "H W"]
    uncertainty: Float[np.ndarray, "H W"] | None = None
    disagreement: Float[np.ndarray, "H W"] | None = None

    @property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        return self.probability > 0.5

    def summary(self) -> dict[str, Any]:
        """Plain numbers for JSON.

        area: share of the picture that is marked; confidence: mean probability within the mask (null when it is empty);
        box: [left, top, right, bottom] in pixels, right and bottom exclusive (null when empty); with samples
        uncertainty and disagreement: mean over the picture, in bits.
        """
        mask = self.mask
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        values = {
            "second": self.index,
            "time": self.time,
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


def predict_video(
    predictor: Any, video: str | Path, audio: str | Path | None = None, samples: int = 0, seed: int = 0,
    progress: bool = False,
) -> Iterator[Second]:  # fmt: skip
    """See :meth:`avslib.predict.Predictor.predict`."""
    if samples < 0:
        raise AvsError(f"samples is {samples}; expected 0 (the mean code) or how many codes to draw")
    info = probe(video)
    moments = read_video(video, audio=audio)
    seconds = _seconds(predictor, moments, samples, seed)
    if not progress:
        return seconds
    from rich.progress import track

    return track(seconds, "segmenting", total=round(info.seconds) if info.seconds else None, transient=True)


def _seconds(predictor: Any, moments: Iterator[Moment], samples: int, seed: int) -> Iterator[Second]:
    length = predictor.model.config.data.frames
    window: list[Moment] = []
    fresh = 0
    for moment in moments:
        window = [*window, moment][-length:]
        fresh += 1
        if fresh == length:
            yield from _window(predictor, window, fresh, samples, seed)
            fresh = 0
    if fresh:  # the last window reaches back, so that it is as long as those of training wherever the video allows
        yield from _window(predictor, window, fresh, samples, seed)


def _window(predictor: Any, window: list[Moment], fresh: int, samples: int, seed: int) -> Iterator[Second]:
    """Segment a window and give its last `fresh` seconds."""
    box = Letterbox(*window[0].image.shape[:2], predictor.image_size)
    image = torch.stack([box.fit(moment.image) for moment in window])
    sound = predictor.embed(torch.from_numpy(np.concatenate([moment.sound for moment in window])), len(window))
    if samples:
        drawn = predictor.samples(image, sound, samples, seed)
        total, _, information = entropy_parts(drawn)
        maps = [drawn.mean(0), total, information]
    else:
        maps = [predictor(image, sound)]
    for i in range(len(window) - fresh, len(window)):
        full = [box.back(values[i : i + 1])[0].numpy() for values in maps]
        yield Second(window[i].index, window[i].start, window[i].image, *full)


def paint(
    image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"], alpha: float = 0.35
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with the mask tinted orange and outlined in white and black, so that it is seen on any ground."""
    from scipy.ndimage import binary_dilation, binary_erosion

    thick = max(1, round(min(mask.shape) / 240))
    cross = np.ones((3, 3), bool)
    painted = image.astype(np.float32)
    painted[mask] = (1 - alpha) * painted[mask] + alpha * np.array(TINT, np.float32)
    painted[mask & ~binary_erosion(mask, cross, thick)] = 255
    painted[~mask & binary_dilation(mask, cross, thick)] = 0
    return painted.round().astype(np.uint8)


def overlay_video(
    video: str | Path,
    seconds: Iterable[Second],
    path: str | Path,
    audio: str | Path | None = None,
    *,
    longest: int | None = None,
    quality: int = 23,
) -> Path:
    """Write the video, at its own frame rate (up to 30) and with its sound, with each second's mask on its frames.

    Args:
        seconds: of the same video, in order; may be a generator, which is drawn from as the frames need it.
        path: an .mp4 file.
        audio: another file to take the sound from.
        longest: larger videos are made smaller, so that their longer side has that many pixels.
        quality: see :func:`avslib.video.write_video`.

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
        for moment in read_video(video, fps, sound=False, phase=0.5):
            while second is not _END and (second is None or second.index + 1 <= moment.start + 0.5 / fps):
                second = next(following, _END)
                if second is not _END:
                    mask = _resized(second.mask, size)
            yield paint(_resized(moment.image, size), mask)

    rate = next((r for r in SOUND_RATES if audio is None and r >= info.sound_rate), 44100)
    sound = read_sound(video if audio is None else audio, rate)
    return write_video(path, frames(), sound, fps, rate=rate, quality=quality)


_END: Any = object()  # after the last second: its mask stays


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if picture.shape[1::-1] == size:
        return picture
    how = Image.Resampling.NEAREST if picture.dtype == bool else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize(size, how))


def write_prediction(
    predictor: Any,
    video: str | Path,
    out: str | Path,
    audio: str | Path | None = None,
    samples: int = 0,
    seed: int = 0,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Segment a video and write ``overlay.mp4``, ``masks/0000.png`` ... (255 = sounding) and ``predictions.json``.

    With samples, ``uncertainty/0000.png`` too (255 = 1 bit). Nothing is written before the video is known to be
    readable; `predictions.json` comes last, so a folder that has it is whole.

    Returns:
        what `predictions.json` holds under ``seconds``: :meth:`Second.summary` of each.

    Raises:
        AvsError: as :meth:`avslib.predict.Predictor.predict`.
    """
    out, rows = Path(out), []
    if out.exists() and not out.is_dir():
        raise AvsError(f"{out}: is a file; name a folder for the results")
    seconds = predict_video(predictor, video, audio, samples, seed, progress)
    info = probe(video)
    (out / "predictions.json").unlink(missing_ok=True)
    for old in [*out.glob("masks/[0-9]*.png"), *out.glob("uncertainty/[0-9]*.png")]:
        old.unlink()

    def kept() -> Iterator[Second]:
        for second in seconds:
            _picture(out / "masks" / f"{second.index:04d}.png", second.mask * np.uint8(255))
            if second.uncertainty is not None:
                grey = (second.uncertainty * 255).round().astype(np.uint8)
                _picture(out / "uncertainty" / f"{second.index:04d}.png", grey)
            rows.append(second.summary())
            yield second

    results = kept()
    overlay_video(video, results, out / "overlay.mp4", audio)
    for _ in results:  # a tail that is too short for a frame of the overlay
        pass
    content = {"video": Path(video).name, "width": info.width, "height": info.height, "samples": samples,
               "seed": seed, "seconds": rows}  # fmt: skip
    with atomic_path(out / "predictions.json") as part:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return rows


def _picture(path: Path, values: UInt8[np.ndarray, "H W"]) -> None:
    with atomic_path(path) as part:
        Image.fromarray(values).save(part, format="png")
