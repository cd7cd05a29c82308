"""Pictures and sounds as cell outputs: small, with a text for those who do not see them."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from avslib.audio import SAMPLE_RATE
from avslib.errors import AvsError

__all__ = ["player", "show"]


def show(figure: Any, alt: str) -> Any:
    """A matplotlib figure, or the path of a PNG, as a cell's output: 256 colours, so that the notebook stays small.

    Args:
        figure: ``matplotlib.figure.Figure`` (closed afterwards, so that it is not drawn twice), or a path.
        alt: what the picture shows, for screen readers; kept beside the picture.

    Raises:
        AvsError: no `alt`.
    """
    from IPython.display import Image
    from PIL import Image as Picture

    if not alt.strip():
        raise AvsError("show: alt is empty; say in a sentence what the figure shows")
    if isinstance(figure, str | Path):
        picture = Picture.open(figure).convert("RGB")
    else:
        import matplotlib.pyplot as plt
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        picture = Picture.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        plt.close(figure)
    buffer = io.BytesIO()
    picture.quantize(256, dither=Picture.Dither.FLOYDSTEINBERG).save(buffer, format="png", optimize=True)
    return Image(buffer.getvalue(), format="png", alt=alt)


def player(waveform: Float[np.ndarray, "S"], label: str, sample_rate: int = SAMPLE_RATE) -> Any:
    """An audio player as a cell's output (``IPython.display.HTML``); the sound is Ogg Vorbis, about 20 kB for 5 s.

    Args:
        waveform: mono, -1 to 1; a tensor or an array.
        label: what is heard; read out by screen readers and shown above the player.
        sample_rate: in Hz.
    """
    from IPython.display import HTML

    return HTML(player_html(waveform, label, sample_rate))


def player_html(waveform: Float[np.ndarray, "S"], label: str, sample_rate: int = SAMPLE_RATE) -> str:
    """The `<audio>` element of `player`, for widgets too."""
    from html import escape

    import soundfile

    samples = np.clip(np.asarray(waveform, dtype=np.float32), -1, 1)
    if samples.ndim != 1:
        raise AvsError(f"player: the waveform has shape {list(samples.shape)}; expected mono, [samples]")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="OGG", subtype="VORBIS")
    source = "data:audio/ogg;base64," + base64.b64encode(buffer.getvalue()).decode()
    text = escape(label, quote=True)
    audio = f'<audio controls aria-label="{text}" src="{source}"></audio>'
    return f"<figure><figcaption>{text}</figcaption>{audio}</figure>"
