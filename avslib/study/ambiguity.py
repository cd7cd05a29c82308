"""Whether samples know what they cannot: scores on clips with two equally plausible masks (Mini-AVS ``ambiguous``).

Two pictures of the sounding class are in view, and one of them, by a fair coin, is the truth; the other is its twin.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avslib.calibration import calibration_error
from avslib.config import Config
from avslib.core.errors import DataError
from avslib.data.avsbench import AVSBench
from avslib.data.pictures import read_mask
from avslib.models.ecmvae import ECMVAE
from avslib.training.evaluate import Scores, resize_to_masks, sample_batches

SPLIT = "ambiguous"
SAMPLES = 8


def iou(a: Bool[Tensor, "*B H W"], b: Bool[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    """Intersection over union of masks; 1 for two empty ones."""
    union = (a | b).flatten(-2).sum(-1)
    return torch.where(union > 0, (a & b).flatten(-2).sum(-1) / union.clamp(min=1), 1.0)


def ambiguity_scores(
    probability: Float[Tensor, "S N H W"], truth: Bool[Tensor, "N H W"], twin: Bool[Tensor, "N H W"]
) -> dict[str, Float[Tensor, "N"]]:
    """Scores of S samples per frame, of which `truth` and `twin` are the equally plausible masks.

    - ged2: squared generalised energy distance E d(S, A) + E d(S, B) - E d(S, S') - d(A, B) / 2 with d = 1 - IoU, over
      pairs of different samples; 0 if the samples are distributed as the masks (Székely, Rizzo 2013; Kohl et al. 2018).
    - best: the best sample's IoU with the truth; both_found: some sample has IoU > 0.5 with each mask.
    - covers_twin: share of samples that light more than half of one of the masks. Samples of any object score well on
      ged2, so read it beside this: it falls if they do not follow the sound.
    - J: mean IoU of a sample with the truth.
    """
    lit = probability > 0.5
    s = len(lit)
    to_truth, to_twin = (1 - torch.stack([iou(x, mask) for x in lit]) for mask in (truth, twin))
    pairs = [1 - iou(lit[i], lit[j]) for i in range(s) for j in range(i)]
    among = torch.stack(pairs).mean(0) if pairs else torch.zeros(len(truth))
    halves = [(x & m).flatten(1).sum(1) > 0.5 * m.flatten(1).sum(1) for m in (truth, twin) for x in lit]
    covered = torch.stack(halves).view(2, s, -1).any(0).float()
    return {
        "ged2": to_truth.mean(0) + to_twin.mean(0) - among - 0.5 * (1 - iou(truth, twin)),
        "best": 1 - to_truth.min(0).values,
        "both_found": ((to_truth.min(0).values < 0.5) & (to_twin.min(0).values < 0.5)).float(),
        "covers_twin": covered.mean(0),
        "J": 1 - to_truth.mean(0),
    }


def read_twins(root: str | Path, dataset: AVSBench, name: str) -> Bool[Tensor, "T H W"]:
    """The masks of a clip's silent twin. Raises DataError where the data has none."""
    folder = Path(root) / "twin_masks" / dataset.task / dataset.split / name
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; only split {SPLIT!r} of a Mini-AVS build has two plausible masks")
    paths = [folder / f"{name}_{k + 1}.png" for k in range(dataset.frames)]
    return torch.from_numpy(np.stack([read_mask(path, dataset.mask_size)[0] for path in paths])) > 0


def evaluate_ambiguity(model: ECMVAE, config: Config, dataset: AVSBench, samples: int = SAMPLES) -> Scores:
    """Scores of a split with twins: means of `ambiguity_scores`, and ECE, the calibration error of the samples' mean
    probability against both masks. Without codes, of the one prediction."""
    drawn = 0 if config.model.latent == "none" else samples
    found: dict[str, list[Tensor]] = {}
    batches = sample_batches(model, dataset, dataset.frames, config.train.eval_batch_size, config.data.workers, drawn)
    probabilities, truths, twins = [], [], []
    for rows, runs in batches:
        probability = torch.stack([resize_to_masks(run, rows)[:, 0].sigmoid().cpu() for run in runs])
        truth = rows["mask"][:, 0].cpu() > 0
        twin = torch.cat([read_twins(config.data.root or "", dataset, name) for name in rows["name"]])
        for name, values in ambiguity_scores(probability, truth, twin).items():
            found.setdefault(name, []).append(values)
        probabilities.append(probability.mean(0))
        truths.append(truth)
        twins.append(twin)
    by_clip = {name: torch.cat(values).unflatten(0, (len(dataset), -1)).mean(1) for name, values in found.items()}
    metrics = {name: float(values.mean()) for name, values in by_clip.items()}
    metrics["ece"] = calibration_error(torch.cat(probabilities).repeat(2, 1, 1), torch.cat([*truths, *twins]))
    clips = {name: dict(zip(dataset.names, values.tolist(), strict=True)) for name, values in by_clip.items()}
    return Scores(metrics, clips.pop("J"), clips)
