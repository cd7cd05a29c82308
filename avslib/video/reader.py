"""Video files as a stream of steps, each with a picture and its sound, both placed by their time stamps on one clock.

Nothing here holds more than a few frames and seconds of sound, however long the file is.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from jaxtyping import Float, UInt8

from avslib.audio import SAMPLE_RATE
from avslib.core.errors import VideoError
from avslib.video import tracks
from avslib.video.tracks import LONGEST_STILL, AudioSource, Blocks, read_sound

PHASE = 15 / 16  # AVSBench cuts a second into 16 pictures and keeps the last one, index 15
SHORTEST_TAIL = 0.1  # share of a step; what is left after the last whole step is dropped when it is shorter
FASTEST = 1000  # frames per second; a header that says more is damaged
LONGEST = 24 * 3600  # seconds of a video


class BrokenOff(VideoError):
    """A video ends after `at` seconds, before the `declared` seconds of its header."""

    def __init__(self, message: str, at: float, declared: float):
        super().__init__(message)
        self.at, self.declared = at, declared


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about itself."""

    width: int  # in pixels as shown: turned, and with pixels made square
    height: int
    seconds: float | None  # of the picture track; None where the file does not say
    fps: float | None  # on average
    rotation: int  # degrees counter-clockwise by which a player turns the pictures
    sound_rate: int  # 0 without a sound track
    channels: int


@dataclass
class Moment:
    """A step of a video."""

    index: int
    start: float  # in seconds
    length: float
    image: UInt8[np.ndarray, "H W 3"]  # RGB, as a player shows it
    sound: Float[np.ndarray, "S"]  # 16 kHz mono, silence where the track is shorter; empty when not asked for


def probe(path: str | Path) -> VideoInfo:
    """What a video file holds. Raises AvsError: no such file, empty, damaged, longer than a day, or a sound file."""
    with tracks.opened(path) as container:
        track, sound = tracks.picture_track(container), tracks.sound_track(container)
        frame = next(tracks.decoded(container, track), None) if track else None
        if frame is None:
            raise VideoError(f"{path}: no video that can be read: only sound or still pictures, or it is damaged")
        height, width, _ = _picture(frame, track.sample_aspect_ratio).shape
        length = float(track.duration * track.time_base if track.duration else (container.duration or 0) / 10**6)
        if length > LONGEST:
            raise VideoError(f"{path}: its header says {length / 3600:.0f} hours; expected at most {LONGEST // 3600}")
        rate = float(track.average_rate or track.guessed_rate or 0)
        fps, rotation = rate if 0 < rate <= FASTEST else None, round(frame.rotation / 90) % 4 * 90
        heard = (sound.codec_context.sample_rate, sound.codec_context.channels) if sound else (0, 0)
        return VideoInfo(width, height, length if length > 0 else None, fps, rotation, *heard)


def read_video(
    path: str | Path,
    fps: float | Literal["native"] = 1.0,
    *,
    audio: AudioSource = None,
    sound: bool = True,
    phase: float = PHASE,
    start: float = 0,
) -> Iterator[Moment]:
    """Stream a video as steps, each with one picture and its sound.

    Step k of 1 / `fps` seconds shows the frame that a player shows at (k + `phase`) / `fps` seconds, so any frame rate
    works, a variable one too. The default is AVSBench's sampling: one picture per second, taken at 15/16 of it.

    Args:
        fps: steps per second; "native": one for each frame, as long as it is shown, in pieces of a second at most.
        audio: see :func:`avslib.video.tracks.read_sound`; the sound may be shorter or longer than the video.
        sound: False leaves the sound out, and then the file needs no sound track.
        start: seconds of the video that are left out; times count from there.

    Raises AvsError at once, as `probe` and for a missing sound track; `BrokenOff` where a file breaks off.
    """
    frames = _shown(path, 1 / (probe(path).fps or 25), start)
    blocks = Blocks(read_sound(path, audio=audio, start=start) if sound else [])
    return _moments(frames, fps, phase, blocks, SAMPLE_RATE if sound else 0)


