"""Loss playground: two Gaussians on a line, and what each divergence of the package says of them."""

import math
from typing import Any

import numpy as np
import torch

from avslib.core.errors import NotebookError
from avslib.course.widgets.parts import control, panel
from avslib.losses import gaussian_kl, geometric_js, monte_carlo_js, official_js, symmetric_kl
from avslib.study.plots import COLOURS, styled_axes

SAMPLES = 20_000  # standard error of the Monte-Carlo JS below 0.003


def divergences(mu_p: float, sigma_p: float, mu_q: float, sigma_q: float) -> dict[str, float]:
    """Every divergence between N(mu_p, sigma_p^2) and N(mu_q, sigma_q^2), in nats, by the functions of avslib.losses.

    The two sampled forms take the mean over 20,000 samples of a fixed seed.

    Raises:
        AvsError: a number that is not finite, a sigma that is not positive.

    >>> round(divergences(0, 1, 1, 1)["KL(p‖q)"], 3)
    0.5
    """
    values = (mu_p, sigma_p, mu_q, sigma_q)
    if not all(math.isfinite(x) for x in values) or min(sigma_p, sigma_q) <= 0:
        raise NotebookError(f"expected finite means and positive sigmas; got mu_p, sigma_p, mu_q, sigma_q = {values}")
    eps_p, eps_q = torch.randn(2, SAMPLES, 1, generator=torch.Generator().manual_seed(0))
    p, q = (
        (torch.full((SAMPLES, 1), float(mu)), torch.full((SAMPLES, 1), 2 * math.log(sigma)))
        for mu, sigma in ((mu_p, sigma_p), (mu_q, sigma_q))
    )
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
    left.margins(y=0.25)
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
