"""The sound of a media file as a stream: 16 kHz mono, placed by its time stamps on the clock of the pictures."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from avslib.audio import RATES, SAMPLE_RATE
from avslib.core.errors import VideoError
from avslib.video.container import LONGEST_STILL, opened, sound_track, timed

LIP_SYNC = 20  # sound is moved where its time stamps are off by more than 1/20 s; less is rounding in the file

AudioSource = str | Path | int | None  # a file, or the number of a sound track, from 1; None: the default track
Samples = Float[np.ndarray, "_"]


def read_sound(
    path: str | Path, rate: int = SAMPLE_RATE, audio: AudioSource = None, start: float = 0
) -> Iterator[Samples]:
    """Stream the sound of any video or sound file in blocks: mono, mixed to 16 bits by FFmpeg, at `rate` Hz.

    Time 0 is `start` seconds after the first picture; sound before it is left out, and gaps are filled with silence.

    Raises:
        AvsError: the file cannot be opened or has no such sound track; at once.
    """
    path, number = (path, audio) if audio is None or isinstance(audio, int) else (audio, None)
    choose = partial(sound_track, number=number)
    with opened(path) as container:
        if choose(container) is None:
            what = f"sound track {number}" if number else "sound track"
            raise VideoError(f"{path}: has no {what} that can be read; give a sound file (--audio FILE, audio=FILE)")
    return _placed(_resampled(path, choose, rate, start), rate)


class Blocks:
    """Blocks of sound that follow each other, taken in other lengths."""

    def __init__(self, blocks: Iterable[Samples]) -> None:
        self.blocks, self.rest = iter(blocks), np.zeros(0, np.float32)

    def take(self, count: int) -> Samples:
        """The next `count` samples; fewer at the end."""
        while len(self.rest) < count and (block := next(self.blocks, None)) is not None:
            self.rest = np.concatenate([self.rest, np.asarray(block, np.float32)])
        taken, self.rest = self.rest[: max(0, count)], self.rest[max(0, count) :]
        return taken


def _resampled(
    path: str | Path, choose: Callable[[Any], Any], rate: int, start: float
) -> Iterator[tuple[float | None, Samples]]:
    """The time of each block (None where a frame has no time stamp), and its samples."""
    import av

    frames = (frame for frame, _ in timed(path, choose, start))
    for (own, layout, _), same in groupby(frames, lambda f: (f.sample_rate, f.layout.name, f.format.name)):
        if not RATES[0] <= own <= RATES[1]:
            raise VideoError(f"{path}: its sound has {own} samples a second; expected {RATES[0]} to {RATES[1]}")
        # to 16 bits: only there FFmpeg scales the mixed channels so that they cannot exceed full scale
        resampler = av.AudioResampler(format="s16p", layout="mono", rate=rate)
        try:
            for block in chain.from_iterable(map(resampler.resample, chain(same, [None]))):
                if block is not None:
                    yield block.time, block.to_ndarray()[0].astype(np.float32) / 32768
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f"{path}: its sound channels ({layout}) cannot be mixed ({error}); convert it") from error


def _placed(sound: Iterator[tuple[float | None, Samples]], rate: int) -> Iterator[Samples]:
    """Blocks that follow each other from second 0 on.

    Silence fills gaps; sound that its time stamps place before second 0, or over sound given already, is left out.
    """
    position = slack = 0
    for time, samples in sound:
        gap = 0 if time is None else round(time * rate) - position
        if abs(gap) <= slack or (position and abs(gap) >= LONGEST_STILL * rate):
            gap = 0
        for given in range(0, gap, rate):
            yield np.zeros(min(rate, gap - given), np.float32)
        samples = samples[max(0, -gap) :]
        if len(samples):
            yield samples
        position += max(gap, 0) + len(samples)
        slack = rate // LIP_SYNC if len(samples) else 0
