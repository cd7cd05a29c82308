"""A strip of frames that shows a segmented video at a glance."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from avslib.core.errors import UsageError
from avslib.video.overlay import Second, outlined, painted

SIDE = 640  # pixels of the longer side of what `keep_some` keeps


def keep_some(seconds: Iterable[Second], kept: list[Second], most: int = 24) -> Iterator[Second]:
    """Pass `seconds` on, and keep at most `most` of them in `kept`: evenly spread, and with smaller pictures."""
    stride = 1
    for count, second in enumerate(seconds):
        if count % stride == 0:
            step = -(-max(second.image.shape[:2]) // SIDE)
            maps = {name: values for name, values in vars(second).items() if isinstance(values, np.ndarray)}
            kept.append(replace(second, **{name: values[::step, ::step].copy() for name, values in maps.items()}))
        if len(kept) > most:
            del kept[1::2]
            stride *= 2
        yield second


def strip_figure(seconds: Sequence[Second], columns: int = 6) -> Any:
    """Frames of a video with the mask tinted and outlined; below them the uncertainty in bits, where there is one.

    Of `seconds`, results of `Predictor.predict`, `columns` are drawn, evenly spread. The label of the matplotlib Figure
    says in words what it shows. Raises AvsError where there is no second to draw.
    """
    from matplotlib.figure import Figure

    count = min(columns, len(seconds))
    if count < 1:
        raise UsageError("strip_figure: there is no second to draw; give the results of predict(...)")
    shown = [seconds[(2 * i + 1) * len(seconds) // (2 * count)] for i in range(count)]
    rows = 1 + (shown[0].uncertainty is not None)
    height, width = shown[0].image.shape[:2]
    size = (1.3 * count + 0.5 * (rows - 1), rows * 1.3 * height / width + 0.25)
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
