"""Threshold slider: the F curve, and the mask at each of its thresholds."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from avslib.core.errors import NotebookError
from avslib.course.widgets.parts import control, panel
from avslib.metrics import THRESHOLDS, f_curves
from avslib.study.plots import COLOURS, PREDICTION, TRUTH, draw_outline, style


def threshold_figure(probability: Float[Tensor, "N H W"], mask: Shaped[Tensor, "N H W"], threshold: float) -> Any:
    """The mean F curve of N frames with a threshold marked, and the first four frames' masks at it.

    The threshold is the nearest of the 255 of `avslib.metrics`. Precision and recall are means over the frames whose
    mask is not empty, as F is.
    """
    return _draw(*_curve(probability, mask), threshold)


def threshold_slider(probability: Float[Tensor, "N H W"], mask: Shaped[Tensor, "N H W"]) -> Any:
    """A slider over the thresholds above `threshold_figure`; the curve is computed once."""
    slider = control("FloatSlider", "Threshold", min=0, max=1, step=0.01, value=0.5, readout_format=".2f")
    return panel({"threshold": slider}, partial(_draw, *_curve(probability, mask)))


def _curve(probability: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, "255"]]:
    """Numbers, probabilities and masks of the frames that have a mask, and their mean F at every threshold."""
    if probability.ndim != 3 or not ((probability >= 0) & (probability <= 1)).all():
        raise NotebookError(f"expected probabilities [N, H, W] from 0 to 1; got shape {list(probability.shape)}")
    probability, mask = probability.detach().cpu().float(), mask.cpu()
    curves, counted = f_curves(torch.logit(probability), mask)
    if not counted.any():
        raise NotebookError("no frame has a mask; F is defined only where something sounds")
    return counted.nonzero().flatten(), probability[counted], mask[counted].bool(), curves[counted].mean(0)


def _draw(frames: Tensor, probability: Tensor, true: Tensor, f: Tensor, threshold: float) -> Any:
    import seaborn as sns
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    if not 0 <= threshold <= 1:
        raise NotebookError(f"threshold {threshold}: expected a number from 0 to 1")
    place, best = round(threshold * (len(THRESHOLDS) - 1)), int(f.argmax())
    at = THRESHOLDS[place].item()
    lit = probability >= at
    hits = (lit & true).flatten(1).sum(1)
    precision, recall = ((hits / x.flatten(1).sum(1).clamp(min=1)).mean().item() for x in (lit, true))
    numbers = f"F {f[place]:.3f}, precision {precision:.3f}, recall {recall:.3f}"
    top = f"best: F {f[best]:.3f} at {THRESHOLDS[best]:.2f}"
    figure = Figure(figsize=(8.5, 3.2), dpi=80, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.2, 1))
    with rc_context(style()):
        axis = left.subplots()
    sns.lineplot(x=THRESHOLDS.numpy(), y=f.numpy(), estimator=None, ax=axis, color=COLOURS["blue"])
    axis.axvline(at, color=COLOURS["orange"], linestyle="--")
    axis.plot(at, f[place], "o", color=COLOURS["orange"], markeredgecolor="black")
    axis.plot(THRESHOLDS[best], f[best], "^", color=COLOURS["black"], label=top)
    axis.set(xlabel="threshold", ylabel=f"F, mean over {len(frames)} frames", xlim=(-0.02, 1.02), ylim=(0, 1.02))
    axis.set_title(f"at {at:.2f}: {numbers}", fontsize=9)
    axis.legend(fontsize=8, loc="lower center", frameon=False)
    for k, one in zip(range(len(frames)), right.subplots(2, 2).flat, strict=False):
        drawn = one.imshow(probability[k], cmap="cividis", vmin=0, vmax=1)
        draw_outline(one, true[k], TRUTH)
        draw_outline(one, lit[k], PREDICTION)
        one.set_title(f"frame {frames[k]}", fontsize=8)
    for one in right.axes:
        one.set_axis_off()
    right.suptitle("truth solid, prediction dashed", fontsize=8)
    right.colorbar(drawn, ax=right.axes, label="probability", shrink=0.9)
    share = f"{100 * lit.float().mean():.1f} % of the pixels lit"
    figure.set_label(f"F curve over {len(frames)} frames; {top}. At threshold {at:.2f}: {numbers}, {share}.")
    return figure
