"""Video files read with PyAV: frames by their time stamps, sound as 16 kHz mono, both streamed.

Nothing here holds more than a few frames and a minute of sound, however long the file is. What a file may ask for is
bounded, in its header and in every frame: pixels of a frame and of a second, tracks, channels, rates, and time stamps
that jump. Only containers of picture and sound are opened, not lists that lead to other files or to the network.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from avslib.audio import RATES, SAMPLE_RATE
from avslib.core.errors import UsageError, VideoError

# AVSBench cuts a second into 16 pictures and keeps the last one, index 15
PHASE = 15 / 16
# what is left after the last whole step is dropped when it is shorter than this share of a step
SHORTEST_TAIL = 0.1
LARGEST_GAP = 60  # seconds of silence put in where time stamps of the sound jump; more is a damaged time stamp
LARGEST_FRAME = 8192 * 4352  # pixels: 8K
MOST_PIXELS = 4 * 10**9  # in a second: 8K at 120 frames; so a second of video takes less than a minute to decode
MOST_TRACKS, MOST_CHANNELS = 32, 32
FASTEST = 1000  # frames a second; a header that says more is damaged
LONGEST = 24 * 3600  # seconds of a video
LONGEST_STILL = 600  # seconds that one frame may stand; time stamps that jump further are damaged
PATIENCE = 60  # seconds to open a file, or to read a packet
# demuxers of FFmpeg; not among them are hls, concat, dash and sdp, which open what they name
CONTAINERS = (
    "aac,ac3,aiff,amr,ape,apng,asf,au,av1,avi,caf,dv,eac3,flac,flv,gif,h263,h264,hevc,ivf,loas,m4v,matroska,mjpeg,mov,mp3,"
    "mpc,mpc8,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,tta,vc1,voc,w64,wav,wtv,wv,yuv4mpegpipe"
)


class BrokenOff(VideoError):
    """A video ends before its header says so.

    Attributes:
        at: seconds that could be read.
        declared: seconds that the header speaks of.
    """

    def __init__(self, message: str, at: float, declared: float):
        super().__init__(message)
        self.at, self.declared = at, declared


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of itself.

    Attributes:
        width, height: in pixels as shown, after the rotation flag.
        seconds: length of the picture track; None where the file does not say.
        fps: mean frame rate; None where the file does not say, or says more than `FASTEST`.
        rotation: degrees counter-clockwise by which a player turns the pictures.
        sound_rate, channels: of the first sound track, 0 without one.
    """

    width: int
    height: int
    seconds: float | None
    fps: float | None
    rotation: int
    sound_rate: int
    channels: int


@dataclass
class Moment:
    """A picture and the sound of its step.

    Attributes:
        index: number of the step, from 0.
        start: where the step begins, in seconds; it lasts 1 / fps.
        image: uint8 RGB, turned as a player shows it.
        sound: 16 kHz mono of the step; silence where the track is shorter. Empty when no sound was asked for.
    """

    index: int
    start: float
    image: UInt8[np.ndarray, "H W 3"]
    sound: Float[np.ndarray, "S"]


def probe(path: str | Path) -> VideoInfo:
    """What a video file holds; decodes one frame, so that a file that cannot be read is found out here.

    Raises:
        AvsError: no such file, empty, no video or damaged, or a sound file; beyond the limits of this module.
    """
    with _open(path) as container:
        stream = _picture_track(container, path)
        frame = next(_decoded(container, stream), None)
        if frame is None:
            raise VideoError(f"{path}: its video track holds no frame that can be decoded; record or convert it again")
        turn = _turn(frame)
        width, height = (frame.height, frame.width) if turn % 2 else (frame.width, frame.height)
        length = float(stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 10**6)
        if length > LONGEST:
            raise VideoError(f"{path}: its header says {length / 3600:.0f} hours; expected at most {LONGEST // 3600}")
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        sound = _sound_track(container)
        return VideoInfo(
            width,
            height,
            length if length > 0 else None,
            rate if 0 < rate <= FASTEST else None,
            turn * 90,
            sound.codec_context.sample_rate if sound else 0,
            sound.codec_context.channels if sound else 0,
        )


