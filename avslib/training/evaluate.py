"""Scoring a model on a split: J, F and F_legacy, and the J of every clip."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from avslib.calibration import logits_of_mean_probability
from avslib.core.errors import DataError
from avslib.core.seeds import sample_seed
from avslib.data.avsbench import AVSBench
from avslib.data.layout import LAYOUTS, find_folder, read_csv
from avslib.data.loading import eval_loader
from avslib.data.pictures import read_mask
from avslib.metrics import FScore, LegacyFScore, MeanIoU, frame_scores
from avslib.models.ecmvae import ECMVAE
from avslib.models.latent import Noise
from avslib.training.distributed import gather_objects
from avslib.training.guards import plain_errors

LEGACY_BATCH = 4


@dataclass
class Scores:
    """Metrics of a split, from 0 to 1, and the J of each clip by name."""

    metrics: dict[str, float]
    clips: dict[str, float]

    def rows(self, split: str, baseline: str = "") -> list[dict]:
        """One mapping per clip, as run records keep them."""
        return [{"name": name, "split": split, "baseline": baseline, "J": j} for name, j in self.clips.items()]


class _Scorer:
    """Three metrics and the clips' J, updated together; `sync`: with shares of all processes."""

    def __init__(self, frames: int, sync: bool = False):
        self.frames = frames
        options = {"sync_on_compute": sync}
        legacy = LegacyFScore(LEGACY_BATCH, frames, **options)
        self.metrics = {"J": MeanIoU(**options), "F": FScore(**options), f"F_legacy@{LEGACY_BATCH}": legacy}
        self.clips: dict[str, float] = {}

    def update(
        self, names: list[str], logits: Float[Tensor, "N 1 H W"], mask: Tensor, index: Tensor | None = None
    ) -> None:
        scores = frame_scores(logits, mask)
        for name, metric in self.metrics.items():
            place = {"index": index} if name.startswith("F_legacy") else {}
            metric.to(logits.device).update(logits, mask, scores=scores, **place)
        per_clip = scores.iou.view(-1, self.frames).mean(1).tolist()
        self.clips |= dict(zip(names, per_clip, strict=True))

    def compute(self) -> Scores:
        return Scores({name: float(metric.compute()) for name, metric in self.metrics.items()}, self.clips)


def flatten_clips(batch: dict, device: torch.device) -> dict:
    """[B, T, ...] tensors of a batch as N = B * T rows on `device`; ``annotated`` stays on the host, which reads it and
    would wait for the device at every step."""
    rows = {k: v.flatten(0, 1) if isinstance(v, Tensor) else v for k, v in batch.items()}
    moved = {k: v.to(device, non_blocking=True) for k, v in rows.items() if isinstance(v, Tensor) and k != "annotated"}
    return rows | moved


@torch.no_grad()
def predict_batches(
    model: ECMVAE, dataset: Dataset, *, frames: int, batch_size: int = 4, workers: int = 0, samples: int = 0
) -> Iterator[tuple[dict, Float[Tensor, "N 1 H W"]]]:
    """(batch as rows, logits at the size of its masks) over a dataset, in its order; the model is put in eval mode.

    `samples` 0: with the mean codes; k: the logits of the mean probability of k samples, which depend only on the
    clip's name.
    """
    model.eval()
    device = next(model.parameters()).device
    for batch in eval_loader(dataset, batch_size, workers):
        rows = flatten_clips(batch, device)
        image = model.normalize(rows["image"])
        noises: list[Noise] = [_clip_noise(model, rows["name"], frames, k) for k in range(samples)] or [None]
        features = model.backbone(image)
        runs = [model(image, rows["audio"], frames=frames, noise=n, features=features).logits.float() for n in noises]
        logits = runs[0] if len(runs) == 1 else logits_of_mean_probability(torch.stack(runs))
        if logits.shape != rows["mask"].shape:
            logits = F.interpolate(logits, rows["mask"].shape[-2:], mode="bilinear", align_corners=False)
        yield rows, logits


def _clip_noise(model: ECMVAE, names: list[str], frames: int, sample: int) -> dict[str, Float[Tensor, "N K"]]:
    """Standard-normal noise of one sample of each clip."""
    generators = [torch.Generator().manual_seed(sample_seed(sample, name)) for name in names]
    shapes = model.noise_shapes(frames).items()
    return {code: torch.cat([torch.randn(shape, generator=g) for g in generators]) for code, shape in shapes}


def evaluate(
    model: ECMVAE,
    dataset: AVSBench,
    *,
    batch_size: int = 4,
    workers: int = 0,
    samples: int = 0,
    progress: bool = False,
    rank: int = 0,
    world: int = 1,
) -> Scores:
    """Score the prior branch on every clip of `dataset`, with its mean codes or with `samples` of them.

    Masks are compared at the size that `dataset` gives them. With `world` processes in a process group each scores
    every `world`-th clip, and all return the scores of the whole set.
    """
    share = Subset(dataset, range(rank, len(dataset), world)) if world > 1 else dataset
    frames, scorer, done = dataset.frames, _Scorer(dataset.frames, sync=world > 1), 0
    batches = predict_batches(model, share, frames=frames, batch_size=batch_size, workers=workers, samples=samples)
    total = -(-len(share) // batch_size)
    with plain_errors(f"scoring {dataset.split}"):
        for rows, logits in track(batches, f"scoring {dataset.split}", total, disable=not progress, transient=True):
            clip = torch.arange(done, done + len(rows["name"])) * world + rank
            index = (clip[:, None] * frames + torch.arange(frames)).flatten()
            scorer.update(rows["name"], logits, rows["mask"], index)
            done += len(rows["name"])
    if world == 1:
        return scorer.compute()
    if not len(share):  # every process contributes to the sums, in the same shape
        none = torch.zeros(0, 1, 1, 1, device=next(model.parameters()).device)
        scorer.update([], none, none, torch.zeros(0, dtype=torch.long))
    scores = scorer.compute()
    turns = zip_longest(*gather_objects(list(scores.clips.items())))
    return Scores(scores.metrics, dict(clip for turn in turns for clip in turn if clip is not None))


def all_objects(dataset: AVSBench, root: str | Path) -> Scores:
    """The baseline that segments every object in view and ignores the sound: oracle outlines of a Mini-AVS build.

    Raises:
        AvsError: `root` holds no ``object_masks`` (AVSBench does not).
    """
    folder = Path(root) / "object_masks" / dataset.task / dataset.split
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; only a Mini-AVS build has outlines of all objects")
    scorer = _Scorer(dataset.frames)
    for number, clip in enumerate(dataset.clips):
        truth: Any = dataset[number]["mask"]
        size = truth.shape[-2], truth.shape[-1]
        paths = [folder / clip.name / f"{clip.name}_{k + 1}.png" for k in range(dataset.frames)]
        masks = np.stack([read_mask(path, size)[0] for path in paths])
        logits = torch.where(torch.from_numpy(masks > 0)[:, None], 20.0, -20.0)
        scorer.update([clip.name], logits, truth)
    return scorer.compute()


def test_splits(root: str | Path, task: str) -> list[str]:
    """The test splits that the data's csv has: test, and test_unseen in Mini-AVS."""
    present = {row["split"] for row in read_csv(find_folder(root, task) / LAYOUTS[task].csv, task)}
    return [s for s in ("test", "test_unseen") if s in present]
