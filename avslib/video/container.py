"""Media files opened with PyAV within limits: their tracks, and decoded frames on one clock.

Only containers of pictures and sound are opened, not lists that lead to other files or to the network.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from avslib.audio import MOST_CHANNELS
from avslib.core.errors import VideoError

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


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """A file as PyAV's container. Raises VideoError where it cannot be opened."""
    import av

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
    """The first video stream that can be decoded and is not the cover picture of a sound file."""
    import av

    cover = av.stream.Disposition.attached_pic
    return next((s for s in container.streams.video if s.codec_context and not s.disposition & cover), None)


def sound_track(container: Any, number: int | None = None) -> Any | None:
    """Sound stream `number`, from 1, of those that can be decoded; None: the one that players choose, the first that is
    marked as default, else the first."""
    import av

    tracks = [s for s in container.streams.audio if s.codec_context and s.codec_context.channels <= MOST_CHANNELS]
    if number is not None:
        return tracks[number - 1] if 1 <= number <= len(tracks) else None
    return max(tracks, key=lambda s: bool(s.disposition & av.stream.Disposition.default), default=None)


def decoded(container: Any, track: Any) -> Iterator[Any]:
    """Frames in the order they are shown; packets that do not decode are passed over, as players do."""
    import av

    if track.type == "video":
        track.codec_context.options = {"max_pixels": OPTIONS["max_pixels"]}
        track.thread_type = "AUTO"
    with suppress(av.FFmpegError):  # the file ends in the middle of a packet
        for packet in container.demux(track):
            frames = []
            with suppress(av.FFmpegError):
                frames = packet.decode()
            yield from frames


def timed(path: str | Path, choose: Callable[[Any], Any], start: float = 0) -> Iterator[tuple[Any, Any]]:
    """Frames of the track that `choose` finds, and the track.

    Their time stamps are moved onto one clock for all tracks, whose second 0 is `start` seconds after the first picture
    that is shown, or after the first sound of a file without pictures.
    """
    with opened(path) as container:
        first = next(decoded(container, picture_track(container) or sound_track(container)), None)
        zero = start + (first.time or 0 if first is not None else 0)
    with opened(path) as container:
        track = choose(container)
        for frame in decoded(container, track):
            if frame.time is not None:
                frame.pts -= round(zero / frame.time_base)
            yield frame, track
