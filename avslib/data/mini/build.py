"""Write Mini-AVS to disk in AVSBench's folder layout and csv schema, so that one reader serves both."""

import hashlib
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import track

from avslib.core.errors import DataError, OutputError, UsageError
from avslib.core.files import atomic_path, locked, sha256_file
from avslib.data.layout import LAYOUTS, clip_folders
from avslib.data.mini.assets import BANK, SPLITS, bank_hash
from avslib.data.mini.compose import TASKS, compose_clip
from avslib.data.mini.soundtrack import RATE

# increase it with every change that alters any clip: builds on disk are reused while it stays the same
VERSION = 1
# splits that came later, with the version that a build with any of them has, and where the csv puts their clips
LATER, LATER_VERSION = ("train_empty", "train_ambiguous", "ambiguous"), 2
CSV_SPLIT = {"train_empty": "train", "train_ambiguous": "train"}
SIZES = {
    "small": {
        "s4": {"train": 480, "val": 60, "test": 120, "test_unseen": 60},
        "ms3": {"train": 240, "val": 40, "test": 80, "test_unseen": 40},
    },
    "full": {
        "s4": {"train": 4000, "val": 240, "test": 480, "test_unseen": 240},
        "ms3": {"train": 1500, "val": 120, "test": 240, "test_unseen": 120},
    },
    # what the shipped mini-ms3 was trained on, and what lesson 14 and the studies of MS3 and of ambiguity need
    "ms3": {"ms3": {"train": 5000, "train_empty": 1000, "val": 60, "test": 120, "test_unseen": 60}},
    "listening": {"ms3": {"train": 640, "train_empty": 160, "val": 20, "test": 120, "test_unseen": 60}},
    "ambiguous": {"s4": {"train": 800, "train_ambiguous": 800, "val": 40, "test": 240, "ambiguous": 240}},
}
LISTING, HEAD, LAST = "files.csv", "path,bytes,sha256\n", "the lines above,,"
CHUNK = 12  # clips that a process composes at a time


def build_mini(
    out: str | Path,
    size: str = "small",
    seed: int = 0,
    tasks: tuple[str, ...] = TASKS,
    workers: int | None = None,
    progress: bool = True,
    image_size: int = 224,
    counts: Mapping[str, Mapping[str, int]] | None = None,
    verify: bool = False,
) -> dict:
    """Compose Mini-AVS into the folder `out`, or find it there already built; returns the manifest.

    Beside AVSBench's layout, ``object_masks/`` holds the outlines of *all* objects in view in val and the test splits,
    ``twin_masks/`` the silent twins of split ``ambiguous``,
    ``manifest.json`` the assets, places, gains and on/off seconds of each clip, ``files.csv`` the size and SHA-256 of
    each file. The folder appears when the whole build is done; processes that build the same one wait for the first.

    Args:
        size: a name of `SIZES`, unless `counts` gives the clips by task and split.
        seed: varies the compositions; the split of the assets never depends on it.
        workers: processes to compose in; by default one for each CPU this process may use.
        image_size: side of the frames in pixels.
        verify: compare the checksums of an existing build, which reads all of it, and not only the sizes.

    Raises AvsError on an unknown size or task, and when `out` holds something else, or a build with damaged files.
    """
    out, counts, custom = Path(out), _counts(size, tasks, counts), counts is not None
    manifest = {
        "name": "Mini-AVS",
        "version": LATER_VERSION if set(LATER) & set().union(*counts.values()) else VERSION,
        "seed": seed,
        "size": "custom" if custom else size,
        "image_size": image_size,
        "counts": counts,
        "assets": bank_hash(),
    }
    if found := _existing(out, manifest, verify):
        return found
    # notebooks and tests that start together build once: the others wait, and find it
    with locked(out.with_name(f".{out.name}.lock"), f"a build of {out.name}"):
        return _existing(out, manifest, verify) or _build(out, manifest, workers, progress)


def _counts(size: str, tasks: tuple[str, ...], counts: Mapping[str, Mapping[str, int]] | None) -> dict:
    if not counts and size not in SIZES:
        raise UsageError(f"unknown size {size!r} of Mini-AVS; expected one of {', '.join(SIZES)}")
    counts = counts or {task: SIZES[size].get(task, {}) for task in tasks if task in SIZES[size] or task not in TASKS}
    for what, found, known in (("task", counts, TASKS), ("split", set().union(*counts.values()), SPLITS)):
        if unknown := set(found).difference(known):
            raise UsageError(f"unknown {what} {unknown.pop()!r} of Mini-AVS; expected one of {', '.join(known)}")
    return {task: dict(by_split) for task, by_split in counts.items()}