def _picture(frame: Any, ratio: Fraction | None) -> UInt8[np.ndarray, "H W 3"]:
    """A decoded frame as a viewer sees it: RGB by the frame's own colour matrix (BT.601 where it names none) and range,
    its pixels made square by their aspect `ratio`, turned and mirrored by its display matrix."""
    width = max(1, round(frame.width * (ratio or 1)))
    try:
        if width * frame.height > tracks.LARGEST_FRAME:
            raise ValueError(f"it is shown {width} pixels wide")
        # threads would be started for each frame
        pixels = frame.to_ndarray(format="rgb24", width=width, height=frame.height, threads=1)
    except (av.FFmpegError, ValueError) as error:
        what = f"a frame of {frame.width}x{frame.height} pixels in the form {frame.format.name}"
        raise VideoError(f"{what} cannot be read ({error}); convert the video to mp4") from None
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # side data that this PyAV does not know stand beside it
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
    if matrix is not None:
        # (x, y) is shown at (a x + c y, b x + d y)
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
        if abs(b) > abs(a):
            pixels, a, d = pixels.transpose(1, 0, 2), c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(pixels)


def _shown(path: str | Path, usual: float, begin: float) -> Iterator[tuple[float, float, bool, Callable[[], Any]]]:
    """From when to when a frame is shown, whether it is the last one, and a call that gives its picture."""
    picture, start, end, declared = None, -begin, -begin, 0.0
    for frame, track, zero in tracks.timed(path, tracks.picture_track, begin):
        time = end if frame.time is None else frame.time
        if not start - 1 <= time <= min(end + LONGEST_STILL, LONGEST):  # back: files that were joined as they are
            what = f"its time stamps jump from {end:.1f} to {time:.1f} s"
            raise BrokenOff(f"{path}: {what}: damaged, or several files in one; convert it", end, time)
        if picture is not None and time > start:
            yield start, time, False, picture
        length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual
        start, end = max(start, time), max(end, time + min(length, LONGEST_STILL))
        picture = partial(_picture, frame, track.sample_aspect_ratio)
        declared = _end_by_header(track) - zero
    if picture is not None:
        yield start, end, True, picture
    if picture is None or declared > end + 1:
        what = f"breaks off after {end + begin:.1f} s, and its header says {declared + begin:.1f} s"
        raise BrokenOff(f"{path}: {what}: damaged, or not copied whole; get it again", end, declared)


def _end_by_header(track: Any) -> float:
    """Where the pictures end by the file's own clock, in seconds; 0 where the header does not say."""
    if track.duration:
        return float(((track.start_time or 0) + track.duration) * track.time_base)
    clock = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", track.metadata.get("DURATION", ""), re.ASCII)  # of Matroska
    seconds = sum(float(part) * 60**k for k, part in enumerate(clock.groups()[::-1])) if clock else 0
    return min(seconds, (track.container.duration or 0) / 10**6)


def _moments(frames: Iterator[Any], fps: float | str, phase: float, sound: Blocks, rate: int) -> Iterator[Moment]:
    index = heard = done = 0
    for begin, end, last, picture in frames:
        if fps == "native":
            pieces = max(1, math.ceil(end - begin - 1e-6))
            steps = [(begin + k, min(begin + k + 1, end)) for k in range(pieces)]
        else:  # the last frame stays until its step ends
            count = max(1, math.ceil(end * fps - SHORTEST_TAIL)) if last else math.ceil((end - 1e-6) * fps - phase)
            steps = [(k / fps, (k + 1) / fps) for k in range(done, count)]
            done = max(done, count)
        image = picture() if steps else None
        for start, stop in steps:
            samples = sound.take(wanted := round(stop * rate) - heard)
            # the sound may end before the picture does
            yield Moment(index, start, stop - start, image, np.pad(samples, (0, wanted - len(samples))))
            index, heard = index + 1, heard + wanted
