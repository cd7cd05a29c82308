"""Figures and sounds as text that a notebook's HTML can hold: small, and with words for those who do not see them."""

import base64
import io
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float

from avslib.audio import SAMPLE_RATE
from avslib.core.errors import UsageError


def figure_png(figure: Any) -> bytes:
    """A matplotlib figure as a PNG of 256 colours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return small_png(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))


def small_png(picture: Any) -> bytes:
    """A PIL picture as a PNG of 256 colours."""
    from PIL import Image

    buffer = io.BytesIO()
    picture.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def image_html(figure: Any, alt: str | None = None, **attributes: str) -> str:
    """An ``<img>`` that holds the figure itself.

    Args:
        figure: a matplotlib Figure.
        alt: what it shows; by default the figure's label, ``figure.get_label()``.
        attributes: more attributes of the element.

    Raises:
        AvsError: neither an `alt` nor a label.
    """
    alt = figure.get_label() if alt is None else alt
    if not alt.strip():
        raise UsageError("image_html: alt is empty; say in a sentence what the figure shows")
    source = "data:image/png;base64," + base64.b64encode(figure_png(figure)).decode()
    attributes = {"alt": alt, "src": source, "style": "max-width: 100%; height: auto"} | attributes
    return "<img " + " ".join(f'{name}="{escape(value)}"' for name, value in attributes.items()) + ">"


def player_html(waveform: Float[np.ndarray, "S"], label: str, sample_rate: int = SAMPLE_RATE) -> str:
    """An ``<audio>`` element that holds the sound as Ogg Vorbis, about 20 kB for 5 s.

    Args:
        waveform: mono, -1 to 1; a tensor or an array.
        label: what is heard; read out by screen readers and shown above the player.
        sample_rate: in Hz.

    Raises:
        AvsError: a waveform that is not mono, [samples].
    """
    import soundfile

    samples = np.clip(np.asarray(waveform, dtype=np.float32), -1, 1)
    if samples.ndim != 1:
        raise UsageError(f"player: the waveform has shape {list(samples.shape)}; expected mono, [samples]")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="OGG", subtype="VORBIS")
    source = "data:audio/ogg;base64," + base64.b64encode(buffer.getvalue()).decode()
    text = escape(label)
    audio = f'<audio controls aria-label="{text}" src="{source}"></audio>'
    return f"<figure style='margin: 0'><figcaption>{text}</figcaption>{audio}</figure>"