def read_video(
    path: str | Path, fps: float = 1.0, *, audio: str | Path | None = None, sound: bool = True, phase: float = PHASE
) -> Iterator[Moment]:
    """Stream a video as equal steps of 1 / `fps` seconds, each with one picture and its sound.

    Step k shows the frame that a player shows at (k + `phase`) / `fps` seconds, so any frame rate works, a variable one
    too. The default is AVSBench's sampling: one picture a second, taken at 15/16 of it.

    Args:
        audio: another file to take the sound from; it may be shorter or longer than the video.
        sound: False leaves the sound out, and then none needs to be there.

    Raises:
        AvsError: as `probe`, at once; no sound track, at once; `BrokenOff`, when the place
            is reached where a file breaks off.
    """
    if not (0 < fps <= FASTEST and 0 <= phase < 1):
        raise UsageError(f"fps is {fps} and phase {phase}; expected fps above 0 and a phase from 0 to below 1")
    info = probe(path)
    if sound and audio is None and not info.sound_rate:
        raise VideoError(
            f"{path}: has no sound track, and what is segmented is what sounds; "
            "give the sound as a file of its own (--audio FILE, or audio=FILE)"
        )
    blocks = read_sound(path if audio is None else audio) if sound else iter(())
    return _moments(path, fps, phase, info, blocks, SAMPLE_RATE if sound else 0)


def read_sound(path: str | Path, rate: int = SAMPLE_RATE) -> Iterator[Float[np.ndarray, "S"]]:
    """Stream the first sound track of any video or sound file: mono (mean of the channels) at `rate` Hz, in blocks.

    Time 0 is where the video track begins; sound before it is left out, and silence stands where there is none yet.

    Raises:
        AvsError: as `probe`, or no sound track; at once.
    """
    with _open(path) as container:
        track = _sound_track(container)
        if track is None:
            raise VideoError(
                f"{path}: has no sound track that can be read; give the sound as a file of its own (--audio FILE)"
            )
        if track.codec_context.sample_rate:  # else the first frame tells
            _check_sound(path, track.codec_context.sample_rate, track.codec_context.channels)
    return _sound_blocks(path, rate)


def _moments(
    path: str | Path, fps: float, phase: float, info: VideoInfo, blocks: Iterator[np.ndarray], rate: int
) -> Iterator[Moment]:
    store, done = np.zeros(0, np.float32), 0
    for index, image in _pictures(path, fps, phase, info):
        wanted = round((index + 1) * rate / fps) - done
        while len(store) < wanted:
            block = next(blocks, None)
            # the sound may end before the picture does
            store = np.concatenate([store, np.zeros(wanted - len(store), np.float32) if block is None else block])
        yield Moment(index, index / fps, image, store[:wanted])
        store, done = store[wanted:], done + wanted


def _pictures(path: str | Path, fps: float, phase: float, info: VideoInfo) -> Iterator[tuple[int, np.ndarray]]:
    with _open(path) as container:
        stream = _picture_track(container, path)
        stream.thread_type = "AUTO"
        origin, usual = _origin(container), 1 / (info.fps or 25)
        held, image, index, end, pixels = None, None, 0, 0.0, 0
        for frame in _decoded(container, stream):
            time = float(frame.time - origin) if frame.time is not None else end
            pixels += frame.width * frame.height
            if pixels > MOST_PIXELS * (end + 1):
                raise VideoError(f"{path}: has more than {MOST_PIXELS:,} pixels a second; make it smaller")
            if time > min(end + LONGEST_STILL, LONGEST):
                raise BrokenOff(
                    f"{path}: its time stamps jump from {end:.1f} to {time:.1f} s, the file is damaged; "
                    "get it again or convert it",
                    end,
                    time,
                )
            while held is not None and (index + phase) / fps < time - 1e-6:
                image = _rgb(held) if image is None else image
                yield index, image
                index += 1
            length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual
            held, image, end = frame, None, max(end, time + min(length, LONGEST_STILL))
        steps = max(1, math.ceil(end * fps - SHORTEST_TAIL))
        while held is not None and index < steps:
            image = _rgb(held) if image is None else image
            yield index, image
            index += 1
        declared = float(stream.duration * stream.time_base) if stream.duration else 0.0
        if held is None or declared > end + 1:
            raise BrokenOff(
                f"{path}: breaks off after {end:.1f} s, and its header says {declared:.1f} s; the file is damaged or "
                "was not copied whole: get it again",
                end,
                declared,
            )


