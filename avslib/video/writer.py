"""Video files written with PyAV, frame by frame, in a form that browsers play."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float, UInt8

from avslib.audio import SAMPLE_RATE
from avslib.core.errors import UsageError
from avslib.core.files import atomic_path
from avslib.video.tracks import Blocks

ENCODERS = ("libx264", "libopenh264", "mpeg4")


def write_video(
    path: str | Path,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    audio: Float[np.ndarray, "S"] | Iterable[Float[np.ndarray, "_"]] | None = None,
    fps: float = 25.0,
    *,
    rate: int = SAMPLE_RATE,
    quality: int = 23,
) -> Path:
    """Write an .mp4 that browsers play: H.264 where this build of FFmpeg has an encoder for it, else MPEG-4; AAC sound.

    Args:
        frames: all of one size, taken one at a time; an odd width or height grows by a repeated column or row.
        audio: mono, -1 to 1: one array or tensor, or blocks that follow each other; it is cut where the frames end.
        fps, rate: frames per second, and samples of sound per second, a rate that AAC knows: 16000 or 44100, say.
        quality: 0 (without loss) to 51, for H.264.

    Raises UsageError for another suffix, no frame, or frames of other shapes; a file at `path` is left as it was.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"{path}: videos are written as .mp4; name the file so")
    encoder = next(name for name in ENCODERS if name in av.codecs_available)
    blocks = Blocks([] if audio is None else [audio] if hasattr(audio, "shape") else audio)
    with atomic_path(path) as part, av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as out:
        video = out.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001), pix_fmt="yuv420p")
        video.options = {"crf": str(quality), "preset": "veryfast"} if encoder == "libx264" else {"qscale": "4"}
        streams = [video]
        if audio is not None:
            # 2 bits per sample: clear speech and music in mono, and small files at 16 kHz
            streams.append(out.add_stream("aac", rate=rate, layout="mono", bit_rate=2 * rate))
        size, done = None, 0
        for count, image in enumerate(map(np.asarray, frames), 1):
            if size is None and image.ndim == 3 and image.shape[2] == 3:
                size = height, width, _ = image.shape
                video.height, video.width = height + height % 2, width + width % 2  # H.264 needs even ones
            if image.dtype != np.uint8 or image.shape != size:
                got, expected = f"{image.dtype} {list(image.shape)}", list(size or ("H", "W", 3))
                raise UsageError(f"write_video: frame {count - 1} is {got}; expected uint8 {expected}")
            even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            out.mux(video.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            # up to the end of this frame, so that picture and sound lie side by side in the file
            block = blocks.take(round(count * rate / fps) - done)
            if len(block):
                frame = av.AudioFrame.from_ndarray(np.clip(block, -1, 1)[None], format="fltp", layout="mono")
                frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), done
                out.mux(streams[-1].encode(frame))
                done += len(block)
        if size is None:
            raise UsageError("write_video: there is no frame to write; give at least one")
        for stream in streams:
            out.mux(stream.encode(None))
    return path
