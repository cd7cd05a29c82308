"""Write Mini-AVS to disk in AVSBench's own folder layout and csv schema, so that one reader serves both."""

import csv
import json
import multiprocessing
import os
import shutil
import tempfile
import warnings
import wave
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from avslib.core.errors import DataError, OutputError, UsageError
from avslib.core.files import atomic_path, flush_to_disk
from avslib.core.listing import clip_of, damaged_files, write_listing
from avslib.core.locks import locked
from avslib.data.mini.assets import BANK, SPLITS, bank_hash
from avslib.data.mini.compose import TASKS, ComposedClip, compose_clip

# To be raised with every change after which some clip comes out different: builds on disk are reused by it.
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
CHUNK = 12


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

    The clips are written in AVSBench's layout (``Single-source/``, ``Multi-sources/``); beside it ``object_masks/``
    holds for val and the test splits the outlines of *all* objects in view, and ``manifest.json`` the assets, places,
    gains and on/off seconds of each clip. A folder of that name appears only when the whole build is done; processes
    that build the same one at once wait for the first. ``files.csv`` lists every file with its size and SHA-256: what
    a build found there lacks, or holds cut off or damaged, is composed again, with a warning.

    Args:
        out: the folder to make. The same build found there (version, seed, counts, image size, assets) is reused.
        size: ``small`` or ``full``, see `SIZES`.
        seed: varies the compositions; the split of the assets never depends on it.
        tasks: which of ``s4`` and ``ms3`` to build.
        workers: processes to compose in; by default one for each CPU this process may use.
        progress: show a progress bar on stderr.
        image_size: side of the frames in pixels.
        counts: clips by task and split, instead of a named size.
        verify: compare the checksums of a build found there, which reads all of it, and not the sizes alone.

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
            _mend(out, found, bad)
        return found


def _build(out: Path, manifest: dict, workers: int, progress: bool) -> dict:
    with atomic_path(out) as part:
        part.mkdir()
        manifest["clips"] = _compose_all(part, manifest, workers, progress)
        _write_rest(part, manifest)
        write_listing(part)
        if out.is_dir():
            out.rmdir()
    return manifest


def _write_rest(root: Path, manifest: dict) -> None:
    """All that belongs to a build beside the clips."""
    _write_tables(root, manifest["clips"])
    shutil.copy(BANK / "ATTRIBUTION.md", root)
    shutil.copytree(BANK / "LICENSES", root / "LICENSES")
    _write_manifest(root / "manifest.json", manifest)


def _mend(out: Path, manifest: dict, bad: list[str]) -> None:
    """Compose the clips anew that files of a build are missing or damaged of, and put those files in their places."""
    warnings.warn(f"{out}: {len(bad)} files missing or damaged, made again; the first is {bad[0]}", stacklevel=3)
    if "manifest.json" in bad:
        raise DataError(f"{out}: manifest.json is damaged; remove the folder, and it is built again")
    names, number = {clip_of(path) for path in bad}, Counter()
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        part = Path(folder)
        for clip in manifest["clips"]:
            task, split = clip["task"], clip["split"]
            index = number[task, split]
            number[task, split] += 1
            if clip["name"] in names:
                _write_clip(part, task, split, compose_clip(task, split, index, *_options(manifest)))
        _write_rest(part, manifest)
        for path in bad:
            if (part / path).is_file():
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                flush_to_disk(part / path)
                os.replace(part / path, out / path)
    write_listing(out, bad)


def _counts(size: str, tasks: tuple[str, ...], counts: Mapping[str, Mapping[str, int]] | None) -> dict:
    if counts is None and size not in SIZES:
        raise UsageError(f"unknown size {size!r} of Mini-AVS: give one of {', '.join(SIZES)}")
    chosen = counts if counts is not None else {task: SIZES[size].get(task) for task in tasks}
    for task, by_split in chosen.items():
        if task not in TASKS or by_split is None:
            raise UsageError(f"unknown task {task!r} of Mini-AVS: give one or both of {', '.join(TASKS)}")
        for split in by_split:
            if split not in SPLITS:
                raise UsageError(f"unknown split {split!r} in the counts of Mini-AVS: give {', '.join(SPLITS)}")
    return {task: dict(by_split) for task, by_split in chosen.items()}


