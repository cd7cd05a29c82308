"""Which steps of a video go through the network together, and how their masks are joined.

A model is trained on windows of one frame and one second of sound a second, and is given nothing else: with several
steps in a second, a window takes the k-th step of each second, for every k in turn. A step's sound is the second that
ends with the step (in the first second: that whole second): in training too the frame lies at the end of its second.

All of it is a chain of generators: memory depends on windows, steps a second and sizes, not on the video's length.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avslib.audio import SAMPLE_RATE
from avslib.calibration import entropy, entropy_parts
from avslib.core.errors import UsageError
from avslib.video.overlay import Letterbox, Second
from avslib.video.reader import BrokenOff, Moment, probe, read_video

if TYPE_CHECKING:
    from avslib.video.predictor import Predictor

# sharing 1, 2 or 4 s moved J on 60 s of Mini-AVS clips by +0.008, -0.003 and +0.005, at up to 5 times the cost
OVERLAP = 0
SIZES = range(32, 2049, 32)  # side of the network's square, in pixels

Window = list[tuple[Tensor, np.ndarray]]  # fitted pictures, uint8 [3, S, S], and a second of 16 kHz sound for each


@dataclass(eq=False)
class Prediction:
    """The results of a video: an iterator of `Second` that computes them as they are asked for.

    Its fields are the arguments of :meth:`avslib.video.predictor.Predictor.predict`, which describes them; besides,
    `info` is what the video says about itself, `rate` the steps in a second, `broken` why the video breaks off.
    """

    predictor: "Predictor"
    video: str | Path
    audio: str | Path | int | None = None
    samples: int = 0
    seed: int = 0
    fps: int | str = 1
    size: int | None = None
    overlap: int = OVERLAP
    progress: bool = False

    def __post_init__(self) -> None:
        frames = self.predictor.model.config.data.frames
        self.size = self.predictor.image_size if self.size is None else self.size
        self.info, self.broken = probe(self.video), None
        own = max(1.0, self.info.fps or 25.0)
        whole = int(self.fps) if str(self.fps).isdecimal() else 0
        native, self.rate = self.fps == "native", own if self.fps == "native" else float(whole)
        _require(self.samples >= 0, f"samples is {self.samples}; expected 0 (the mean code) or how many codes to draw")
        fine, expected = type(self.size) is int and self.size in SIZES, f"a multiple of 32 up to {SIZES[-1]}"
        _require(fine, f"size is {self.size}; expected {expected}")
        fine, expected = type(self.overlap) is int and 0 <= self.overlap < frames, f"0 to {frames - 1} s"
        _require(fine, f"overlap is {self.overlap}; expected {expected}, as a window is {frames} s long")
        fine, expected = native or whole == 1 or 1 < whole <= own + 0.1, "native or a whole number from 1 to"
        _require(fine, f"fps is {self.fps}; expected {expected} {own:.3g}, the rate of {self.video}")
        fps = "native" if native else whole
        # waiting for their windows the pictures would fill the memory: they are read a second time
        pictures = read_video(self.video, fps, sound=False)
        groups = self._by_second(read_video(self.video, fps, audio=self.audio))
        self._results = self._read(joined_windows(groups, self._segment, frames, frames - self.overlap), pictures)
        if self.progress:
            from rich.progress import track

            total = math.ceil(self.info.seconds * self.rate) if self.info.seconds else None
            self._results = iter(track(self._results, "segmenting", total=total, transient=True))

    def __iter__(self) -> Iterator[Second]:
        return self._results

    def __next__(self) -> Second:
        return next(self._results)

    def _read(self, joined: Iterator[Tensor], pictures: Iterator[Moment]) -> Iterator[Second]:
        for maps in joined:
            if len(maps) == 2:
                total = entropy(maps[0])
                maps = torch.stack([maps[0], total, (total - maps[1]).clamp(min=0)])
            moment = next(pictures)
            full = Letterbox(*moment.image.shape[:2], self.size).back(maps).numpy()
            yield Second(moment.index, moment.start, moment.image, *full, length=moment.length)
        if self.broken:
            raise self.broken

    def _by_second(self, moments: Iterator[Moment]) -> Iterator[Window]:
        """The steps that begin in the same second."""
        heard = np.zeros(0, np.float32)
        for _, group in groupby(self._readable(moments), key=lambda moment: int(moment.start + 1e-6)):
            steps = []
            for moment in group:
                heard = np.concatenate([heard, moment.sound])[-SAMPLE_RATE:]
                steps.append((Letterbox(*moment.image.shape[:2], self.size).fit(moment.image), heard))
            # within the first second less than a second was heard: its steps are given all of it
            whole = np.pad(heard, (0, SAMPLE_RATE - len(heard)))
            yield [(image, sound if len(sound) == SAMPLE_RATE else whole) for image, sound in steps]

    def _readable(self, moments: Iterator[Moment]) -> Iterator[Moment]:
        try:
            yield from moments
        except BrokenOff as error:  # raised again after the results of all that could be read
            self.broken = error

    def _segment(self, window: Window) -> Float[Tensor, "T M S S"]:
        """Maps that may be averaged: the probability; with samples also the expected entropy."""
        image, sound = torch.stack([image for image, _ in window]), np.concatenate([sound for _, sound in window])
        embedded = self.predictor.embed(torch.from_numpy(sound), len(window))
        try:
            if not self.samples:
                return self.predictor(image, embedded)[:, None]
            drawn = self.predictor.samples(image, embedded, self.samples, self.seed)
        except AssertionError as error:  # backbones that were built for one size
            name = self.predictor.model.config.model.backbone
            raise UsageError(f"size: backbone {name} does not run at {self.size} ({error}); leave size out") from error
        return torch.stack([drawn.mean(0), entropy_parts(drawn)[1]], dim=1)


def _require(fine: bool, sentence: str) -> None:
    if not fine:
        raise UsageError(sentence)


def joined_windows(
    groups: Iterable[list[Any]], segment: Callable[[list[Any]], Float[Tensor, "T M S S"]], length: int, hop: int
) -> Iterator[Float[Tensor, "M S S"]]:
    """The maps of all steps in their order, from windows of `length` seconds, one every `hop`.

    `groups` holds the steps of each second; a window takes the k-th step of each, for every k in turn. The last window
    reaches back to be whole. Where windows overlap, their maps are averaged with the weights of a triangle: 1, 2, 3,
    2, 1.
    """
    recent: list[tuple[int, list[Any]]] = []
    pending: dict[tuple[int, int], tuple[int, Tensor]] = {}  # weight and mean of maps, by second and k
    count = covered = given = 0
    for count, group in enumerate(groups, 1):
        recent = [*recent, (count - 1, group)][-length - 1 :]
        if count >= length and (count - length) % hop == 0:
            _add_windows(pending, recent, covered, segment, length)
            covered, end = count, count - length + hop
            yield from _taken(pending, given, end)
            given = end
    if covered < count:
        _add_windows(pending, recent, covered, segment, length)
    yield from _taken(pending, given, count)


def _add_windows(pending: dict, recent: list, covered: int, segment: Callable, length: int) -> None:
    for k in range(max(len(group) for _, group in recent)):
        # reaches one second further back where the last one has no k-th step
        window = [(number, group[k]) for number, group in recent if k < len(group)][-length:]
        if window[-1][0] < covered:
            continue
        for i, maps in enumerate(segment([step for _, step in window])):
            before, mean = pending.get(key := (window[i][0], k), (0, maps))
            weight = min(i + 1, len(window) - i)
            # a moving mean: where there is only one window its maps stay as they are, to the bit
            pending[key] = before + weight, torch.lerp(mean, maps, weight / (before + weight))


def _taken(pending: dict, first: int, end: int) -> Iterator[Float[Tensor, "M S S"]]:
    for key in sorted(key for key in pending if key[0] < end):
        mean = pending.pop(key)[1]
        if key[0] >= first:  # the last window reached back over the others
            yield mean
