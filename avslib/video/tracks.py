"""Tracks of media files, opened with PyAV within limits: decoded frames on one clock, and the sound as a stream.

Only containers of pictures and sound are opened, not lists that lead to other files or to the network.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from jaxtyping import Float

from avslib.audio import SAMPLE_RATE
from avslib.audio.waveforms import MOST_CHANNELS, RATES, require_scale
from avslib.core.errors import AvsError, VideoError

LIP_SYNC = 20  # sound is moved where its time stamps are off by more than 1/20 s; less is rounding in the file
LARGEST_FRAME = 8192 * 4352  # pixels: 8K
LONGEST_STILL = 600  # seconds that one frame or a silence may last; time stamps that jump further are damaged
PATIENCE = 60  # seconds to open a file, or to read a packet
OPTIONS = {
    # demuxers of FFmpeg; hls, concat, dash and sdp are left out because they open the files that they name
    "format_whitelist": "aac,ac3,aiff,amr,ape,apng,asf,au,av1,avi,caf,dv,eac3,flac,flv,gif,h263,h264,hevc,ivf,loas,m4v,"
    "matroska,mjpeg,mov,mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,tta,vc1,voc,w64,wav,wtv,wv,yuv4mpegpipe",
    "protocol_whitelist": "file",
    "max_streams": "32",
    "max_pixels": str(LARGEST_FRAME),
}

File = str | Path
AudioSource = File | int | None  # a file, or the number of a sound track, from 1; None: the default track
Samples = Float[np.ndarray, "_"]
Timed = tuple[float | None, Samples]  # the time of a block, None where a frame has no time stamp


@contextmanager
def opened(path: File) -> Iterator[Any]:
    """A file as PyAV's container. Raises VideoError where it cannot be opened."""
    path = Path(path)
    if not path.is_file() or not path.stat().st_size:
        what = "is a folder" if path.is_dir() else "is empty (0 bytes)" if path.is_file() else "no such file"
        raise VideoError(f"{path}: {what}; expected a video or sound file")
    # from PyAV 19 on metadata that are not text never raise, and the argument is gone
    tolerant = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        # "file:", since FFmpeg takes what stands before a colon in a name for a protocol
        container = av.open(f"file:{path.absolute()}", options=OPTIONS, timeout=PATIENCE, **tolerant)
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{path}: no video that can be read, or damaged ({reason}); convert it") from error
    with container:
        yield container


def picture_track(container: Any) -> Any | None:
    """The default video stream, or else the first, of those that can be decoded and are no cover of a sound file."""
    cover = av.stream.Disposition.attached_pic
    return _default([s for s in container.streams.video if s.codec_context and not s.disposition & cover])


def sound_track(container: Any, number: int | None = None) -> Any | None:
    """Sound stream `number`, from 1, of those that can be decoded; None: the default one, or else the first."""
    tracks = [s for s in container.streams.audio if s.codec_context and s.codec_context.channels <= MOST_CHANNELS]
    if number is not None:
        return tracks[number - 1] if 1 <= number <= len(tracks) else None
    return _default(tracks)


def _default(tracks: list[Any]) -> Any | None:
    return max(tracks, key=lambda s: bool(s.disposition & av.stream.Disposition.default), default=None)


def decoded(container: Any, track: Any) -> Iterator[Any]:
    """Frames in the order they are shown; packets that do not decode are passed over, as players do."""
    if track.type == "video":
        track.codec_context.options = {"max_pixels": OPTIONS["max_pixels"]}
        track.thread_type = "AUTO"
    with suppress(av.FFmpegError):  # the file ends in the middle of a packet
        for packet in container.demux(track):
            frames = []
            with suppress(av.FFmpegError):
                frames = packet.decode()
            yield from frames


def timed(path: File, choose: Callable[[Any], Any], start: float = 0) -> Iterator[tuple[Any, Any, float]]:
    """Frames of the track that `choose` finds, the track, and its second 0 by the file's own clock. It is one for all
    tracks: `start` seconds after the first picture that is shown, or the first sound of a file without pictures.
    Raises SoundError as `require_scale`, for sound that is kept as float samples."""
    with opened(path) as container:
        first = next(decoded(container, picture_track(container) or sound_track(container)), None)
        zero = start + (first.time or 0 if first is not None else 0)
    with opened(path) as container:
        track = choose(container)
        for frame in decoded(container, track):
            if track.codec_context.name.startswith("pcm_f"):
                require_scale(torch.from_numpy(frame.to_ndarray()), path)
            if frame.time is not None:
                frame.pts -= round(zero / frame.time_base)
            yield frame, track, zero


def read_sound(path: File, rate: int = SAMPLE_RATE, audio: AudioSource = None, start: float = 0) -> Iterator[Samples]:
    """Stream the sound of any video or sound file in blocks: mono, mixed to 16 bits by FFmpeg, at `rate` Hz.

    Time 0 is `start` seconds after the first picture; sound before it is left out, and gaps are filled with silence.
    Raises AvsError at once: the file cannot be opened or has no such sound track.
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


def _resampled(path: File, choose: Callable[[Any], Any], rate: int, start: float) -> Iterator[Timed]:
    frames = (frame for frame, *_ in timed(path, choose, start))
    for (own, layout, _), same in groupby(frames, lambda f: (f.sample_rate, f.layout.name, f.format.name)):
        if not RATES[0] <= own <= RATES[1]:
            raise VideoError(f"{path}: its sound has {own} samples per second; expected {RATES[0]} to {RATES[1]}")
        # to 16 bits: only there FFmpeg scales the mixed channels so that they cannot exceed full scale
        resampler = av.AudioResampler(format="s16p", layout="mono", rate=rate)
        try:
            for block in chain.from_iterable(map(resampler.resample, chain(same, [None]))):
                if block is not None:
                    yield block.time, block.to_ndarray()[0].astype(np.float32) / 32768
        except AvsError:
            raise
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f"{path}: its sound channels ({layout}) cannot be mixed ({error}); convert it") from error


def _placed(sound: Iterator[Timed], rate: int) -> Iterator[Samples]:
    """Silence fills gaps; sound that belongs before second 0, or over sound given already, is left out."""
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
