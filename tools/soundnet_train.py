"""How the head of the SoundNet encoder was trained: ``python -m tools.soundnet_train`` trains one again.

Clips are composed from the train recordings of Mini-AVS with more variation than Mini-AVS itself has; each second is
labelled with the classes that sound in it, and with "nothing sounds". SoundNet's statistics are computed once, the
head learns the labels from them. Settings were compared by leaving out groups of train and val recordings; no choice
was made on test recordings. 3 minutes on one core.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from avslib.audio.soundnet import ASSETS, SoundNetEmbedding
from avslib.core.files import atomic_path, sha256_file
from avslib.data.mini.assets import bank_hash
from avslib.study.records import environment, git_state, portable
from tools.soundnet_score import compose, score, statistics

SETTINGS = {
    "clips": 3000,
    "sources": [1, 1, 2, 2, 3, 0],
    "speed": [85, 118],
    "gain_db": 6,
    "filter_db": 8,
    "noise_db": [15, 35],
    "hidden": 256,
    "input_dropout": 0.25,
    "dropout": 0.5,
    "weight_decay": 0.05,
    "learning_rate": 2e-3,
    "epochs": 5,
    "batch": 256,
    "mixup": 0.2,
    "jitter": 0.1,
    "smoothing": 0.01,
}


def train_head(
    model: SoundNetEmbedding, rows: Float[Tensor, "R F"], labels: Float[Tensor, "R 12"], settings: dict, seed: int
) -> None:
    """Fit `model`'s standardisation and head in place."""
    torch.manual_seed(seed)
    model.mean, model.std = rows.mean(0), rows.std(0) + 1e-3
    rows = model.standardise(rows)
    labels = torch.cat([labels, (labels.sum(1, keepdim=True) == 0).float()], 1)
    labels = labels * (1 - settings["smoothing"]) + settings["smoothing"] / 2
    first, _, second, _ = model.head
    classifier = nn.Linear(model.dim, labels.shape[1])
    network = nn.Sequential(
        nn.Dropout(settings["input_dropout"]),
        first,
        nn.ReLU(),
        nn.Dropout(settings["dropout"]),
        second,
        nn.ReLU(),
        classifier,
    ).requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=settings["weight_decay"])
    steps = settings["epochs"] * len(rows) // settings["batch"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings["learning_rate"], total_steps=steps)
    share = torch.distributions.Beta(settings["mixup"], settings["mixup"])
    for _ in range(steps):
        batch, other = torch.randint(len(rows), (2, settings["batch"]))
        weight = share.sample((settings["batch"], 1))
        x = weight * rows[batch] + (1 - weight) * rows[other]
        y = weight * labels[batch] + (1 - weight) * labels[other]
        loss = F.binary_cross_entropy_with_logits(network(x + settings["jitter"] * torch.randn_like(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.requires_grad_(False)
    with torch.no_grad():
        # unit mean square, so that whatever reads the embedding meets numbers of ordinary size
        scale = model.head(rows).square().mean().sqrt()
        second.weight /= scale
        second.bias /= scale


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the head of the SoundNet encoder on Mini-AVS's recordings.")
    parser.add_argument("--out", type=Path, default=Path("build/soundnet"), help="folder (default build/soundnet)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shipped", action="store_true", help="score the weights in the package, train nothing")
    arguments = parser.parse_args()
    began = time.perf_counter()
    torch.manual_seed(arguments.seed)
    model = SoundNetEmbedding.pretrained()
    if not arguments.shipped:
        pretrained, model = model, SoundNetEmbedding(SETTINGS["hidden"])
        model.slice = pretrained.slice
        waveforms, labels = compose("train", SETTINGS["clips"], SETTINGS["sources"], SETTINGS, arguments.seed)
        train_head(model, statistics(model, waveforms), labels.flatten(0, 1), SETTINGS, arguments.seed)
        head = {k: v.contiguous() for k, v in model.state_dict().items() if not k.startswith("slice.")}
        with atomic_path(arguments.out / "head.safetensors") as path:
            save_file(head, path)
    folder = Path(str(ASSETS)) if arguments.shipped else arguments.out
    record = {
        "command": " ".join(["python -m tools.soundnet_train", *portable(sys.argv[1:])]),
        "git": git_state(),
        "seed": arguments.seed,
        "settings": SETTINGS,
        "environment": environment(),
        "bank_sha256": bank_hash(),
        "slice_sha256": sha256_file(Path(str(ASSETS / "slice.safetensors"))),
        "head_sha256": sha256_file(folder / "head.safetensors"),
        "scores": {split: score(model, split, seed=1000) for split in ("val", "test")},
        "wall_seconds": round(time.perf_counter() - began, 1),
    }
    with atomic_path(arguments.out / "record.json") as path:
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record["scores"], indent=2))


if __name__ == "__main__":
    main()
