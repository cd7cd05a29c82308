"""The asset bank: photographic cut-outs, backgrounds and sound recordings, each with its licence, group and split."""

import csv
import hashlib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from avslib.core.errors import UsageError
from avslib.core.files import sha256_file

BANK = Path(__file__).parent / "bank"
SPLITS = ("train", "val", "test", "test_unseen")
CLASSES = (
    "big_cat",
    "chicken",
    "cow",
    "dog",
    "drums",
    "duck",
    "guitar",
    "horse",
    "pig",
    "sheep",
    "songbird",
    "vehicle",
)


@dataclass(frozen=True)
class Asset:
    """One file of the bank, a row of ``assets.csv``.

    Attributes:
        file: path inside the bank, with forward slashes.
        kind: ``sound``, ``cutout``, ``distractor`` (a cut-out of a thing that never sounds) or ``background``.
        category: one of `CLASSES`; empty for distractors and backgrounds.
        package: the Debian package that the file comes from.
        group: shared by takes of one session and near copies; a group is never in both train and test.
        splits: the splits it may be used in, out of ``train``, ``val``, ``test``.
    """

    file: str
    kind: str
    category: str
    package: str
    licence: str
    author: str
    group: str
    splits: tuple[str, ...]

    @property
    def path(self) -> Path:
        return BANK / self.file


@cache
def load_assets() -> tuple[Asset, ...]:
    """Every row of ``assets.csv``, in its order."""
    with open(BANK / "assets.csv", newline="", encoding="utf-8") as stream:
        return tuple(
            Asset(
                file=row["file"],
                kind=row["kind"],
                category=row["class"] if row["class"] in CLASSES else "",
                package=row["debian_package"],
                licence=row["licence"],
                author=row["author"],
                group=row["group"],
                splits=tuple(row["split"].split("+")),
            )
            for row in csv.DictReader(stream)
        )


@cache
def pool(kind: str, split: str, category: str = "") -> tuple[Asset, ...]:
    """The assets of one kind (and class) that clips of `split` may use.

    Split ``test`` shows the cut-outs and distractors of train against the sounds and backgrounds of test;
    ``test_unseen`` takes all four from test.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r} of Mini-AVS; expected one of {', '.join(SPLITS)}")
    seen_image = split == "test" and kind in ("cutout", "distractor")
    part = "train" if seen_image else split.removesuffix("_unseen")
    return tuple(a for a in load_assets() if a.kind == kind and a.category == category and part in a.splits)


@cache
def bank_hash() -> str:
    """SHA-256 over every row of the table and the bytes of every file it lists."""
    digest = hashlib.sha256()
    for asset in load_assets():
        digest.update(f"{asset} {sha256_file(asset.path)}\n".encode())
    return digest.hexdigest()


@cache
def cutout(file: str) -> tuple[Float[np.ndarray, "h w 4"], ...]:
    """A cut-out as premultiplied RGBA in [0, 255], full size first, then halved by 2x2 means, twice.

    A border of transparent pixels is added, so that interpolation finds a soft edge on every side. float32 holds the
    means of the alpha exactly.
    """
    rgba = np.asarray(Image.open(BANK / file).convert("RGBA"), dtype=np.float64)
    rgba[..., :3] *= rgba[..., 3:] / 255
    height, width = rgba.shape[:2]
    level = np.pad(rgba, ((4, 4 + -height % 4), (4, 4 + -width % 4), (0, 0)))
    levels = [level]
    for _ in range(2):
        h, w = level.shape[0] // 2, level.shape[1] // 2
        level = level.reshape(h, 2, w, 2, 4).mean((1, 3))
        levels.append(level)
    return tuple(a.astype(np.float32) for a in levels)


@cache
def background(file: str) -> Image.Image:
    """A background photo, decoded."""
    return Image.open(BANK / file).convert("RGB")


@cache
def sound(file: str) -> Float[np.ndarray, " n"]:
    """A recording at 16 kHz in [-1, 1], without silence at both ends, pauses inside shortened to 0.15 s."""
    import soundfile

    samples, _ = soundfile.read(BANK / file, dtype="int16")
    return _without_pauses(samples)


def _without_pauses(samples: np.ndarray, frame: int = 160, floor_db: float = -32.0, keep: int = 15) -> np.ndarray:
    # integer energies: the same frames count as silent on every machine
    whole = len(samples) // frame * frame
    energy = np.square(samples[:whole].astype(np.int64)).reshape(-1, frame).sum(1)
    smooth = np.convolve(energy, np.ones(3, dtype=np.int64), mode="same")
    loud = smooth > smooth.max() * 10 ** (floor_db / 10)
    first, last = np.flatnonzero(loud)[[0, -1]]
    kept, quiet = [], 0
    for index in range(first, last + 1):
        quiet = 0 if loud[index] else quiet + 1
        if quiet <= keep:
            kept.append(index)
    return samples[:whole].reshape(-1, frame)[kept].ravel().astype(np.float32) / np.float32(32768)


@lru_cache(maxsize=32)
def resampled_sound(file: str, percent: int) -> Float[np.ndarray, " n"]:
    """A recording played at `percent` % of its speed, pitch with it."""
    from scipy.signal import resample_poly  # takes a second to import, and most uses of the bank need no sound

    return resample_poly(sound(file).astype(np.float64), 100, percent)
