"""Scoring a model on a split: J, F and F_legacy, and the J of every clip."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from avslib.calibration import logits_of_mean_probability
from avslib.config import Config
from avslib.core.errors import DataError
from avslib.core.seeds import sample_seed
from avslib.data.avsbench import AVSBench
from avslib.data.layout import LAYOUTS, find_folder, read_csv
from avslib.data.loading import eval_loader
from avslib.data.mini.sources import ClipLabels
from avslib.data.pictures import read_mask
from avslib.models.ecmvae import ECMVAE
from avslib.models.latent import Noise
from avslib.training.distributed import rank, world_size
from avslib.training.guards import plain_errors
from avslib.training.listening import Listening
from avslib.training.noise import noise_shapes

LEGACY_BATCH = 4


@dataclass
class Scores:
    """Metrics of a split, from 0 to 1, the J of each clip by name, and other scores of the clips by theirs."""

    metrics: dict[str, float]
    clips: dict[str, float]
    others: dict[str, dict[str, float]] = field(default_factory=dict)

    def rows(self, split: str, baseline: str = "") -> list[dict]:
        """One mapping per clip, as run records keep them."""
        of_clips = {"J": self.clips, **self.others}
        where = {"split": split, "baseline": baseline}
        return [{"name": n, **where, **{key: values[n] for key, values in of_clips.items()}} for n in self.clips]


class Tally:
    """Sums the scores of clips; `sync`: those of all processes count; `labels`: of `Listening`."""

    def __init__(self, frames: int, sync: bool = False, labels: Mapping[str, ClipLabels] | None = None):
        from avslib.metrics import FScore, LegacyFScore, MeanIoU  # torchmetrics takes nearly as long as torch to import

        self.frames, self.listening = frames, Listening(sync, labels)
        self.j, self.f = MeanIoU(sync_on_compute=sync), FScore(sync_on_compute=sync)
        self.legacy = LegacyFScore(LEGACY_BATCH, frames, sync_on_compute=sync)
        self.clips: dict[str, float] = {}

    def update(self, numbers: Sequence[int], rows: dict, logits: Float[Tensor, "N 1 H W"]) -> None:
        """Add clips, given by their numbers in the split. Frames that are not annotated do not count."""
        from avslib.metrics import frame_scores

        mask, known, scores = rows["mask"], rows["annotated"], frame_scores(logits, rows["mask"])
        for metric in (self.j, self.f, self.legacy):
            metric.to(scores.iou.device)
        self.j.update(logits[known], mask[known], scores=scores[known])
        # these two leave out empty masks, as those of frames that are not annotated
        self.f.update(logits, mask, scores=scores)
        places = torch.tensor([n * self.frames + t for n in numbers for t in range(self.frames)], dtype=torch.long)
        self.legacy.update(logits, mask, places, scores)
        self.listening.update(rows["name"], known, logits, scores)
        per_clip = scores.iou.cpu().where(known, torch.nan).view(-1, self.frames).nanmean(1)
        self.clips |= dict(zip(rows["name"], per_clip.tolist(), strict=True))

    def scores(self, clips: dict[str, float] | None = None, time: dict[str, float] | None = None) -> Scores:
        metrics = {"J": self.j, "F": self.f, f"F_legacy@{LEGACY_BATCH}": self.legacy}
        found = {name: float(metric.compute()) for name, metric in metrics.items()} | self.listening.compute()
        time = time or self.listening.time
        return Scores(found, clips or self.clips, {"time_in_clip": time} if time else {})


def flatten_clips(batch: dict, device: torch.device) -> dict:
    """[B, T, ...] tensors of a batch as N = B * T rows on `device`; ``annotated`` stays on the host, which reads it and
    would wait for the device at every step."""
    rows = {k: v.flatten(0, 1) if isinstance(v, Tensor) else v for k, v in batch.items()}
    moved = {k: v.to(device, non_blocking=True) for k, v in rows.items() if isinstance(v, Tensor) and k != "annotated"}
    return rows | moved


def predict_batches(
    model: ECMVAE, dataset: Dataset, *, frames: int, batch_size: int = 4, workers: int = 0, samples: int = 0
) -> Iterator[tuple[dict, Float[Tensor, "N 1 H W"]]]:
    """(batch as rows, logits at the size of its masks) over a dataset, in its order; the model is put in eval mode.

    `samples` 0: with the mean codes; k: the logits of the mean probability of k samples, which depend only on the
    clip's name.
    """
    for rows, runs in sample_batches(model, dataset, frames, batch_size, workers, samples):
        yield rows, resize_to_masks(runs[0] if len(runs) == 1 else logits_of_mean_probability(runs), rows)


def resize_to_masks(logits: Float[Tensor, "N 1 h w"], rows: dict) -> Float[Tensor, "N 1 H W"]:
    """Logits at the size of the masks of a batch."""
    if logits.shape == rows["mask"].shape:
        return logits
    return F.interpolate(logits, rows["mask"].shape[-2:], mode="bilinear", align_corners=False)


@torch.no_grad()
def sample_batches(
    model: ECMVAE, dataset: Dataset, frames: int, batch_size: int, workers: int, samples: int
) -> Iterator[tuple[dict, Float[Tensor, "S N 1 h w"]]]:
    """As `predict_batches`, but all samples (or the one prediction of the mean codes), at the size of the images."""
    model.eval()
    device = next(model.parameters()).device
    for batch in eval_loader(dataset, batch_size, workers):
        rows = flatten_clips(batch, device)
        image = model.normalize(rows["image"])
        noises: list[Noise] = [_clip_noise(model, rows["name"], frames, k) for k in range(samples)] or [None]
        features = model.backbone(image)
        runs = [model(image, rows["audio"], frames=frames, noise=n, features=features).logits.float() for n in noises]
        yield rows, torch.stack(runs)


def _clip_noise(model: ECMVAE, names: list[str], frames: int, sample: int) -> dict[str, Float[Tensor, "N K"]]:
    """Standard-normal noise of one sample of each clip."""
    generators = [torch.Generator().manual_seed(sample_seed(sample, name)) for name in names]
    shapes = noise_shapes(model, frames).items()
    return {code: torch.cat([torch.randn(shape, generator=g) for g in generators]) for code, shape in shapes}


def evaluate(
    model: ECMVAE,
    dataset: AVSBench,
    *,
    batch_size: int = 4,
    workers: int = 0,
    samples: int = 0,
    progress: bool = False,
    shared: bool = False,
    labels: Mapping[str, ClipLabels] | None = None,
) -> Scores:
    """Score the prior branch on the annotated frames of `dataset`, with its mean codes or with `samples` of them.

    Masks are compared at the size that `dataset` gives them. If `shared`, the processes of the group divide the clips
    among them, and all return the scores of the whole set. `labels` of a Mini-AVS build, by clip name, add the metrics
    sel and time (`avslib.training.listening.Listening`). Raises AvsError where no frame is annotated.
    """
    if not any(any(clip.mask_paths) for clip in dataset.clips):
        raise DataError(f"split {dataset.split!r}: none of its {len(dataset)} clips has a mask; open it with its masks")
    own, world, frames = rank() if shared else 0, world_size() if shared else 1, dataset.frames
    numbers, tally = range(own, len(dataset), world), Tally(frames, world > 1, labels)
    batches = predict_batches(
        model, Subset(dataset, numbers), frames=frames, batch_size=batch_size, workers=workers, samples=samples
    )
    title, total = f"scoring {dataset.split}", math.ceil(len(numbers) / batch_size)
    with plain_errors(title):
        for k, (rows, logits) in enumerate(track(batches, title, total, disable=not progress, transient=True)):
            tally.update(numbers[k * batch_size : (k + 1) * batch_size], rows, logits)
    if world == 1:
        return tally.scores()
    if not numbers:  # every process contributes to the sums, in the same shape
        none = torch.zeros(0, 1, 1, 1, device=next(model.parameters()).device)
        tally.update(numbers, {"name": [], "mask": none, "annotated": torch.zeros(0, dtype=torch.bool)}, none)
    parts = gather_object([(tally.clips, tally.listening.time)])
    clips, time = ({name: value for part in parts for name, value in part[which].items()} for which in (0, 1))
    return tally.scores({name: clips[name] for name in dataset.names}, time)


def scoring_options(config: Config) -> dict[str, Any]:
    """How `evaluate` scores by this configuration."""
    t = config.train
    return {"batch_size": t.eval_batch_size, "workers": config.data.workers, "samples": t.eval_samples}


def all_objects(dataset: AVSBench, root: str | Path, labels: Mapping[str, ClipLabels] | None = None) -> Scores:
    """The baseline that segments every object in view and ignores the sound: oracle outlines of a Mini-AVS build.
    Raises AvsError if `root` holds no ``object_masks`` (AVSBench does not)."""
    folder = Path(root) / "object_masks" / dataset.task / dataset.split
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; only a Mini-AVS build has outlines of all objects")

    def outlines(name: str) -> Tensor:
        paths = [folder / name / f"{name}_{k + 1}.png" for k in range(dataset.frames)]
        return torch.from_numpy(np.stack([read_mask(path, dataset.mask_size)[0] for path in paths]))

    return _score_outlines(dataset, outlines, labels)


def heard_objects(dataset: AVSBench, labels: Mapping[str, ClipLabels]) -> Scores:
    """The baseline that knows which classes sound somewhere in a clip, but not when: their outlines in all seconds."""

    def outlines(name: str) -> Tensor:
        clip = labels[name]
        heard = frozenset().union(*(clip.played or ())[: dataset.frames])
        shapes = [x for c, x in clip.outlines().items() if c in heard] if clip.outlines else []
        found = np.any(shapes, axis=0)[: dataset.frames] if shapes else np.zeros((dataset.frames, 1, 1), bool)
        shape = F.interpolate(torch.from_numpy(found)[:, None].float(), dataset.mask_size, mode="nearest-exact")
        return shape[:, 0]

    return _score_outlines(dataset, outlines, labels)


def _score_outlines(
    dataset: AVSBench, outlines: Callable[[str], Tensor], labels: Mapping[str, ClipLabels] | None
) -> Scores:
    tally = Tally(dataset.frames, labels=labels)
    for number, name in enumerate(dataset.names):
        item: dict[str, Any] = dataset[number]
        tally.update([number], item | {"name": [name]}, torch.where(outlines(name)[:, None] > 0, 20.0, -20.0))
    return tally.scores()


def test_splits(root: str | Path, task: str) -> list[str]:
    """The test splits that the data's csv has: test, and test_unseen in Mini-AVS."""
    present = {row["split"] for row in read_csv(find_folder(root, task) / LAYOUTS[task].csv, task)}
    return [s for s in ("test", "test_unseen") if s in present]
