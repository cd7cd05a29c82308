"""Masks read back from the folder of a prediction, in each of their forms."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def read_masks(out: Path):
    """The masks [H, W] of a folder of `write_prediction`, in their order."""
    form = json.loads((out / "predictions.json").read_text(encoding="utf-8"))["masks"]
    if form == "png":
        for path in sorted(out.glob("masks/[0-9]*.png"), key=lambda path: int(path.stem)):
            yield np.asarray(Image.open(path)) > 0
    elif form == "npz":
        with np.load(out / "masks.npz") as arrays:
            yield from (arrays[name] for name in sorted(arrays.files, key=int))
    else:
        with open(out / "masks.jsonl", encoding="utf-8") as lines:
            yield from (rle_decode(row["counts"], row["size"]) for row in map(json.loads, lines))


def rle_decode(counts, size):
    """The mask of (height, width) that `rle_encode` counted; ValueError where the counts do not sum up to it."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T
