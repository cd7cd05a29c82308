"""Pictures and sounds as cell outputs: small, with a text for those who do not see them."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from avslib.audio import SAMPLE_RATE
from avslib.core.errors import UsageError
from avslib.course.inline import figure_png, player_html, small_png


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
        raise UsageError("show: alt is empty; say in a sentence what the figure shows")
    if isinstance(figure, str | Path):
        return Image(small_png(Picture.open(figure)), format="png", alt=alt)
    import matplotlib.pyplot as plt

    data = figure_png(figure)
    plt.close(figure)
    return Image(data, format="png", alt=alt)


def player(waveform: Float[np.ndarray, "S"], label: str, sample_rate: int = SAMPLE_RATE) -> Any:
    """An audio player as a cell's output (``IPython.display.HTML``); the sound is Ogg Vorbis, about 20 kB for 5 s.

    Args:
        waveform: mono, -1 to 1; a tensor or an array.
        label: what is heard; read out by screen readers and shown above the player.
        sample_rate: in Hz.
    """
    from IPython.display import HTML

    return HTML(player_html(waveform, label, sample_rate))
