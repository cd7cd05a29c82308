"""Pictures and sounds as cell outputs or HTML: small, with words for those who do not see or hear them."""

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from avslib.audio import SAMPLE_RATE
from avslib.core.errors import UsageError


def show(figure: Any, alt: str) -> Any:
    """A matplotlib figure, or the path of a PNG, as a cell's output: 256 colours, so that the notebook stays small.

    Args:
        figure: ``matplotlib.figure.Figure`` (closed afterwards, so that it is not drawn twice), or a path.
        alt: what the picture shows, for screen readers; kept beside the picture.

    Raises:
        AvsError: no `alt`.
    """
    import matplotlib.pyplot as plt
    from IPython.display import Image
    from PIL import Image as Picture

    _require(alt)
    if isinstance(figure, str | Path):
        return Image(small_png(Picture.open(figure)), format="png", alt=alt)
    picture = Image(figure_png(figure), format="png", alt=alt)
    plt.close(figure)
    return picture


def player(waveform: Float[np.ndarray, "S"], label: str, sample_rate: int = SAMPLE_RATE) -> Any:
    """The `player_html` of a sound as a cell's output (``IPython.display.HTML``)."""
    from IPython.display import HTML

    return HTML(player_html(waveform, label, sample_rate))


def figure_png(figure: Any) -> bytes:
    """A matplotlib figure as a PNG of 256 colours."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure")
    return small_png(Image.open(buffer))


def small_png(picture: Any) -> bytes:
    """A PIL picture as a PNG of 256 colours."""
    from PIL import Image

    buffer = io.BytesIO()
    picture.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def image_html(figure: Any, onload: str = "") -> str:
    """An ``<img>`` that holds a matplotlib figure; its label is the alternative text; `onload` is a script.

    Raises:
        AvsError: a figure without a label.
    """
    alt = _require(figure.get_label())
    return (
        f'<img alt="{escape(alt)}" src="{data_url("image/png", figure_png(figure))}" '
        f'style="max-width: 100%; height: auto" onload="{escape(onload)}">'
    )


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
    source, text = data_url("audio/ogg", buffer.getvalue()), escape(label)
    audio = f'<audio controls aria-label="{text}" src="{source}"></audio>'
    return f"<figure style='margin: 0'><figcaption>{text}</figcaption>{audio}</figure>"


def data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _require(alt: str) -> str:
    if not alt.strip():
        raise UsageError("alt is empty: say in a sentence what the figure shows")
    return alt
