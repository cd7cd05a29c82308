"""The overlay video: masks painted on the frames, written with the sound as an mp4 for browsers; and the strip."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from avslib.audio import SAMPLE_RATE
from avslib.core.errors import UsageError
from avslib.core.files import atomic_path
from avslib.video.reader import BrokenOff, probe, read_video
from avslib.video.second import Letterbox, Second
from avslib.video.tracks import AudioSource, Blocks, read_sound

TINT = (230, 159, 0, 89)  # the orange that predictions have in every figure, at 35 %
FASTEST, RATE = 30.0, 44100  # frames and samples of sound per second of an overlay, at most
ENCODERS, FASTSTART = ("libx264", "libopenh264", "mpeg4"), {"movflags": "+faststart"}


def overlay_video(
    video: str | Path,
    seconds: Iterable[Second],
    path: str | Path,
    audio: AudioSource = None,
    longest: int | None = None,
) -> Path:
    """Write the video, at its own frame rate (up to 30) and with its sound, with each step's mask on its frames.

    `seconds` of the same video, in order, are drawn from as the frames need them. A longer side above `longest` pixels
    is made as long. Of a video that breaks off, what there is of it is written. Raises as `probe` and `write_video`.
    """
    info = probe(video)
    fps, longer = min(info.fps or 25.0, FASTEST), max(info.width, info.height)
    size = Letterbox(info.height, info.width, min(longest or longer, longer)).inner[::-1]

    def frames() -> Iterator[np.ndarray]:
        following, end, layer = iter(seconds), 0.0, Image.new("RGBA", size)
        with suppress(BrokenOff):
            for moment in read_video(video, fps, sound=False, phase=0.5):
                new = None
                while end <= moment.start + 0.5 / fps and (second := next(following, None)) is not None:
                    end, new = second.time + second.length, second
                layer = layer if new is None else outlined(new.mask, size)
                yield painted(moment.image, layer)

    return write_video(path, frames(), read_sound(video, RATE, audio), fps, rate=RATE)


def write_video(
    path: str | Path,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    audio: Float[np.ndarray, "S"] | Iterable[Float[np.ndarray, "_"]] | None = None,
    fps: float = 25.0,
    *,
    rate: int = SAMPLE_RATE,
) -> Path:
    """Write an .mp4 that browsers play: H.264 where this build of FFmpeg has an encoder for it, else MPEG-4; AAC sound.

    Args:
        frames: all of one size, taken one at a time; an odd width or height grows by a repeated column or row.
        audio: mono, -1 to 1: one array or tensor, or blocks that follow each other; it is cut where the frames end.
        fps, rate: frames per second, and samples of sound per second, a rate that AAC knows: 16000 or 44100, say.

    Raises UsageError for another suffix, no frame, or frames of other shapes; a file at `path` is left as it was.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"{path}: videos are written as .mp4; use that ending")
    encoder = next(name for name in ENCODERS if name in av.codecs_available)
    blocks = Blocks([] if audio is None else [audio] if hasattr(audio, "shape") else audio)
    with atomic_path(path) as part, av.open(f"file:{part.absolute()}", "w", format="mp4", options=FASTSTART) as out:
        video = out.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001), pix_fmt="yuv420p")
        video.options = {"crf": "23", "preset": "veryfast"} if encoder == "libx264" else {"qscale": "4"}
        video.thread_type = "FRAME"  # frames are encoded while the next ones are decoded and painted
        streams = [video]
        if audio is not None:
            # 2 bits per sample: clear speech and music in mono, and small files at 16 kHz
            streams.append(out.add_stream("aac", rate=rate, layout="mono", bit_rate=2 * rate))
        size, done = None, 0
        for count, image in enumerate(map(np.ascontiguousarray, frames), 1):
            if size is None and image.ndim == 3 and image.shape[2] == 3:
                size = height, width, _ = image.shape
                video.height, video.width = height + height % 2, width + width % 2  # H.264 needs even ones
            if image.dtype != np.uint8 or image.shape != size:
                got, expected = f"{image.dtype} {list(image.shape)}", list(size or ("H", "W", 3))
                raise UsageError(f"write_video: frame {count - 1} is {got}; expected uint8 {expected}")
            if height % 2 or width % 2:
                image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_numpy_buffer(image, format="rgb24")
            out.mux(video.encode(frame.reformat(format="yuv420p", threads=1)))
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


