"""Inputs at the extremes, drawn by hypothesis: for tests that go through all loss terms or scores.

Log-variances from -50 to 50, means and logits to 1e4, one row, one pixel, empty and full masks, silence.
"""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

WEIGHTINGS, SCALES, BOUNDS = ("official", "per_pixel"), ("official", "consistent"), ("official", "full")
DIVERGENCES = ("official", "monte_carlo_js", "geometric_js", "symmetric_kl")
STRIDES = {(1, 1): (1,), (1, 8): (1,), (32, 32): (4, 32), (40, 24): (2, 8)}  # of the fused maps, by size of the mask
EFFORTS = [
    pytest.param(settings(max_examples=50, deadline=None, derandomize=True, database=None), id="quick"),
    pytest.param(settings(max_examples=1500, deadline=None, database=None), id="long", marks=pytest.mark.long),
]
at_the_extremes = pytest.mark.parametrize("effort", EFFORTS)


@dataclass
class Case:
    """Latents [N, K] of a prior p and a posterior q, noise, logits and mask [N, 1, H, W], fused maps, audio [N, C]."""

    p: tuple[Tensor, Tensor]
    q: tuple[Tensor, Tensor]
    eps: tuple[Tensor, Tensor]
    logits: Tensor
    mask: Tensor
    fused: list[Tensor]
    audio: Tensor
    forms: dict[str, str]
    annotated: Tensor | None

    @property
    def leaves(self):
        return [*self.p, *self.q, self.logits, *self.fused, self.audio]


def around(limit):
    return st.one_of(st.sampled_from([-limit, limit, 0.0]), st.floats(-limit, limit, width=32))


@st.composite
def cases(draw, dtypes=(torch.float32, torch.bfloat16)):
    rows, k, dtype = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from(dtypes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def latent(limit):
        numbers = draw(st.lists(around(limit), min_size=rows * k, max_size=rows * k))
        return torch.tensor(numbers).view(rows, k).to(dtype).requires_grad_()

    def normal(*shape, scales):
        return draw(st.sampled_from(scales)) * torch.randn(*shape, generator=generator)

    h, w = draw(st.sampled_from(list(STRIDES)))
    cover = torch.tensor([draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) for _ in range(rows)]).view(rows, 1, 1, 1)
    mask = (torch.rand(rows, 1, h, w, generator=generator) < cover).float()
    logits = normal(rows, 1, h, w, scales=(0, 1, 100)) + draw(st.sampled_from([0.0, 1e4, -1e4]))
    fused = [normal(rows, 4, h // s, w // s, scales=(0, 1e-6, 1, 1e4)) for s in STRIDES[h, w]]
    audio = normal(rows, 4, scales=(0, 1e-6, 1, 1e4))
    choices = {"structure_weighting": WEIGHTINGS, "kl_scale": SCALES, "divergence_c": DIVERGENCES, "mi_bound": BOUNDS}
    annotated = torch.arange(rows) == 0 if draw(st.booleans()) else None
    return Case(
        (latent(1e4), latent(50.0)),
        (latent(1e4), latent(50.0)),
        (latent(6.0).detach(), latent(6.0).detach()),
        logits.to(dtype).requires_grad_(),
        mask,
        [x.to(dtype).requires_grad_() for x in fused],
        audio.to(dtype).requires_grad_(),
        {k: draw(st.sampled_from(v)) for k, v in choices.items()},
        annotated,
    )
