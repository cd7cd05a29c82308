"""Pictures of what samples know: eight of them on ambiguous clips, of three networks of the study of ambiguity.

    python -m tools.ambiguity_samples build/ablate/ambiguity

reads the checkpoints that ``avs ablate configs/ablate-ambiguity.yaml`` left in its ``--work`` folder (seed 0) and
rebuilds what lesson 14 shows from ``results/course/ambiguity``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Subset

from avslib.core.errors import RecordError
from avslib.core.tensors import load_tensors, save_tensors
from avslib.study.ambiguity import SAMPLES, SPLIT, read_twins
from avslib.training.evaluate import resize_to_masks, sample_batches
from avslib.training.loop import BEST
from avslib.training.setup import open_split
from avslib.weights.checkpoints import load_checkpoint
from course.committed import committed_samples

VARIANTS = ("deterministic", "ecmvae", "corrected")
EVERY, SIZE = 40, 96  # of the split's clips, and pixels a side


class AmbiguousClips(NamedTuple):
    """Clips with two plausible masks, and S samples of each network by its variant (of "deterministic", equal ones)."""

    image: UInt8[Tensor, "N 3 H W"]
    truth: Bool[Tensor, "N H W"]
    twin: Bool[Tensor, "N H W"]
    samples: dict[str, Float[Tensor, "S N H W"]]


def load_samples(path: str | Path) -> AmbiguousClips:
    """Read what this tool wrote."""
    found = load_tensors(path)[0]
    samples = {name: found.pop(name).float() / 255 for name in VARIANTS}
    return AmbiguousClips(found["image"], found["truth"] > 0, found["twin"] > 0, samples)


@torch.no_grad()
def collect(work: str | Path) -> dict[str, Tensor]:
    """What `load_samples` reads, from the checkpoints in a sweep's work folder; RecordError if one is missing."""
    found: dict[str, Tensor] = {}
    for name in VARIANTS:
        folders = sorted(Path(work).glob(f"mini-s4-{name}-s0-*/{BEST}"))
        if len(folders) != 1:
            raise RecordError(f"{work}: {len(folders)} checkpoints of {name}, seed 0; expected the folder of one sweep")
        model = load_checkpoint(folders[0])
        config = model.config.replace({"data.workers": 0})
        whole = open_split(config, SPLIT)
        numbers = range(0, len(whole), EVERY)
        drawn = 0 if config.model.latent == "none" else SAMPLES
        for rows, runs in sample_batches(model, Subset(whole, numbers), whole.frames, len(numbers), 0, drawn):
            size = {"mask": torch.empty(len(rows["mask"]), 1, SIZE, SIZE)}
            pictures = [(255 * resize_to_masks(run, size)[:, 0].sigmoid()).round().byte() for run in runs]
            found[name] = torch.stack(pictures * (1 if drawn else SAMPLES))
            twins = torch.cat([read_twins(str(config.data.root), whole, clip) for clip in rows["name"]])
            masks = {"truth": rows["mask"].float(), "twin": twins[:, None].float()}
            small = {k: F.interpolate(v, (SIZE, SIZE), mode="nearest-exact")[:, 0].byte() for k, v in masks.items()}
            found |= {"image": rows["image"]} | small
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write ``results/course/ambiguity/samples.safetensors``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", help="the sweep's --work folder")
    parser.add_argument("--out", type=Path, default=committed_samples())
    given = parser.parse_args(arguments)
    save_tensors(given.out, collect(given.work))


if __name__ == "__main__":
    main()
