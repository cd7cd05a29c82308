"""Whether a model follows the sound: its scores on frames with and without a sounding object, and *sel* and *time*."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from avslib.data.mini.sources import ClipLabels

if TYPE_CHECKING:
    from avslib.metrics import FrameScores

LIT = 0.01  # a frame counts as lit from this share of its pixels on


class Listening:
    """Scores over annotated frames, each absent where no frame defines it.

    J_not_empty and J_empty: J over frames with and without a sounding object; lit_empty: share of the latter in which
    more than 1 % of the pixels are predicted. Where `labels` (by clip name) give what sounds and is in view, also
    lit_silent and lit_off_screen: that share by whether nothing sounds or something out of view; sel and time:
    `PairRanking` of an object's mean probability, between the sounding and silent objects of a frame, and between the
    sounding and silent seconds of an object. `time` holds the latter by clip, NaN without such a pair.
    """

    def __init__(self, sync: bool, labels: Mapping[str, ClipLabels] | None):
        from torchmetrics import MeanMetric  # not needed before the first scoring, and slow to import

        from avslib.metrics import PairRanking

        self.labels, self.time = labels or {}, dict[str, float]()
        means = ["J_not_empty", "J_empty", "lit_empty", *(["lit_silent", "lit_off_screen"] if labels else [])]
        self.metrics: dict[str, Any] = {name: MeanMetric(sync_on_compute=sync) for name in means}
        if labels:
            self.metrics |= {name: PairRanking(sync_on_compute=sync) for name in ("sel", "time")}
        for metric in self.metrics.values():
            metric.set_dtype(torch.float64)

    def update(
        self, names: Sequence[str], known: Bool[Tensor, "N"], logits: Float[Tensor, "N 1 H W"], scores: "FrameScores"
    ) -> None:
        """Add the frames of whole clips; those that are not `known`, since nobody annotated them, do not count."""
        known = known.to(scores.counted.device)
        full, empty = scores[known & scores.counted], scores[known & ~scores.counted]
        values = {"J_not_empty": full.iou, "J_empty": empty.iou, "lit_empty": empty.lit > LIT}
        frames = len(known) // max(len(names), 1)
        if self.labels:
            played = [(self.labels.get(name) or ClipLabels()).played for name in names]
            heard = [
                math.nan if second is None else float(bool(second))
                for clip in played
                for second in (clip or (None,) * frames)[:frames]
            ]
            sounds = torch.tensor(heard, device=known.device)[known & ~scores.counted]
            values |= {"lit_silent": empty.lit[sounds == 0] > LIT, "lit_off_screen": empty.lit[sounds == 1] > LIT}
        for name, value in values.items():
            self.metrics[name].to(value.device).update(value.double())
        if self.labels:
            self._rank_objects(names, logits)

    def _rank_objects(self, names: Sequence[str], logits: Float[Tensor, "N 1 H W"]) -> None:
        from avslib.metrics import PairRanking

        none = torch.zeros(0)
        pairs = [("sel", none, none), ("time", none, none)]  # all processes count, even one without a clip
        for name, field in zip(names, logits.chunk(max(len(names), 1)), strict=False):
            own = list(object_pairs(field.sigmoid().cpu(), self.labels.get(name) or ClipLabels()))
            in_time = PairRanking(sync_on_compute=False)  # of this clip, which no other process holds
            in_time.update(none, none)
            for _, louder, quieter in (pair for pair in own if pair[0] == "time"):
                in_time.update(louder, quieter)
            self.time[name] = float(in_time.compute())
            pairs += own
        for which, louder, quieter in pairs:
            self.metrics[which].update(louder, quieter)

    def compute(self) -> dict[str, float]:
        """The scores that some frame defines."""
        found = {name: float(metric.compute()) for name, metric in self.metrics.items()}
        return {name: score for name, score in found.items() if not math.isnan(score)}


def object_pairs(
    probability: Float[Tensor, "T 1 H W"], labels: ClipLabels
) -> Iterator[tuple[str, Float[Tensor, "A"], Float[Tensor, "B"]]]:
    """What `PairRanking` compares in one clip: ("sel" or "time", brightness where sounding, brightness where silent).
    The brightness of an object is the mean probability over its outline; hidden objects are left out."""
    if labels.outlines is None or labels.played is None:
        return
    outlines, seconds = labels.outlines(), len(probability)  # a clip may be scored on its first seconds only
    on = torch.tensor([[name in second for second in labels.played[:seconds]] for name in outlines])
    shape = torch.stack([torch.from_numpy(outline[:seconds]) for outline in outlines.values()]).float()
    probability = F.interpolate(probability, shape.shape[-2:], mode="bilinear")[:, 0]
    area = shape.sum((2, 3))
    brightness, seen = (shape * probability).sum((2, 3)) / area, area > 0
    for t in range(on.shape[1]):
        yield "sel", brightness[on[:, t] & seen[:, t], t], brightness[~on[:, t] & seen[:, t], t]
    for i in range(len(on)):
        yield "time", brightness[i, on[i] & seen[i]], brightness[i, ~on[i] & seen[i]]