def _existing(out: Path, wanted: dict, verify: bool) -> dict | None:
    """The manifest of the build in `out`; None where there is nothing yet. Raises AvsError on anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        found = dict(json.loads((out / "manifest.json").read_text(encoding="utf-8")))
        different = [key for key, value in wanted.items() if found.get(key) != value]
        fault = f"holds a different build of Mini-AVS ({', '.join(different)} differ)" if different else None
    except (OSError, ValueError, TypeError, RecursionError):
        fault = "exists and is not a build of Mini-AVS"
    if fault:
        raise OutputError(f"{out} {fault}: choose a different folder, or remove it first")
    if bad := damaged_files(out, verify):
        fault = f"{len(bad)} files are missing or damaged, the first is {bad[0]}"
        raise DataError(f"{out}: {fault}; remove the folder, and `avs data build-mini` builds it again")
    return found


def _build(out: Path, manifest: dict, workers: int | None, progress: bool) -> dict:
    with atomic_path(out) as part:
        part.mkdir()
        manifest["clips"] = _compose_all(part, manifest, workers, progress)
        _write_rest(part, manifest)
        _write_listing(part)
        if out.is_dir():
            out.rmdir()
    return manifest


def _compose_all(root: Path, manifest: dict, workers: int | None, progress: bool) -> list[dict]:
    """Write all clips; their records in order."""
    counts = manifest["counts"].items()
    clips = [(task, split, k) for task, by_split in counts for split, n in by_split.items() for k in range(n)]
    write = partial(_write_clip, root, {key: manifest[key] for key in ("seed", "image_size")})
    show = partial(track, description="Mini-AVS", total=len(clips), console=Console(stderr=True), disable=not progress)
    workers = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if workers <= 1 or len(clips) <= CHUNK:
        return list(show(map(write, clips)))
    # spawned: a process with threads (torch's) must not be forked, and Windows knows nothing else
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        return list(show(pool.map(write, clips, chunksize=CHUNK)))
    finally:
        pool.shutdown(cancel_futures=True)


def _write_clip(root: Path, manifest: dict, clip: tuple[str, str, int]) -> dict:
    """Compose and write one clip, given as task, split and index; its record in the manifest."""
    import soundfile  # training imports this module, and writes no clip

    task, split, _ = clip
    composed = compose_clip(*clip, manifest["seed"], manifest["image_size"])
    name, layout = composed.name, LAYOUTS[task]
    csv_split = CSV_SPLIT.get(split, split)
    row = {layout.key: name, "category": composed.category, "split": csv_split}
    inner, seen, (stem, *_) = clip_folders(task, row)
    data = root / layout.folder / layout.data
    annotated = 1 if task == "s4" and csv_split == "train" else len(composed.masks)
    _write_pngs(data / "visual_frames" / seen, stem, composed.frames)
    _write_pngs(data / "gt_masks" / inner / name, name, composed.masks[:annotated] * np.uint8(255))
    if csv_split != "train":
        _write_pngs(root / "object_masks" / task / split / name, name, composed.object_masks * np.uint8(255))
        if composed.twin_masks is not None:
            _write_pngs(root / "twin_masks" / task / split / name, name, composed.twin_masks * np.uint8(255))
    sound = data / "audio_wav" / inner / f"{name}.wav"
    sound.parent.mkdir(parents=True, exist_ok=True)
    wav = io.BytesIO()  # libsndfile calls a full disk a "System error"
    soundfile.write(wav, np.rint(composed.waveform * 32768.0).astype(np.int16), RATE, format="WAV")
    sound.write_bytes(wav.getvalue())
    return composed.record


def _write_pngs(folder: Path, stem: str, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start=1):
        path = folder / f"{stem}_{number}.png"
        if image.ndim == 2:
            Image.fromarray(image).save(path, compress_level=1)
        else:
            path.write_bytes(photo_png(image))


def photo_png(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """A PNG by FFmpeg: as small as by Pillow, in two thirds of its time, since only one filter is tried."""
    import av

    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width, encoder.pix_fmt, encoder.time_base = *image.shape[:2], "rgb24", Fraction(1)
    encoder.thread_count, encoder.options = 1, {"pred": "avg", "compression_level": "1"}
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    return b"".join(map(bytes, (*encoder.encode(frame), *encoder.encode(None))))


def _write_rest(root: Path, manifest: dict) -> None:
    """Everything in a build beside the clips: tables, licences and the manifest with one clip per line."""
    for task, head, row in (
        ("s4", "name,start,category,split\n", "{name},0,{category},{split}\n"),
        ("ms3", "video_id,split\n", "{name},{split}\n"),
    ):
        clips = [clip | {"split": CSV_SPLIT.get(clip["split"], clip["split"])} for clip in manifest["clips"]]
        if rows := [row.format(**clip) for clip in clips if clip["task"] == task]:
            path = root / LAYOUTS[task].folder / LAYOUTS[task].csv
            path.write_text(head + "".join(rows), encoding="utf-8", newline="\n")
    shutil.copy(BANK / "ATTRIBUTION.md", root)
    shutil.copytree(BANK / "LICENSES", root / "LICENSES")
    head = json.dumps({key: value for key, value in manifest.items() if key != "clips"}, indent=1)
    lines = ",\n".join(json.dumps(clip, separators=(",", ":")) for clip in manifest["clips"])
    (root / "manifest.json").write_text(f'{head[:-2]},\n "clips": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def _write_listing(root: Path) -> None:
    paths = sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*") if path.is_file())
    text = HEAD + "".join(f"{name},{path.stat().st_size},{sha256_file(path)}\n" for name, path in paths)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (root / LISTING).write_text(f"{text}{LAST}{digest}\n", encoding="utf-8", newline="\n")


def damaged_files(root: str | Path, verify: bool = False) -> list[str]:
    """Files of a build, as paths below `root`, that are missing or of the wrong size or (with `verify`) checksum.

    Empty where there is no list of files. Raises DataError where the list itself is damaged.
    """
    damaged, listing = [], Path(root, LISTING)
    if not listing.is_file():
        return []
    try:
        lines, _, digest = listing.read_text(encoding="utf-8").rpartition(LAST)
        if digest.strip() != hashlib.sha256(lines.encode()).hexdigest():
            raise ValueError("checksum mismatch")
    except (OSError, ValueError) as error:
        raise DataError(f"{listing}: damaged ({error}); remove that folder, and build it again") from None
    for name, size, digest in (line.rsplit(",", 2) for line in lines.removeprefix(HEAD).splitlines()):
        path = Path(root, name)
        if not path.is_file() or path.stat().st_size != int(size) or (verify and sha256_file(path) != digest):
            damaged.append(name)
    return damaged