def _sound_blocks(path: str | Path, rate: int) -> Iterator[Float[np.ndarray, "S"]]:
    import av

    with _open(path) as container:
        stream = _sound_track(container)
        origin, resampler, source, position = _origin(container), None, 0, 0
        for frame in _decoded(container, stream):
            _check_sound(path, frame.sample_rate, frame.layout.nb_channels)
            samples = _mono(frame)
            if frame.sample_rate != source:
                position = round(position * frame.sample_rate / source) if source else 0
                source = frame.sample_rate
                resampler = None if source == rate else av.AudioResampler(format="flt", layout="mono", rate=rate)
            start = round(float(frame.time - origin) * source) if frame.time is not None else position
            gap = start - position
            if start > LONGEST * source:
                raise VideoError(f"{path}: its sound goes on after {LONGEST // 3600} hours; the file is damaged")
            if gap < 0 and position == 0:
                position, samples = min(0, start + len(samples)), samples[-gap:]
            elif source // 20 < gap < LARGEST_GAP * source:
                samples = np.concatenate([np.zeros(gap, np.float32), samples])
            if len(samples):
                yield samples if resampler is None else _resampled(resampler, samples, source, position)
                position += len(samples)
        if resampler is not None:
            yield _joined(resampler.resample(None))


def _check_sound(path: str | Path, rate: int, channels: int) -> None:
    if not RATES[0] <= rate <= RATES[1] or not 1 <= channels <= MOST_CHANNELS:
        raise VideoError(
            f"{path}: its sound has {channels} channels of {rate} samples a second; expected up to "
            f"{MOST_CHANNELS}, and {RATES[0]} to {RATES[1]}: convert it"
        )


def _resampled(resampler: Any, samples: Float[np.ndarray, "S"], rate: int, position: int) -> Float[np.ndarray, "R"]:
    import av

    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="flt", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), position
    return _joined(resampler.resample(frame))


def _joined(frames: list[Any]) -> Float[np.ndarray, "S"]:
    return np.concatenate([np.zeros(0, np.float32), *(f.to_ndarray()[0] for f in frames)])


def _mono(frame: Any) -> Float[np.ndarray, "S"]:
    """Mean of the channels, -1 to 1, as for the data sets; FFmpeg's own mixing weighs channels by their place."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T
    if samples.dtype.kind == "u":
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    return np.nan_to_num(samples.astype(np.float32).mean(0), posinf=0, neginf=0)


LIMITS = {
    "format_whitelist": CONTAINERS,
    "protocol_whitelist": "file",
    "max_streams": str(MOST_TRACKS),
    "max_pixels": str(LARGEST_FRAME),
}


@contextmanager
def _open(path: str | Path) -> Iterator[Any]:
    import av

    path = Path(path)
    if not path.is_file():
        raise VideoError(f"{path}: is a folder, not a video file" if path.is_dir() else f"{path}: no such file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: is empty (0 bytes); copy or record it again")
    # from PyAV 19 on metadata that are no text never raise, and the argument is gone
    tolerant = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        # "file:", since FFmpeg takes what stands before a colon in a name for a protocol
        container = av.open(f"file:{path.absolute()}", options=LIMITS, timeout=PATIENCE, **tolerant)
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(
            f"{path}: no video that can be read, or damaged ({reason}); convert or copy it again"
        ) from error
    with container:
        yield container


def _picture_track(container: Any, path: str | Path) -> Any:
    """The first video stream that is no cover picture of a sound file."""
    import av

    for stream in container.streams.video:
        if stream.codec_context is not None and not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    if not container.streams:
        raise VideoError(
            f"{path}: no track that can be read; the file is damaged or was not copied whole: get it again"
        )
    raise VideoError(f"{path}: has no video track that can be read, only sound or still pictures; give a video file")


def _sound_track(container: Any) -> Any | None:
    """The first sound stream of a kind that this build of FFmpeg can decode."""
    return next((stream for stream in container.streams.audio if stream.codec_context is not None), None)


def _origin(container: Any) -> Fraction | float:
    """Time stamp at which the video track begins (the sound track where there is no video), in seconds."""
    stream = next(iter([*container.streams.video, *container.streams.audio]))
    return stream.start_time * stream.time_base if stream.start_time is not None else 0


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Frames in the order they are shown; packets that do not decode are passed over, as players do."""
    import av

    if stream.type == "video":
        stream.codec_context.options = {"max_pixels": LIMITS["max_pixels"]}
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # the file ends in the middle of a packet
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        yield from frames


def _turn(frame: Any) -> int:
    """Quarter turns counter-clockwise that the rotation flag asks for."""
    return round((getattr(frame, "rotation", 0) or 0) / 90) % 4


def _rgb(frame: Any) -> UInt8[np.ndarray, "H W 3"]:
    import av

    try:
        pixels = frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(
            f"a frame of {frame.width}x{frame.height} pixels in the form {frame.format.name} cannot be "
            f"read ({error}); convert the video to mp4"
        ) from None
    return np.ascontiguousarray(np.rot90(pixels, _turn(frame)))
