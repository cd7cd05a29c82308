"""Pictures, sounds and learning curves as cell outputs or HTML: small, with words for screen readers."""

import base64
import io
import time
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import soundfile
from jaxtyping import Float

from avslib.audio import SAMPLE_RATE
from avslib.core.errors import UsageError
from avslib.study.plots import curves_figure, small_png


def show(figure: Any, alt: str) -> Any:
    """A matplotlib figure as a cell's output: 256 colours, so that the notebook stays small.

    The figure is closed, so that it is not drawn twice. `alt` says what it shows, for screen readers; an empty one
    raises AvsError.
    """
    from IPython.display import Image

    plt.close(figure)
    return Image(small_png(figure), format="png", alt=_require(alt))


def image_html(figure: Any, onload: str = "") -> str:
    """An ``<img>`` that holds a matplotlib figure, whose label is the alternative text; `onload` is a script."""
    alt, source = escape(_require(figure.get_label())), _data_url("image/png", small_png(figure))
    return f'<img alt="{alt}" src="{source}" style="max-width: 100%; height: auto" onload="{escape(onload)}">'


def player(waveform: Float[np.ndarray, "S"], label: str, sample_rate: int = SAMPLE_RATE) -> Any:
    """A mono sound (-1 to 1) as a cell's output (``IPython.display.HTML``), in Ogg Vorbis, about 20 kB for 5 s.

    `label` says what is heard: shown above the player and read out by screen readers. IPython's own Audio has none.
    Raises AvsError for a waveform that is not mono.
    """
    from IPython.display import HTML

    samples, buffer = np.clip(np.asarray(waveform, dtype=np.float32), -1, 1), io.BytesIO()
    if samples.ndim != 1:
        raise UsageError(f"player: the waveform has shape {list(samples.shape)}; expected mono, [samples]")
    soundfile.write(buffer, samples, sample_rate, format="OGG", subtype="VORBIS")
    return HTML(_media_html("audio", "audio/ogg", buffer.getvalue(), label))


def video_html(path: str | Path, label: str, width: int = 320) -> str:
    """A ``<video>`` element that holds an mp4 file itself, with controls; `label` is shown and read out."""
    size = f' width="{width}" style="max-width: 100%"'
    return _media_html("video", "video/mp4", Path(path).read_bytes(), label, size)


class LiveCurves:
    """Draws each new row of a training: ``train(config, out, on_row=LiveCurves())``.

    The first row opens a display under the running cell, later ones redraw it at most once in `every` seconds; val
    scores are always drawn. All `rows` are kept, outside a notebook too; pass the earlier ones where a run resumes.
    """

    def __init__(self, rows: Iterable[Mapping[str, float]] = (), every: float = 2.0) -> None:
        self.rows = [dict(row) for row in rows]
        self.every = every
        self._drawn = 0.0
        self._handle: Any = None

    def __call__(self, row: Mapping[str, float]) -> None:
        from IPython import get_ipython
        from IPython.display import display

        self.rows.append(dict(row))
        soon = time.monotonic() - self._drawn < self.every and "val_J" not in row
        if get_ipython() is None or (soon and self._handle is not None):
            return
        picture = show(curves_figure(self.rows, dpi=80), f"Loss parts and scores on val up to step {row['step']}")
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)
        self._drawn = time.monotonic()


def _media_html(tag: str, kind: str, data: bytes, label: str, layout: str = "") -> str:
    text = escape(label)
    element = f'<{tag} controls{layout} aria-label="{text}" src="{_data_url(kind, data)}"></{tag}>'
    return f"<figure style='margin: 0'><figcaption>{text}</figcaption>{element}</figure>"


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _require(alt: str) -> str:
    if not alt.strip():
        raise UsageError("alt is empty: say in a sentence what the figure shows")
    return alt
