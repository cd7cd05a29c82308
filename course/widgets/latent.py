"""Latent explorer: move s_v, s_a and c along their principal axes and watch the mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from avslib.core.errors import NotebookError
from avslib.data.avsbench import AVSBench
from avslib.models.latent import PRIOR
from avslib.study.plots import frames_of, outlined_frames
from avslib.video.predictor import Predictor
from course.widgets.parts import check_clip, clip_title, control, panel, resize_to

Shifts = Mapping[str, Sequence[float]]  # by code: standard deviations along each of its principal axes
SYMBOLS = dict(zip(PRIOR, ("s_v", "s_a", "c"), strict=True))


@dataclass(frozen=True)
class LatentAxes:
    """Principal axes of a cloud of codes by falling spread, the standard deviation and share of variance along each."""

    axes: Float[Tensor, "n K"]
    deviation: Float[Tensor, "n"]
    share: Float[Tensor, "n"]

    def offset(self, shift: Sequence[float]) -> Float[Tensor, "K"]:
        """What to add to a code to move it by `shift` standard deviations along the first axes."""
        n = len(shift)
        if n > len(self.axes):
            raise NotebookError(f"a shift has {n} numbers for {len(self.axes)} axes; give at most one per axis")
        return torch.tensor(shift, dtype=torch.float32) * self.deviation[:n] @ self.axes[:n]


def principal_axes(codes: Float[Tensor, "N K"], n: int = 2) -> LatentAxes:
    """The first `n` <= min(N, K) principal axes of N >= 2 codes, signed so that the largest component is positive."""
    shape = list(codes.shape)
    if codes.ndim != 2 or len(codes) < 2 or not 1 <= n <= min(shape):
        raise NotebookError(f"principal_axes: expected codes [N, K], N >= 2, 1 <= n <= min(N, K); got {shape}, n = {n}")
    codes = codes.detach().cpu().double()
    _, spread, axes = torch.linalg.svd(codes - codes.mean(0), full_matrices=False)
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    variance = spread.square() / (len(codes) - 1)
    share = variance / variance.sum().clamp(min=1e-30)
    return LatentAxes(axes[:n].float(), variance[:n].sqrt().float(), share[:n].float())


@torch.no_grad()
def code_axes(predictor: Predictor, dataset: AVSBench, n: int = 2) -> dict[str, LatentAxes]:
    """Principal axes of the prior's mean codes over all frames of `dataset`: ``vs`` (s_v), ``as`` (s_a), ``vac`` (c).

    Only the latent encoders run, which takes a few seconds for a hundred clips. Raises AvsError for clips without sound
    embeddings and for a model without these three codes.
    """
    check_clip(dataset, sound=True)
    model, means = predictor.model, {name: [] for name in PRIOR}
    if (latent := model.config.model.latent) != "factorised":
        raise NotebookError(f"this model has model.latent={latent}: open a factorised one, with codes s_v, s_a and c")
    for index in range(len(dataset)):
        item = dataset[index]
        audio = item["audio"].to(predictor.device) * model.config.model.use_audio
        latents = model.prior.encode(model.normalize(item["image"].to(predictor.device)), audio, None)
        for name in PRIOR:
            means[name].append(latents[name][0].cpu())
    return {name: principal_axes(torch.cat(rows), n) for name, rows in means.items()}


def latent_figure(
    predictor: Predictor, dataset: AVSBench, index: int, shifts: Shifts, axes: Mapping[str, LatentAxes] | None = None
) -> Any:
    """Masks of clip `index` with its mean codes, with shifted ones, and how far each pixel's probability moved.

    `shifts` are for ``vs`` (s_v), ``as`` (s_a), ``vac`` (c); `axes`, from `code_axes`, are computed when left out.
    """
    check_clip(dataset, index, sound=True)
    if unknown := [name for name in shifts if name not in PRIOR]:
        known = ", ".join(f"{key} ({symbol})" for key, symbol in SYMBOLS.items())
        raise NotebookError(f"there is no code {unknown[0]!r}; the codes are {known}")
    axes = code_axes(predictor, dataset) if axes is None else axes
    item = dataset[index]
    image, audio, truth = item["image"], item["audio"], item["mask"][:, 0]
    output = predictor.run(image, audio)
    codes = {name: output.codes[name].cpu() + axes[name].offset(shift) for name, shift in shifts.items()}
    both = output.logits[:, 0].float().sigmoid().cpu(), predictor.with_codes(image, audio, codes)
    before, after = (resize_to(field, truth.shape[-2:]) for field in both)
    was, now = before > 0.5, after > 0.5
    lit, relit, changed = (f"{100 * mask.float().mean():.1f} %" for mask in (was, now, was != now))
    gap = (after - before).abs()
    moves = ", ".join(f"{SYMBOLS[k]} ({' '.join(f'{x:+.1f}' for x in v)})" for k, v in shifts.items() if any(v))
    first = f"{clip_title(dataset, index)}, mean codes: lit {lit}"
    second = f"shifted by {moves + ' sd' if moves else 'nothing'}: lit {relit}, changed {changed}"
    third = f"change of probability, white where it is largest: {gap.max():.2f}"
    frames, grey = frames_of(item), (255 * gap / gap.max().clamp(min=1e-6)).byte()[..., None].expand(-1, -1, -1, 3)
    rows = [(first, frames, truth, before), (second, frames, truth, after), (third, grey, truth, after)]
    figure = outlined_frames(rows, dpi=80)
    figure.set_label(f"Clip with true and predicted outlines. {first}; {second}; {third}.")
    return figure


def latent_explorer(predictor: Predictor, dataset: AVSBench, index: int = 0) -> Any:
    """Six sliders, two principal axes for each of s_v, s_a, c, above `latent_figure`. The axes are computed once."""
    axes = code_axes(predictor, dataset)
    steps = {"min": -4, "max": 4, "step": 0.5, "value": 0, "readout_format": "+.1f", "continuous_update": False}
    controls = {}
    for name in PRIOR:
        for k in range(2):
            label = f"{SYMBOLS[name]}, axis {k + 1} ({100 * axes[name].share[k]:.0f} %) / sd"
            controls[f"{name}_{k}"] = control("FloatSlider", label, **steps)

    def draw(**values: float) -> Any:
        shifts = {name: (values[f"{name}_0"], values[f"{name}_1"]) for name in PRIOR}
        return latent_figure(predictor, dataset, index, shifts, axes)

    return panel(controls, draw)
