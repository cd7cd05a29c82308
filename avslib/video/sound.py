"""The sound of a media file as a stream: 16 kHz mono, placed by its time stamps on the clock of the pictures."""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from avslib.audio import RATES, SAMPLE_RATE
from avslib.core.errors import VideoError
from avslib.video.container import LONGEST, LONGEST_STILL, opened, sound_track, timed

MOST_CHANNELS = 32
LIP_SYNC = 20  # sound is moved where its time stamps are off by more than 1/20 s; less is rounding in the file

Samples = Float[np.ndarray, "_"]


def read_sound(path: str | Path, rate: int = SAMPLE_RATE, audio: str | Path | int | None = None) -> Iterator[Samples]:
    """Stream the sound of any video or sound file: mono (mean of the channels) at `rate` Hz, in blocks.

    Time 0 is that of the first picture; sound before it is left out, and silence stands where there is none.

    Args:
        audio: another file to take the sound from, or the number of a sound track, from 1; None: the default track.

    Raises:
        AvsError: the file cannot be opened or has no such sound track; at once.
    """
    path, number = (path, audio) if audio is None or isinstance(audio, int) else (audio, None)
    choose = partial(sound_track, number=number)
    with opened(path) as container:
        track = choose(container)
        if track is None:
            what = f"sound track {number}" if number else "sound track"
            raise VideoError(f"{path}: has no {what} that can be read; give a sound file (--audio FILE, audio=FILE)")
        if track.codec_context.sample_rate:  # else the first frame knows
            _check(path, track.codec_context.sample_rate, track.codec_context.channels)
    return _resampled(_placed(path, choose), rate)


def _check(path: str | Path, rate: int, channels: int) -> None:
    if not RATES[0] <= rate <= RATES[1] or not 1 <= channels <= MOST_CHANNELS:
        limits = f"up to {MOST_CHANNELS}, and {RATES[0]} to {RATES[1]}"
        raise VideoError(f"{path}: its sound has {channels} channels of {rate} samples a second; expected {limits}")


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


def audio_frame(samples: Samples, rate: int, position: int) -> Any:
    """PyAV's frame of mono samples that begin at sample number `position`."""
    import av

    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), position
    return frame


def _placed(path: str | Path, choose: Callable[[Any], Any]) -> Iterator[tuple[int, Samples]]:
    """Rates and mono samples that follow each other from second 0 on.

    Silence fills gaps; sound that its time stamps place before second 0, or over sound given already, is left out.
    """
    rate, position, slack = 0, 0, 0
    for time, frame, _ in timed(path, choose):
        _check(path, frame.sample_rate, frame.layout.nb_channels)
        if frame.sample_rate != rate:
            position, rate = round(position * frame.sample_rate / (rate or 1)), frame.sample_rate
        gap = 0 if time is None else round(time * rate) - position
        if position + gap > LONGEST * rate:
            raise VideoError(f"{path}: its sound goes on after {LONGEST // 3600} hours; the file is damaged")
        if abs(gap) <= slack or (position and abs(gap) >= LONGEST_STILL * rate):
            gap = 0
        for given in range(0, gap, rate):
            yield rate, np.zeros(min(rate, gap - given), np.float32)
        samples = _mono(frame)[max(0, -gap) :]
        if len(samples):
            yield rate, samples
        position += max(gap, 0) + len(samples)
        slack = rate // LIP_SYNC if len(samples) else 0


def _mono(frame: Any) -> Samples:
    """Mean of the channels, -1 to 1, as for the data sets; FFmpeg's own mixing weighs channels by their place."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T
    full = {"u": 128.0, "i": 2.0 ** (8 * samples.itemsize - 1)}.get(samples.dtype.kind, 1.0)
    zero = 128 if samples.dtype.kind == "u" else 0
    return np.nan_to_num(((samples.astype(np.float32) - zero) / full).mean(0), posinf=0, neginf=0)


def _resampled(sound: Iterator[tuple[int, Samples]], rate: int) -> Iterator[Samples]:
    """At `rate` Hz, also where the sound's own rate changes."""
    import av

    for own, blocks in groupby(sound, itemgetter(0)):
        resampler, position = av.AudioResampler(format="fltp", layout="mono", rate=rate), 0
        for _, samples in blocks:
            yield from (f.to_ndarray()[0] for f in resampler.resample(audio_frame(samples, own, position)))
            position += len(samples)
        yield from (f.to_ndarray()[0] for f in resampler.resample(None))
