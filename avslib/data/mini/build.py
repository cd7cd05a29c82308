"""Write Mini-AVS to disk in AVSBench's folder layout and csv schema, so that one reader serves both."""

import csv
import json
import multiprocessing
import os
import shutil
import tempfile
import warnings
import wave
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from avslib.core.errors import DataError, OutputError, UsageError
from avslib.core.files import atomic_path, flush_to_disk
from avslib.core.listing import clip_of, damaged_files, write_listing
from avslib.core.locks import locked
from avslib.data.mini.assets import BANK, SPLITS, bank_hash
from avslib.data.mini.compose import TASKS, compose_clip
from avslib.data.mini.soundtrack import RATE

# increase it with every change that alters any clip: builds on disk are reused while it stays the same
VERSION = 1
SIZES = {
    "small": {
        "s4": {"train": 480, "val": 60, "test": 120, "test_unseen": 60},
        "ms3": {"train": 240, "val": 40, "test": 80, "test_unseen": 40},
    },
    "full": {
        "s4": {"train": 4000, "val": 240, "test": 480, "test_unseen": 240},
        "ms3": {"train": 1500, "val": 120, "test": 240, "test_unseen": 120},
    },
}
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
    """Compose Mini-AVS into the folder `out`, or find it there already built.

    The clips are written in AVSBench's layout (``Single-source/``, ``Multi-sources/``). ``object_masks/`` holds the
    outlines of *all* objects in view in val and the test splits, ``manifest.json`` the assets, places, gains and on/off
    seconds of each clip, ``files.csv`` the size and SHA-256 of each file. The folder appears only when the whole build
    is done; processes that build the same one at once wait for the first. Files of an existing build that are missing
    or damaged are composed again, with a warning.

    Args:
        out: the folder to make. An existing build with the same version, seed, counts, image size and assets is reused.
        size: ``small`` or ``full``, see `SIZES`.
        seed: varies the compositions; the split of the assets never depends on it.
        tasks: which of ``s4`` and ``ms3`` to build.
        workers: processes to compose in; by default one for each CPU this process may use.
        progress: show a progress bar on stderr.
        image_size: side of the frames in pixels.
        counts: clips by task and split, instead of a named size.
        verify: compare the checksums of an existing build, which reads all of it, and not only the sizes.

    Returns:
        The manifest.

    Raises:
        AvsError: an unknown size or task, or `out` holds something else, or its list of files is damaged.
    """
    out = Path(out)
    manifest = {
        "name": "Mini-AVS",
        "version": VERSION,
        "seed": seed,
        "size": "custom" if counts else size,
        "image_size": image_size,
        "counts": _counts(size, tasks, counts),
        "assets": bank_hash(),
    }
    found = _existing(out, manifest)
    if found is not None and not damaged_files(out, verify):
        return found
    # notebooks and tests that start together build once: the others wait, and find it
    with locked(out.with_name(f".{out.name}.lock"), f"a build of {out.name}"):
        found = _existing(out, manifest)
        if found is None:
            return _build(out, manifest, workers or _cpus(), progress)
        if bad := damaged_files(out, verify):
            _repair(out, found, bad)
        return found


def _counts(size: str, tasks: tuple[str, ...], counts: Mapping[str, Mapping[str, int]] | None) -> dict:
    if counts is None:
        if size not in SIZES:
            raise UsageError(f"unknown size {size!r} of Mini-AVS; expected one of {', '.join(SIZES)}")
        counts = {task: SIZES[size].get(task, {}) for task in tasks}
    for task, by_split in counts.items():
        if task not in TASKS:
            raise UsageError(f"unknown task {task!r} of Mini-AVS; expected one of {', '.join(TASKS)}")
        if unknown := set(by_split) - set(SPLITS):
            raise UsageError(f"unknown split {unknown.pop()!r} of Mini-AVS; expected {', '.join(SPLITS)}")
    return {task: dict(by_split) for task, by_split in counts.items()}


