"""A strip of frames that shows a segmented video at a glance."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from avslib.core.errors import UsageError
from avslib.video.overlay import Brush, Second


class Spread:
    """Keeps some of a stream of seconds, evenly spread however long it becomes: `seconds`.

    Args:
        most: how many are kept; at least half as many, where there are that many.
        longest: longer side of the kept pictures and maps, in pixels; larger ones are made smaller.
    """

    def __init__(self, most: int = 24, longest: int = 480) -> None:
        self.most, self.longest, self.seconds = most, longest, []
        self._stride, self._count = 1, 0

    def add(self, second: Second) -> None:
        if self._count % self._stride == 0:
            step = -(-max(second.image.shape[:2]) // self.longest)
            maps = {name: values for name, values in vars(second).items() if isinstance(values, np.ndarray)}
            small = {name: values[step // 2 :: step, step // 2 :: step].copy() for name, values in maps.items()}
            self.seconds.append(replace(second, **small))
        if len(self.seconds) > self.most:
            del self.seconds[1::2]
            self._stride *= 2
        self._count += 1


def strip_figure(seconds: Sequence[Second], columns: int = 6) -> Any:
    """Frames of a video with the mask tinted and outlined; below them the uncertainty in bits, where there is one.

    Of `seconds`, results of `Predictor.predict`, `columns` are drawn, evenly spread. The label of the matplotlib Figure
    says in words what it shows. Raises AvsError where there is no second to draw.
    """
    from matplotlib.figure import Figure

    seconds = list(seconds)
    if not seconds or columns < 1:
        raise UsageError("strip_figure: there is no second to draw; give the results of predict(...)")
    count = min(columns, len(seconds))
    shown = [seconds[(2 * i + 1) * len(seconds) // (2 * count)] for i in range(count)]
    rows = 1 + (shown[0].uncertainty is not None)
    height, width = shown[0].image.shape[:2]
    size = (1.3 * count + 0.5 * (rows - 1), rows * 1.3 * height / width + 0.25)
    figure = Figure(figsize=size, dpi=80, layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    for column, second in zip(axes.T, shown, strict=True):
        column[0].imshow(Brush(second.mask).paint(second.image))
        column[0].set_title(f"{second.time:.0f} s: {100 * second.mask.mean():.1f} %", fontsize=8, pad=3)
        if second.uncertainty is not None:
            drawn = column[1].imshow(second.uncertainty, cmap="cividis", vmin=0, vmax=1)
    for axis in axes.flat:
        axis.set_axis_off()
    label = f"{count} frames of the video with what sounds outlined; share of pixels marked: "
    label += ", ".join(f"second {s.index}: {100 * s.mask.mean():.1f} %" for s in shown) + "."
    if rows == 2:
        figure.colorbar(drawn, ax=list(axes[1]), label="uncertainty / bit", fraction=0.05, pad=0.01)
        label += " Below each the uncertainty, bright where the model is unsure."
    figure.set_label(label)
    return figure
