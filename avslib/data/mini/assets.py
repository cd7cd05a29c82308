"""The asset bank (cut-outs, backgrounds and sound recordings, with licence, group and split) and choices from it.

The choices repeat on every machine and with every version of numpy, which guarantees the stream of raw bits, but not
the methods built on it. So they use only ``Generator.random``, the plain map of those bits to [0, 1).
"""

import csv
import hashlib
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from avslib.core.files import sha256_file

BANK = Path(__file__).parent / "bank"
SPLITS = ("train", "val", "test", "test_unseen", "train_empty", "train_ambiguous", "ambiguous")
ASSETS_OF = {"test_unseen": "test", "train_empty": "train", "train_ambiguous": "train", "ambiguous": "test"}
CLASSES = ("big_cat", "chicken", "cow", "dog", "drums", "duck")
CLASSES += ("guitar", "horse", "pig", "sheep", "songbird", "vehicle")


class Asset(NamedTuple):
    """One file of the bank, a row of ``assets.csv``."""

    file: str  # inside the bank, with forward slashes
    kind: str  # sound, cutout, distractor (a cut-out of a thing that never sounds) or background
    category: str  # one of CLASSES; empty for distractors and backgrounds
    package: str  # of Debian, which the file comes from
    licence: str
    author: str
    group: str  # takes of one session and near copies, which are never in both train and test
    splits: tuple[str, ...]  # it may be used in, out of train, val and test


@cache
def load_assets() -> tuple[Asset, ...]:
    """Every row of ``assets.csv``, in its order."""
    columns = ("file", "kind", "class", "debian_package", "licence", "author", "group", "split")
    with open(BANK / "assets.csv", newline="", encoding="utf-8") as stream:
        assets = [Asset(*(row[column] for column in columns)) for row in csv.DictReader(stream)]
    return tuple(
        a._replace(category=a.category if a.category in CLASSES else "", splits=tuple(a.splits.split("+")))
        for a in assets
    )


@cache
def pool(kind: str, split: str, category: str = "") -> tuple[Asset, ...]:
    """The assets of one kind (and class) that clips of `split` may use.

    Splits ``test`` and ``ambiguous`` show the cut-outs and distractors of train against the sounds and backgrounds of
    test; ``test_unseen`` takes all four from test.
    """
    seen_image = split in ("test", "ambiguous") and kind in ("cutout", "distractor")
    part = "train" if seen_image else ASSETS_OF.get(split, split)
    return tuple(a for a in load_assets() if a.kind == kind and a.category == category and part in a.splits)


@cache
def bank_hash() -> str:
    """SHA-256 over every row of the table and the bytes of every file it lists."""
    digest = hashlib.sha256()
    for asset in load_assets():
        digest.update(f"{asset} {sha256_file(BANK / asset.file)}\n".encode())
    return digest.hexdigest()


@cache
def cutout(file: str) -> tuple[Float[np.ndarray, "4 h w"], ...]:
    """A cut-out as planes of premultiplied RGBA in [0, 255], full size first, then halved by 2x2 means, twice.

    A border of transparent pixels is added, so that interpolation finds a soft edge on every side. float32 holds the
    means of the alpha exactly.
    """
    rgba = np.asarray(Image.open(BANK / file).convert("RGBA"), dtype=np.float64)
    rgba[..., :3] *= rgba[..., 3:] / 255
    height, width = rgba.shape[:2]
    levels = [np.pad(rgba, ((4, 4 + -height % 4), (4, 4 + -width % 4), (0, 0)))]
    for _ in range(2):
        h, w = levels[-1].shape[:2]
        levels.append(levels[-1].reshape(h // 2, 2, w // 2, 2, 4).mean((1, 3)))
    return tuple(np.ascontiguousarray(level.transpose(2, 0, 1), dtype=np.float32) for level in levels)


@cache
def background(file: str) -> Image.Image:
    """A background photo, decoded."""
    return Image.open(BANK / file).convert("RGB")


@cache
def sound(file: str) -> Float[np.ndarray, " n"]:
    """A recording at 16 kHz in [-1, 1], without silence at both ends, pauses inside shortened to 0.15 s."""
    import soundfile

    samples, _ = soundfile.read(BANK / file, dtype="int16")
    pieces = samples[: len(samples) // 160 * 160].reshape(-1, 160)  # of 10 ms
    # integer energies: the same pieces count as silent on every machine
    smooth = np.convolve(np.square(pieces.astype(np.int64)).sum(1), np.ones(3, dtype=np.int64), mode="same")
    loud = smooth > smooth.max() * 10**-3.2
    first, last = np.flatnonzero(loud)[[0, -1]]
    # a piece is kept where one of the 15 before it, or itself, is loud
    kept = [index for index in range(first, last + 1) if loud[max(0, index - 15) : index + 1].any()]
    return pieces[kept].ravel().astype(np.float32) / np.float32(32768)


@lru_cache(maxsize=32)
def resampled_sound(file: str, percent: int) -> Float[np.ndarray, " n"]:
    """A recording played at `percent` % of its speed, pitch with it."""
    from scipy.signal import resample_poly  # takes a second to import, and most uses of the bank need no sound

    return resample_poly(sound(file).astype(np.float64), 100, percent)


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * float(rng.random())


def choice(rng: np.random.Generator, items: Sequence) -> Any:
    """One of `items`."""
    return items[int(rng.random() * len(items))]


def sample(rng: np.random.Generator, items: Sequence, k: int) -> list:
    """`k` distinct ones of `items`, in random order."""
    order = np.argsort(rng.random(len(items)), kind="stable")
    return [items[i] for i in order[:k]]
