"""A learning curve that redraws itself under its cell while a model trains."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from avslib.course.show import show
from avslib.study.plots import curves_figure


class LiveCurves:
    """Draws each new row of a training: ``train(config, out, on_row=LiveCurves())``.

    The first row opens a display under the running cell, later ones redraw it. Outside a notebook the rows are only
    kept, in `rows`, as in ``history.csv``. Pass the earlier `rows` where a training is resumed. Two redraws are at
    least `every` seconds apart, so that drawing stays cheap beside training; val scores are always drawn.
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