def _existing(out: Path, wanted: dict) -> dict | None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        found = dict(json.loads((out / "manifest.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise OutputError(
            f"{out} exists and is no build of Mini-AVS: give another folder, or remove it first"
        ) from None
    different = [key for key, value in wanted.items() if found.get(key) != value]
    if different:
        raise OutputError(
            f"{out} holds another build of Mini-AVS (its {', '.join(different)} differs): give another folder, "
            "or remove it first"
        )
    return found


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compose_all(root: Path, manifest: dict, workers: int, progress: bool) -> list[dict]:
    chunks = [
        (task, split, range(start, min(start + CHUNK, number)))
        for task, by_split in manifest["counts"].items()
        for split, number in by_split.items()
        for start in range(0, number, CHUNK)
    ]
    total = sum(len(indices) for *_, indices in chunks)
    records = {}
    columns = (TextColumn("Mini-AVS"), BarColumn(), MofNCompleteColumn(), TextColumn("clips"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        line = bar.add_task("", total=total)
        for chunk, found in _run(root, chunks, manifest, min(workers, len(chunks))):
            records[chunks.index(chunk)] = found
            bar.advance(line, len(found))
    return [record for _, found in sorted(records.items()) for record in found]


def _options(manifest: dict) -> tuple[int, int]:
    return manifest["seed"], manifest["image_size"]


def _run(root: Path, chunks: list[tuple], manifest: dict, workers: int) -> Iterator[tuple[tuple, list[dict]]]:
    options = _options(manifest)
    if workers <= 1:
        for chunk in chunks:
            yield chunk, _write_chunk(root, *chunk, *options)
        return
    # Spawned, since a process with threads (torch's) must not be forked, and since Windows knows nothing else.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        waiting = {pool.submit(_write_chunk, root, *chunk, *options): chunk for chunk in chunks}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_chunk(root: Path, task: str, split: str, indices: range, seed: int, image_size: int) -> list[dict]:
    records = []
    for index in indices:
        clip = compose_clip(task, split, index, seed, image_size)
        _write_clip(root, task, split, clip)
        records.append(clip.record)
    return records


def _write_clip(root: Path, task: str, split: str, clip: ComposedClip) -> None:
    name = clip.name
    if task == "s4":
        base, branch, frame_name = root / "Single-source" / "s4_data", Path(split, clip.category), f"{name}_{{}}.png"
        frames = base / "visual_frames" / branch / name
    else:
        base, branch, frame_name = root / "Multi-sources" / "ms3_data", Path(split), f"{name}.mp4_{{}}.png"
        frames = base / "visual_frames" / name
    annotated = 1 if task == "s4" and split == "train" else len(clip.masks)
    _write_pngs(frames, frame_name, clip.frames)
    _write_pngs(base / "gt_masks" / branch / name, f"{name}_{{}}.png", clip.masks[:annotated] * np.uint8(255))
    if split != "train":
        _write_pngs(root / "object_masks" / task / split / name, f"{name}_{{}}.png", clip.object_masks * np.uint8(255))
    sound = base / "audio_wav" / branch / f"{name}.wav"
    sound.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(sound), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(16000)
        stream.writeframes(np.rint(clip.waveform * 32768.0).astype("<i2").tobytes())


def _write_pngs(folder: Path, name: str, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start=1):
        Image.fromarray(image).save(folder / name.format(number), compress_level=1)


def _write_tables(root: Path, clips: list[dict]) -> None:
    tables = {
        "s4": ("Single-source/s4_meta_data.csv", ("name", "start", "category", "split")),
        "ms3": ("Multi-sources/ms3_meta_data.csv", ("video_id", "split")),
    }
    for task, (file, header) in tables.items():
        rows = [clip for clip in clips if clip["task"] == task]
        if not rows:
            continue
        with open(root / file, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(header)
            for c in rows:
                s4_row = (c["name"], 0, c["category"], c["split"])
                writer.writerow(s4_row if task == "s4" else (c["name"], c["split"]))


def _write_manifest(path: Path, manifest: dict) -> None:
    """JSON with one clip a line, so that one can find and compare clips with line tools."""
    head = json.dumps({key: value for key, value in manifest.items() if key != "clips"}, indent=1)
    lines = ",\n".join(json.dumps(clip, separators=(",", ":")) for clip in manifest["clips"])
    path.write_text(f'{head[:-2]},\n "clips": [\n{lines}\n ]\n}}\n', encoding="utf-8")
