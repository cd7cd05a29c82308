"""Windows over a video: the steps that are segmented, a pass for each phase of the second, windows and their joints.

A model is trained on one frame and one second of sound a step. At more steps a second, r, each r-th step makes a pass
of its own, one frame a second as in training, and the r passes are read off in turn. A step's sound is the second that
ends with the step (in the first second: that whole second): in training too the frame lies at the end of its second.

All of it is a chain of generators: memory depends on windows, steps a second and sizes, not on the video's length.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from avslib.audio import SAMPLE_RATE
from avslib.calibration import entropy, entropy_parts
from avslib.core.errors import UsageError
from avslib.video.overlay import Letterbox, Second
from avslib.video.reader import BrokenOff, Moment, VideoInfo, probe, read_video

# sharing 1, 2 or 4 s moved J on 60 s of Mini-AVS clips by +0.008, -0.003 and +0.005, at up to 5 times the cost
OVERLAP = 0
SIZES = (32, 2048)  # side of the network's square, in pixels


def predict_video(
    predictor: Any,
    video: str | Path,
    audio: str | Path | None = None,
    samples: int = 0,
    seed: int = 0,
    fps: int | str = 1,
    size: int | None = None,
    overlap: int = OVERLAP,
    progress: bool = False,
) -> Iterator[Second]:
    """See :meth:`avslib.video.predictor.Predictor.predict`."""
    frames, side = predictor.model.config.data.frames, predictor.image_size if size is None else size
    if samples < 0:
        raise UsageError(f"samples is {samples}; expected 0 (the mean code) or how many codes to draw")
    if isinstance(side, bool) or not isinstance(side, int) or side % 32 or not SIZES[0] <= side <= SIZES[1]:
        raise UsageError(f"size is {side}; expected a multiple of 32 from {SIZES[0]} to {SIZES[1]}, such as 224 or 384")
    if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap < frames:
        raise UsageError(f"overlap is {overlap}; expected 0 to {frames - 1} s, as a window is {frames} s long")
    info = probe(video)
    rate = steps_a_second(fps, info, video)
    source = _Source(read_video(video, rate, audio=audio))
    segment = _Segmenter(predictor, samples, seed)
    passes = max(1, round(rate))
    maps = _in_turn(_steps(source, side, passes), segment, passes, frames, frames - overlap)
    seconds = _results(maps, source, (m.image for m in read_video(video, rate, sound=False)), side, rate)
    if not progress:
        return seconds
    from rich.progress import track

    total = math.ceil(info.seconds * rate) if info.seconds else None
    return track(seconds, "segmenting", total=total, transient=True)


def steps_a_second(fps: int | str, info: VideoInfo, video: str | Path = "the video") -> float:
    """Steps a second that `fps` asks for: a whole number up to the file's own frame rate, or "native", that rate.

    Raises:
        AvsError: anything else.
    """
    own = max(1.0, info.fps or 25.0)
    if str(fps) == "native":
        return own
    whole = int(fps) if str(fps).isdecimal() else 0
    if whole < 1 or (whole > 1 and whole > own + 0.1):
        raise UsageError(f"fps is {fps}; expected native or a whole number from 1 to {own:.3g}, the rate of {video}")
    return float(whole)


class _Source:
    """The moments of a video; where it breaks off they end, and `broken` keeps the reason for later."""

    def __init__(self, moments: Iterator[Moment]) -> None:
        self.moments, self.broken = moments, None

    def __iter__(self) -> Iterator[Moment]:
        try:
            yield from self.moments
        except BrokenOff as error:
            self.broken = error


@dataclass
class _Step:
    """What the network is given at one step: the fitted picture and one second of sound, 16 kHz."""

    image: UInt8[Tensor, "3 S S"]
    sound: Float[np.ndarray, "16000"]


def _steps(moments: Iterable[Moment], side: int, rate: int) -> Iterator[_Step]:
    """Each step with the second of sound that ends with it; `rate` steps make the first second."""
    tail, early = np.zeros(0, np.float32), []
    for moment in moments:
        tail = np.concatenate([tail, moment.sound])[-SAMPLE_RATE:]
        image = Letterbox(*moment.image.shape[:2], side).fit(moment.image)
        if moment.index < rate - 1:
            early.append(image)
            continue
        # at a rate such as 29.97, `rate` steps may be a little less than a second
        sound = tail if len(tail) == SAMPLE_RATE else np.pad(tail, (0, SAMPLE_RATE - len(tail)))
        for picture in chain(early, [image]):
            yield _Step(picture, sound)
        early = []
    if early:
        sound = np.pad(tail, (0, SAMPLE_RATE - len(tail)))
        yield from (_Step(picture, sound) for picture in early)


class _Segmenter:
    """A window of steps to maps that may be averaged: the probability; with samples also the expected entropy."""

    def __init__(self, predictor: Any, samples: int, seed: int) -> None:
        self.predictor, self.samples, self.seed = predictor, samples, seed

    def __call__(self, window: list[_Step]) -> Float[Tensor, "T M S S"]:
        image = torch.stack([step.image for step in window])
        waveform = torch.from_numpy(np.concatenate([step.sound for step in window]))
        sound = self.predictor.embed(waveform, len(window))
        try:
            if not self.samples:
                return self.predictor(image, sound)[:, None]
            drawn = self.predictor.samples(image, sound, self.samples, self.seed)
        except AssertionError as error:  # backbones that were built for one size
            name = self.predictor.model.config.model.backbone
            side = image.shape[-1]
            raise UsageError(f"size: backbone {name} does not run at {side} ({error}); leave size out") from error
        return torch.stack([drawn.mean(0), entropy_parts(drawn)[1]], dim=1)


class _Pass:
    """Windows over one step a second: `length` steps each, one every `hop`, the last one reaching back to the end.

    Where windows overlap, their maps are averaged with the weights of a triangle: 1, 2, 3, 2, 1.
    """

    def __init__(self, segment: _Segmenter, length: int, hop: int) -> None:
        self.segment, self.length, self.hop = segment, length, hop
        self.window: list[_Step] = []
        self.count, self.next_end, self.done = 0, length, 0
        self.pending: dict[int, tuple[int, Tensor]] = {}

    def push(self, step: _Step) -> Iterator[Float[Tensor, "M S S"]]:
        """Take a step; give the maps of those that no later window covers."""
        self.window = [*self.window, step][-self.length :]
        self.count += 1
        if self.count == self.next_end:
            self._add()
            self.next_end += self.hop
            yield from self._ready(self.count - self.length + self.hop)

    def finish(self) -> Iterator[Float[Tensor, "M S S"]]:
        """The rest."""
        if self.done + len(self.pending) < self.count:
            self._add()
        yield from self._ready(self.count)

    def _add(self) -> None:
        size, first = len(self.window), self.count - len(self.window)
        for i, maps in enumerate(self.segment(self.window)):
            if first + i >= self.done:
                weight = min(i + 1, size - i)
                before, mean = self.pending.get(first + i, (0, maps))
                # a mean that moves: where one window is alone its maps stay as they are, to the bit
                self.pending[first + i] = before + weight, torch.lerp(mean, maps, weight / (before + weight))

    def _ready(self, end: int) -> Iterator[Float[Tensor, "M S S"]]:
        while self.done < end:
            self.done += 1
            yield self.pending.pop(self.done - 1)[1]


def _in_turn(
    steps: Iterator[_Step], segment: _Segmenter, rate: int, length: int, hop: int
) -> Iterator[Float[Tensor, "M S S"]]:
    """The maps of all steps in their order, from `rate` passes."""
    passes = [_Pass(segment, length, hop) for _ in range(rate)]
    queues: list[list[Tensor]] = [[] for _ in passes]
    given = 0
    for index, step in enumerate(steps):
        queues[index % rate] += passes[index % rate].push(step)
        while queues[given % rate]:
            yield queues[given % rate].pop(0)
            given += 1
    for queue, one in zip(queues, passes, strict=True):
        queue += one.finish()
    while queues[given % rate]:
        yield queues[given % rate].pop(0)
        given += 1


def _results(
    maps: Iterator[Float[Tensor, "M S S"]], source: _Source, images: Iterator[np.ndarray], side: int, rate: float
) -> Iterator[Second]:
    """Maps back on the pictures, which are read a second time: waiting for their windows they would fill the memory."""
    for index, values in enumerate(maps):
        if len(values) == 2:
            total = entropy(values[0])
            values = torch.stack([values[0], total, (total - values[1]).clamp(min=0)])
        image = next(images)
        full = Letterbox(*image.shape[:2], side).back(values).numpy()
        yield Second(index, index / rate, image, *full, length=1 / rate)
    if source.broken:
        raise source.broken