def outlined(mask: Bool[np.ndarray, "H W"], size: tuple[int, int] | None = None) -> Image.Image:
    """A layer for `painted`, of `size` (width, height): the mask in orange, outlined in white and black."""
    shown = Image.fromarray(mask).resize(size or mask.shape[::-1], Image.Resampling.NEAREST)
    thick = max(1, round(min(shown.size) / 240))
    left, top, right, bottom = shown.getbbox() or (0, 0, 0, 0)
    part = np.s_[max(0, top - thick) : bottom + thick, max(0, left - thick) : right + thick]  # nothing is drawn outside
    colours, mask = np.zeros((shown.height, shown.width), np.uint8), np.asarray(shown)[part]
    inside = colours[part]
    inside[...] = mask
    inside[mask & _grown(~mask, thick, beyond=True)] = 2
    inside[~mask & _grown(mask, thick, beyond=False)] = 3
    layer = Image.fromarray(colours)
    layer.putpalette([0, 0, 0, 0, *TINT, 255, 255, 255, 255, 0, 0, 0, 255], "RGBA")
    return layer.convert("RGBA")


def _grown(mask: Bool[np.ndarray, "H W"], by: int, *, beyond: bool) -> Bool[np.ndarray, "H W"]:
    """Dilation by a square of 2 * `by` + 1 pixels; `beyond` is the mask outside the picture."""
    (height, width), span = mask.shape, range(2 * by + 1)
    padded = np.pad(mask, by, constant_values=beyond)
    wide = np.logical_or.reduce([padded[:, i : i + width] for i in span])
    return np.logical_or.reduce([wide[i : i + height] for i in span])


def painted(image: UInt8[np.ndarray, "H W 3"], layer: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """The picture, at the size of the layer, with the layer on it."""
    if layer.size != image.shape[1::-1]:
        image = Image.fromarray(image).resize(layer.size, Image.Resampling.BILINEAR)
    picture = np.array(image)
    if box := layer.getbbox():  # nothing is drawn outside it, and a frame of a video is mostly outside
        left, top, right, bottom = box
        inside = Image.fromarray(picture[top:bottom, left:right])
        inside.paste(part := layer.crop(box), mask=part)
        picture[top:bottom, left:right] = inside
    return picture


def strip_figure(seconds: Sequence[Second], columns: int = 6) -> Any:
    """A matplotlib Figure of `columns` of the `seconds`, evenly spread: frames with their masks, and below them the
    uncertainty in bits, where there is one. Its label says in words what it shows."""
    count = min(columns, len(seconds))
    if not count:
        raise UsageError("strip_figure: there is no second to draw; give the results of predict(...)")
    shown = [seconds[(2 * i + 1) * len(seconds) // (2 * count)] for i in range(count)]
    rows = 1 + (shown[0].uncertainty is not None)
    height, width = shown[0].image.shape[:2]
    size = (1.3 * count + 0.5 * (rows - 1), rows * 1.3 * height / width + 0.25)
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=80, layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    for column, second in zip(axes.T, shown, strict=True):
        column[0].imshow(painted(second.image, outlined(second.mask)))
        column[0].set_title(f"{second.time:.0f} s: {100 * second.mask.mean():.1f} %", fontsize=8, pad=3)
        if rows == 2:
            drawn = column[1].imshow(second.uncertainty, cmap="cividis", vmin=0, vmax=1)
    for axis in axes.flat:
        axis.set_axis_off()
    shares = ", ".join(f"second {s.index}: {100 * s.mask.mean():.1f} %" for s in shown)
    label = f"{count} frames of the video with what sounds outlined; share of pixels marked: {shares}."
    if rows == 2:
        figure.colorbar(drawn, ax=list(axes[1]), label="uncertainty / bit", fraction=0.05, pad=0.01)
        label += " Below each the uncertainty, bright where the model is unsure."
    figure.set_label(label)
    return figure