def _existing(out: Path, wanted: dict) -> dict | None:
    """The manifest of the build in `out`; None where there is nothing yet. Raises OutputError on anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        found = dict(json.loads((out / "manifest.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise OutputError(
            f"{out} exists and is not a build of Mini-AVS: choose a different folder, or remove it first"
        ) from None
    if different := [key for key, value in wanted.items() if found.get(key) != value]:
        raise OutputError(
            f"{out} holds a different build of Mini-AVS ({', '.join(different)} differ): choose a different folder, "
            "or remove it first"
        )
    return found


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _build(out: Path, manifest: dict, workers: int, progress: bool) -> dict:
    with atomic_path(out) as part:
        part.mkdir()
        manifest["clips"] = _compose_all(part, manifest, workers, progress)
        _write_rest(part, manifest)
        write_listing(part)
        if out.is_dir():
            out.rmdir()
    return manifest


def _repair(out: Path, manifest: dict, bad: list[str]) -> None:
    """Compose the clips that missing or damaged files belong to, and put those files in their places."""
    warnings.warn(f"{out}: {len(bad)} files missing or damaged, rebuilt; the first is {bad[0]}", stacklevel=3)
    if "manifest.json" in bad:
        raise DataError(f"{out}: manifest.json is damaged; remove the folder, and it is built again")
    names = {clip_of(path) for path in bad}
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        part = Path(folder)
        for clip in manifest["clips"]:
            if clip["name"] in names:
                _write_clip(part, manifest, (clip["task"], clip["split"], clip["index"]))
        _write_rest(part, manifest)
        for path in bad:
            if (part / path).is_file():
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                flush_to_disk(part / path)
                os.replace(part / path, out / path)
    write_listing(out, bad)


def _compose_all(root: Path, manifest: dict, workers: int, progress: bool) -> list[dict]:
    """Write all clips; their records in order."""
    counts = manifest["counts"].items()
    clips = [(task, split, k) for task, by_split in counts for split, n in by_split.items() for k in range(n)]
    write = partial(_write_clip, root, {key: manifest[key] for key in ("seed", "image_size")})
    show = partial(track, description="Mini-AVS", total=len(clips), console=Console(stderr=True), disable=not progress)
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
    task, split, _ = clip
    composed = compose_clip(*clip, manifest["seed"], manifest["image_size"])
    name = composed.name
    if task == "s4":
        base, branch, frame_name = (
            root / "Single-source" / "s4_data",
            f"{split}/{composed.category}",
            f"{name}_{{}}.png",
        )
        frames = base / "visual_frames" / branch / name
    else:
        base, branch, frame_name = root / "Multi-sources" / "ms3_data", split, f"{name}.mp4_{{}}.png"
        frames = base / "visual_frames" / name
    annotated = 1 if task == "s4" and split == "train" else len(composed.masks)
    _write_pngs(frames, frame_name, composed.frames)
    _write_pngs(base / "gt_masks" / branch / name, f"{name}_{{}}.png", composed.masks[:annotated] * np.uint8(255))
    if split != "train":
        outlines = root / "object_masks" / task / split / name
        _write_pngs(outlines, f"{name}_{{}}.png", composed.object_masks * np.uint8(255))
    sound = base / "audio_wav" / branch / f"{name}.wav"
    sound.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(sound), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(RATE)
        stream.writeframes(np.rint(composed.waveform * 32768.0).astype("<i2").tobytes())
    return composed.record


def _write_pngs(folder: Path, name: str, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start=1):
        Image.fromarray(image).save(folder / name.format(number), compress_level=1)


def _write_rest(root: Path, manifest: dict) -> None:
    """Everything in a build beside the clips: tables, licences and the manifest with one clip per line."""
    _write_table(root / "Single-source/s4_meta_data.csv", manifest, "s4", ("name", "start", "category", "split"))
    _write_table(root / "Multi-sources/ms3_meta_data.csv", manifest, "ms3", ("video_id", "split"))
    shutil.copy(BANK / "ATTRIBUTION.md", root)
    shutil.copytree(BANK / "LICENSES", root / "LICENSES")
    head = json.dumps({key: value for key, value in manifest.items() if key != "clips"}, indent=1)
    lines = ",\n".join(json.dumps(clip, separators=(",", ":")) for clip in manifest["clips"])
    (root / "manifest.json").write_text(f'{head[:-2]},\n "clips": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def _write_table(path: Path, manifest: dict, task: str, columns: tuple[str, ...]) -> None:
    clips = [clip | {"video_id": clip["name"], "start": 0} for clip in manifest["clips"] if clip["task"] == task]
    if clips:
        with open(path, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(clips)
