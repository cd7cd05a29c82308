"""Loss playground and threshold slider: the divergences of two Gaussians; the F curve and the mask at a threshold."""

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from avslib.core.errors import NotebookError
from avslib.losses import gaussian_kl, geometric_js, monte_carlo_js, official_js, symmetric_kl
from avslib.metrics import THRESHOLDS, f_curves
from avslib.study.plots import COLOURS, PREDICTION, TRUTH, draw_outline, styled_axes
from course.widgets.parts import control, panel

SAMPLES = 20_000  # standard error of the Monte-Carlo JS below 0.003


def divergences(mu_p: float, sigma_p: float, mu_q: float, sigma_q: float) -> dict[str, float]:
    """Every divergence of avslib.losses between N(mu_p, sigma_p^2) and N(mu_q, sigma_q^2), in nats."""
    values = (mu_p, sigma_p, mu_q, sigma_q)
    if not all(math.isfinite(x) for x in values) or min(sigma_p, sigma_q) <= 0:
        raise NotebookError(f"expected finite means and positive sigmas; got mu_p, sigma_p, mu_q, sigma_q = {values}")
    eps_p, eps_q = torch.randn(2, SAMPLES, 1, generator=torch.Generator().manual_seed(0))
    given = (mu_p, 2 * math.log(sigma_p)), (mu_q, 2 * math.log(sigma_q))
    p, q = (tuple(torch.full((SAMPLES, 1), float(x)) for x in gaussian) for gaussian in given)
    found = {
        "KL(p‖q)": gaussian_kl(p, q)[0],
        "KL(q‖p)": gaussian_kl(q, p)[0],
        "symmetric KL": symmetric_kl(p, q),
        "Monte-Carlo JS": monte_carlo_js(p, q, eps_p, eps_q),
        "geometric JS": geometric_js(p, q),
        'released "JS"': official_js(p, q, eps_p, eps_q),
    }
    return {name: value.item() for name, value in found.items()}


def divergence_figure(mu_p: float, sigma_p: float, mu_q: float, sigma_q: float) -> Any:
    """Both densities, and a bar for each of `divergences`."""
    import seaborn as sns

    found = divergences(mu_p, sigma_p, mu_q, sigma_q)
    figure, ((left, right),) = styled_axes(8.5, 3.2, 1, 2, dpi=80, width_ratios=(1, 1.15))
    reach = max(8, abs(mu_p) + 3 * sigma_p, abs(mu_q) + 3 * sigma_q)
    x = np.linspace(-reach, reach, 1001)
    for name, mu, sigma, colour, dash in (("p", mu_p, sigma_p, "blue", "-"), ("q", mu_q, sigma_q, "orange", "--")):
        y = np.exp(-0.5 * ((x - mu) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
        label = f"{name}: $\\mu$ = {mu:.1f}, $\\sigma$ = {sigma:.1f}"
        sns.lineplot(x=x, y=y, estimator=None, ax=left, color=COLOURS[colour], linestyle=dash, label=label)
        left.fill_between(x, y, color=COLOURS[colour], alpha=0.15)
    left.set(xlabel="x", ylabel="density", xlim=(-reach, reach))
    left.legend(fontsize=8, loc="upper right", frameon=False)
    colours = [COLOURS["vermilion" if "released" in name else "blue"] for name in found]
    sns.barplot(x=list(found.values()), y=list(found), hue=list(found), palette=colours, saturation=1, ax=right)
    for bars in right.containers:
        right.bar_label(bars, fmt=" {:.3f}", fontsize=8)
    right.axvline(math.log(2), color=COLOURS["black"], linestyle=":", linewidth=1)
    right.text(math.log(2), -0.75, " log 2", fontsize=7, va="center")
    right.set(xlabel="nats", xlim=(0, 1.2 * max(2.0, *found.values())), ylim=(len(found) - 0.4, -1.2))
    numbers = "; ".join(f"{name} {value:.3f}" for name, value in found.items())
    gaussians = f"Gaussians p (mu {mu_p:.1f}, sigma {sigma_p:.1f}) and q (mu {mu_q:.1f}, sigma {sigma_q:.1f})"
    figure.set_label(f"{gaussians}. {numbers} nats.")
    return figure


def loss_playground() -> Any:
    """Sliders for mean and sigma of p and q above `divergence_figure`."""

    def slider(label: str, low: float, value: float) -> Any:
        return control("FloatSlider", label, min=low, max=4, step=0.1, value=value, readout_format=".1f")

    controls = {"mu_p": slider("Mean of p", -4, 0), "sigma_p": slider("Sigma of p", 0.2, 1)}
    controls |= {"mu_q": slider("Mean of q", -4, 1.5), "sigma_q": slider("Sigma of q", 0.2, 1)}
    return panel(controls, divergence_figure)


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
    from torchvision.utils import make_grid

    if not 0 <= threshold <= 1:
        raise NotebookError(f"threshold {threshold}: expected a number from 0 to 1")
    place, best = round(threshold * (len(THRESHOLDS) - 1)), int(f.argmax())
    at = THRESHOLDS[place].item()
    lit = probability >= at
    hits = (lit & true).flatten(1).sum(1)
    precision, recall = ((hits / x.flatten(1).sum(1).clamp(min=1)).mean().item() for x in (lit, true))
    numbers = f"F {f[place]:.3f}, precision {precision:.3f}, recall {recall:.3f}"
    top = f"best: F {f[best]:.3f} at {THRESHOLDS[best]:.2f}"
    figure, ((left, right),) = styled_axes(8.5, 3.2, 1, 2, dpi=80, width_ratios=(1.2, 1))
    sns.lineplot(x=THRESHOLDS.numpy(), y=f.numpy(), estimator=None, ax=left, color=COLOURS["blue"])
    left.axvline(at, color=COLOURS["orange"], linestyle="--")
    left.plot(at, f[place], "o", color=COLOURS["orange"], markeredgecolor="black")
    left.plot(THRESHOLDS[best], f[best], "^", color=COLOURS["black"], label=top)
    left.set(xlabel="threshold", ylabel=f"F, mean over {len(frames)} frames", xlim=(-0.02, 1.02), ylim=(0, 1.02))
    left.set_title(f"at {at:.2f}: {numbers}", fontsize=9)
    left.legend(fontsize=8, loc="lower center", frameon=False)
    first = [make_grid(field[:4, None].float(), nrow=2)[0].numpy() for field in (probability, true, lit)]
    right.set_axis_off()
    drawn = right.imshow(first[0], cmap="cividis", vmin=0, vmax=1)
    draw_outline(right, first[1], TRUTH)
    draw_outline(right, first[2], PREDICTION)
    right.set_title(f"frames {', '.join(map(str, frames[:4].tolist()))}; prediction dashed", fontsize=9)
    figure.colorbar(drawn, ax=right, label="probability", shrink=0.9)
    share = f"{100 * lit.float().mean():.1f} % of the pixels lit"
    figure.set_label(f"F curve over {len(frames)} frames; {top}. At threshold {at:.2f}: {numbers}, {share}.")
    return figure
