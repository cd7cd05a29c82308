"""J and F of AVSBench as pure functions, and as torchmetrics metrics over a whole set.

All scores are per frame: `N` rows of logits [N, 1, H, W] or [N, H, W] against masks of 0 and 1 of the same shape.
Sums are kept in float64 and reduced by addition, so `MeanIoU` and `FScore` do not depend on the batch size, the order
of the rows or the number of processes. (On a device without float64 leave the metric on the CPU: rows are moved.)
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from avslib.core.errors import NonFiniteError, UsageError

Logits = Float[Tensor, "N *frame"]
Masks = Shaped[Tensor, "N *frame"]
BETA_SQUARED = 0.3
# the last one is exactly 1 in float32; the released scores include it
THRESHOLDS: Float[Tensor, "255"] = torch.linspace(0, 1 - 1e-10, 255)
_ABOVE_HALF = 128
_BINS = len(THRESHOLDS) + 1
_FRAMES_IN_CACHE = 16


@dataclass(frozen=True)
class FrameScores:
    """What J and F sum over N frames: `iou_per_frame`, the curve and the counted frames of `f_curves`, and the share of
    pixels with sigmoid > 0.5."""

    iou: Float[Tensor, "N"]
    curve: Float[Tensor, "N 255"]
    counted: Bool[Tensor, "N"]
    lit: Float[Tensor, "N"]

    def __getitem__(self, rows: Any) -> "FrameScores":
        """The scores of these rows."""
        return FrameScores(self.iou[rows], self.curve[rows], self.counted[rows], self.lit[rows])


def frame_scores(logits: Logits, target: Masks) -> FrameScores:
    """IoU and F curve of every frame from one pass over its pixels.

    Equal to comparing all pixels with every threshold: histograms of the sigmoids over the thresholds, inside and
    outside the mask, summed from the top. Raises AvsError on other shapes, masks that are not 0/1, and NaN.
    """
    # mps has no float64
    counts = _histograms(logits, target).to("cpu" if logits.device.type == "mps" else logits.device)
    pixels = target.shape[1:].numel()
    background, hits = counts.flip(-1).cumsum(-1).flip(-1).double()
    true = hits[:, 0]
    empty = true == 0
    intersection, wrong = hits[:, _ABOVE_HALF], background[:, _ABOVE_HALF]
    iou = torch.where(empty, pixels - wrong, intersection) / (torch.where(empty, pixels, true + wrong) + 1e-7)
    met = torch.arange(len(THRESHOLDS), device=counts.device)
    met += met >= _ABOVE_HALF
    background, hits = background[:, met], hits[:, met]
    precision = hits / (hits + background + 1e-20)
    recall = hits / (true[:, None] + 1e-20)
    curve = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return FrameScores(iou, curve.nan_to_num(0.0), ~empty, (intersection + wrong) / pixels)


def iou_per_frame(logits: Logits, target: Masks) -> Float[Tensor, "N"]:
    """Intersection over union of every frame at sigmoid > 0.5, float64.

    IoU = I / (U + 1e-7); a frame with an empty mask scores the share of its pixels that are correctly left out.
    Source: AVSBench (Zhou et al., ECCV 2022), mIoU before the mean over frames. Raises AvsError as `frame_scores`.

    >>> mask = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]])
    >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, -9.0]], [[9.0, -9.0], [-9.0, -9.0]]])
    >>> [round(x, 6) for x in iou_per_frame(logits, mask).tolist()]
    [0.5, 0.75]
    """
    return frame_scores(logits, target).iou


def f_curves(logits: Logits, target: Masks) -> tuple[Float[Tensor, "N 255"], Bool[Tensor, "N"]]:
    """F of every frame at every threshold (float64), and which frames have a non-empty mask.

    F = (1 + b) P R / (b P + R) with b = beta^2 = 0.3, P = tp / (predicted + 1e-20), R = tp / (true + 1e-20),
    prediction = sigmoid >= threshold, NaN -> 0. Source: AVSBench (Zhou et al., ECCV 2022). Raises AvsError as
    `frame_scores`.

    >>> mask = torch.tensor([[[1, 1], [0, 0]]])
    >>> curve, counted = f_curves(torch.tensor([[[0.0, 0.0], [0.0, -9.0]]]), mask)
    >>> round(curve[0, 127].item(), 6), counted.tolist()  # at threshold 0.5: P = 2/3, R = 1
    (0.722222, [True])
    """
    scores = frame_scores(logits, target)
    return scores.curve, scores.counted


def _histograms(logits: Logits, target: Masks) -> Int[Tensor, "2 N 256"]:
    """Pixels outside and inside the mask in each bin; bin k ends where the next threshold begins.

    The bin of threshold 0.5 holds only that value, and `_ABOVE_HALF` begins right above it: J uses sigmoid > 0.5, F
    sigmoid >= threshold. (Thresholding the logit at 0 differs: the float32 sigmoid exceeds 0.5 only from 9e-8 on.)
    """
    if logits.shape != target.shape or logits.ndim not in (3, 4) or (logits.ndim == 4 and logits.shape[1] != 1):
        shapes = f"{list(logits.shape)} and {list(target.shape)}"
        raise UsageError(f"metrics expect logits and masks of the same shape, [N, 1, H, W] or [N, H, W]; got {shapes}")
    thresholds, found = THRESHOLDS.to(logits.device), []
    # a few frames at a time stay in a CPU's cache
    size = _FRAMES_IN_CACHE if logits.device.type == "cpu" else max(len(logits), 1)
    for x, y in zip(logits.detach().split(size), target.split(size), strict=True):
        inside = y.flatten(1).bool()
        if not torch.equal(inside.to(y.dtype), y.flatten(1)):
            raise UsageError("metrics expect masks of 0 and 1; divide masks of 0 and 255 by 255")
        probability = x.float().sigmoid().flatten(1)
        if probability.sum().isnan():
            raise NonFiniteError("the logits hold NaN; the model has diverged")
        # a value lies just above or just below the nearest threshold: exact, and far faster than a search
        index = (probability * (len(thresholds) - 1)).round_().to(torch.int32)
        index -= (thresholds.index_select(0, index.flatten()).view_as(index) > probability).int()
        index += (probability > 0.5).int()
        index += inside.int() * (len(x) * _BINS)
        index += torch.arange(len(x), device=index.device, dtype=torch.int32)[:, None] * _BINS
        found.append(torch.bincount(index.flatten(), minlength=2 * len(x) * _BINS).view(2, len(x), _BINS))
    return torch.cat(found, dim=1)


class MeanIoU(Metric):
    """J: the mean over frames of `iou_per_frame`.

    >>> metric = MeanIoU()
    >>> metric.update(torch.tensor([[[9.0, -9.0], [-9.0, -9.0]]]), torch.tensor([[[1, 1], [0, 0]]]))
    >>> round(metric.compute().item(), 6)
    0.5
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    frames: Tensor

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("frames", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Logits, target: Masks, scores: FrameScores | None = None) -> None:
        """Add N frames; shapes and errors as `frame_scores`, whose result can be passed where it is known."""
        scores = frame_scores(logits, target) if scores is None else scores
        self.total += scores.iou.sum().to(self.total.device)
        self.frames += len(logits)

    def compute(self) -> Float[Tensor, ""]:
        """The mean so far; NaN before the first frame."""
        return self.total / self.frames


