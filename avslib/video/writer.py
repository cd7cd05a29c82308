"""Video files written with PyAV, frame by frame, in a form that browsers play."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from avslib.audio import SAMPLE_RATE
from avslib.core.errors import UsageError
from avslib.core.files import atomic_path

SOUND_RATES = (16000, 22050, 24000, 32000, 44100, 48000)  # that AAC and all players know, in Hz
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
        fps: frames a second.
        rate: of the sound, in Hz.
        quality: 0 (without loss) to 51, for H.264.

    Raises:
        AvsError: another suffix, no frame, frames of other shapes. A file at `path` is then left as it was.
    """
    import av

    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"{path}: videos are written as .mp4; name the file so")
    if not 0 < fps <= 1000 or rate not in SOUND_RATES:
        raise UsageError(f"write_video: fps is {fps} and rate {rate}; expected fps above 0 and a rate of {SOUND_RATES}")
    name = next(n for n in ENCODERS if n in av.codecs_available)
    whole = audio is None or hasattr(audio, "shape")
    blocks = iter([] if audio is None else [np.asarray(audio, np.float32)] if whole else audio)
    with atomic_path(path) as part, av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as out:
        video = out.add_stream(name, rate=Fraction(fps).limit_denominator(1001))
        video.pix_fmt = "yuv420p"
        video.options = {"crf": str(quality), "preset": "veryfast"} if name == "libx264" else {"qscale": "4"}
        sound = out.add_stream("aac", rate=rate, layout="mono") if audio is not None else None
        if sound is not None:
            sound.bit_rate = 2 * rate  # clear speech and music in mono, and small files at 16 kHz
        count, size, done, rest = 0, None, 0, np.zeros(0, np.float32)
        for image in frames:
            image = np.asarray(image)
            fits = image.ndim == 3 and image.shape[2] == 3 if size is None else image.shape == size
            if image.dtype != np.uint8 or not fits:
                raise UsageError(
                    f"write_video: frame {count} is {image.dtype} {list(image.shape)}; expected uint8 "
                    f"{list(size or ('H', 'W', 3))}"
                )
            if size is None:
                size = image.shape
                video.height, video.width = (side + side % 2 for side in size[:2])
            even = np.pad(image, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
            count += 1
            while sound is not None and done < round(count * rate / fps):
                block = rest if len(rest) else next(blocks, None)
                if block is None:
                    break
                # cut at the end of this frame, so that picture and sound lie side by side in the file
                block, rest = np.split(np.asarray(block, np.float32), [max(0, round(count * rate / fps) - done)])
                done += _encode_sound(out, sound, block, rate, done)
        if count == 0:
            raise UsageError("write_video: there is no frame to write; give at least one")
        out.mux(video.encode(None))
        if sound is not None:
            out.mux(sound.encode(None))
    return path


def _encode_sound(out: Any, stream: Any, block: Float[np.ndarray, "S"], rate: int, position: int) -> int:
    import av

    if len(block):
        frame = av.AudioFrame.from_ndarray(np.clip(block, -1, 1)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), position
        out.mux(stream.encode(frame))
    return len(block)