class PairRanking(Metric):
    """The share of pairs in which what should be brighter is, a tie counting half: 0.5 is chance. With the mean
    probability over an object's outline as brightness it says whether a model follows the sound (Mini-AVS only, which
    knows all objects): *sel* pairs the sounding and the silent objects of a frame, *time* an object's sounding and
    silent seconds.

    >>> metric = PairRanking()
    >>> metric.update(torch.tensor([0.9, 0.4]), torch.tensor([0.5, 0.4]))
    >>> metric.compute().item()  # of the four pairs two are right and one is a tie
    0.625
    """

    full_state_update = False
    higher_is_better = True
    right: Tensor
    pairs: Tensor

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        for name in ("right", "pairs"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, brighter: Float[Tensor, "A"], darker: Float[Tensor, "B"]) -> None:
        """Add the A * B pairs of these values."""
        difference = brighter[:, None] - darker[None, :]
        self.right += ((difference > 0).double() + 0.5 * (difference == 0)).sum().to(self.right.device)
        self.pairs += difference.numel()

    def compute(self) -> Float[Tensor, ""]:
        """The share so far; NaN before the first pair."""
        return self.right / self.pairs


class FScore(Metric):
    """F: the mean F curve over all frames with a non-empty mask, at its best threshold; 0 without any such frame.

    >>> metric = FScore()
    >>> metric.update(torch.tensor([[[9.0, 9.0], [9.0, -9.0]]]), torch.tensor([[[1, 1], [0, 0]]]))
    >>> round(metric.compute().item(), 6)
    0.722222
    """

    full_state_update = False
    higher_is_better = True
    curve: Tensor
    counted: Tensor

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.add_state("curve", torch.zeros(len(THRESHOLDS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counted", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Logits, target: Masks, scores: FrameScores | None = None) -> None:
        """Add N frames; shapes and errors as `frame_scores`, whose result can be passed where it is known."""
        scores = frame_scores(logits, target) if scores is None else scores
        self.curve += scores.curve[scores.counted].sum(0).to(self.curve.device)
        self.counted += scores.counted.sum().to(self.counted.device)

    def compute(self) -> Float[Tensor, ""]:
        """The best mean F so far."""
        return (self.curve / self.counted.clamp(min=1)).max()


class LegacyFScore(Metric):
    """F as published: the best threshold of every test batch, averaged over the batches.

    `batch_size` counts clips of `frames` frames, as in the released scripts: the set is cut into runs of
    ``batch_size * frames`` rows (the last may be shorter; a batch without any mask scores 0). The cut depends only on a
    row's place in the set, not on the rows of an `update`; several processes, or rows in a different order, pass the
    places as `index`.

    >>> metric = LegacyFScore(batch_size=1, frames=1)
    >>> mask = torch.tensor([[[1, 1], [0, 0]], [[1, 0], [0, 0]]])
    >>> metric.update(torch.tensor([[[9.0, 9.0], [9.0, -9.0]], [[-9.0, 9.0], [9.0, 9.0]]]), mask)
    >>> round(metric.compute().item(), 6)  # 0.722222 in the first batch; 0.302326 in the second, all four predicted
    0.512274
    """

    # a row's default place is the number of rows before it, which `forward` would otherwise reset
    full_state_update = True
    higher_is_better = True
    curves: list[Tensor]
    counted: list[Tensor]
    index: list[Tensor]
    parts: Tensor
    unplaced: Tensor

    def __init__(self, batch_size: int = 4, frames: int = 5, **kwargs) -> None:
        super().__init__(**kwargs)
        if batch_size < 1 or frames < 1:
            raise UsageError(f"LegacyFScore expects batch_size and frames of at least 1; got {batch_size}, {frames}")
        self.rows = batch_size * frames
        for name in ("curves", "counted", "index"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.add_state("parts", torch.ones((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("unplaced", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self, logits: Logits, target: Masks, index: Shaped[Tensor, "N"] | None = None, scores: FrameScores | None = None
    ) -> None:
        """Add N frames; `index`: their places in the set (clip number * frames + frame), by default the next N.

        A place that occurs twice counts once (samplers pad the last batch of a process with repeated clips).
        """
        scores = frame_scores(logits, target) if scores is None else scores
        if index is None:
            start = sum(len(part) for part in self.index)
            index = torch.arange(start, start + len(logits))
            self.unplaced += len(logits)
        elif len(index) != len(logits):
            raise UsageError(f"LegacyFScore got {len(index)} places for {len(logits)} rows; pass one per row")
        self.curves.append(scores.curve.to(self.device))
        self.counted.append(scores.counted.to(self.device))
        self.index.append(index.to(self.device))

    def compute(self) -> Float[Tensor, ""]:
        """The mean of the batches' best F; NaN before the first frame."""
        if not len(self.index):
            return torch.tensor(float("nan"), dtype=torch.float64)
        curves, counted, index = map(dim_zero_cat, (self.curves, self.counted, self.index))
        if self.unplaced and (self.parts > 1 or self.unplaced < len(index)):
            raise UsageError("LegacyFScore depends on the order of the frames; in several processes pass their `index`")
        places, rows = np.unique(index.cpu(), return_index=True)
        if not np.array_equal(places, np.arange(len(places))):
            raise UsageError("LegacyFScore expects every place from 0 to the last; some rows of the set are missing")
        order = torch.as_tensor(rows, device=curves.device)
        batches = zip(curves[order].split(self.rows), counted[order].split(self.rows), strict=True)
        return torch.stack([curve[keep].sum(0).max() / keep.sum().clamp(min=1) for curve, keep in batches]).mean()
