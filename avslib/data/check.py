"""What is wrong with a data folder, told before training finds out."""

import json
import os
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Group
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from avslib.audio import load_clip
from avslib.core.errors import AvsError, DataError
from avslib.core.files import atomic_path
from avslib.core.listing import clip_of, damaged_files
from avslib.data.avsbench import AUDIO_TOLERANCE
from avslib.data.layout import LAYOUTS, Clip, find_folder, make_clip, masks_missing, read_csv
from avslib.data.pickles import load_log_mel
from avslib.data.pictures import read_frame, read_mask, require_same_size

PUBLISHED = {"s4": {"train": 3452, "val": 740, "test": 740}, "ms3": {"train": 296, "val": 64, "test": 64}}


@dataclass(frozen=True)
class Finding:
    """One fault: a sentence that names the file, and the clip that should be left out because of it."""

    task: str
    sentence: str
    clip: str | None = None


@dataclass
class TaskReport:
    """Counts of one task: clips by split, and by split and category (S4)."""

    folder: str
    mini: bool
    splits: dict[str, int]
    categories: dict[str, dict[str, int]] = field(default_factory=dict)
    shared_sources: dict[str, int] = field(default_factory=dict)


@dataclass
class Report:
    """What `check` found. Prints itself with rich; `to_json` for machines."""

    root: str
    deep: bool
    tasks: dict[str, TaskReport] = field(default_factory=dict)
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the reader can use every clip."""
        return not self.errors

    @property
    def exit_code(self) -> int:
        """0 sound, 1 usable with warnings, 2 not usable as it is."""
        return 2 if self.errors else 1 if self.warnings else 0

    @property
    def bad_clips(self) -> list[str]:
        """Names of the clips with faults, for the reader's `skip`."""
        return sorted({finding.clip for finding in self.errors if finding.clip})

    def write_fix_list(self, path: str | Path) -> None:
        """Write `bad_clips`, one a line, for ``data.skip``."""
        with atomic_path(Path(path)) as part:
            lines = [f"# clips with faults in {self.root}", *self.bad_clips]
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def to_json(self) -> str:
        return json.dumps(
            asdict(self) | {"ok": self.ok, "exit_code": self.exit_code, "bad_clips": self.bad_clips},
            indent=2,
            ensure_ascii=False,
        )

    def __rich__(self) -> Group:
        table = Table("task", "split", "clips", "published", "categories", title=f"Data in {self.root}")
        for task, found in self.tasks.items():
            for split, count in found.splits.items():
                published = "Mini-AVS" if found.mini else str(PUBLISHED[task].get(split, "-"))
                categories = str(len(found.categories.get(split, {})) or "-")
                table.add_row(task.upper(), split, str(count), published, categories)
        lines = [
            Text.assemble((f"{kind}: ", style), finding.sentence)
            for kind, style in (("error", "bold red"), ("warning", "yellow"), ("note", "cyan"))
            for finding in getattr(self, f"{kind}s")
        ]
        depth = "every file was read" if self.deep else "contents were not read (--deep reads them)"
        verdict = {0: "Sound", 1: "Usable, with warnings", 2: "Not usable as it is"}[self.exit_code]
        return Group(table, *lines, Text(f"{verdict}; {depth}.", style="bold"))


def check(
    root: str | Path,
    deep: bool = False,
    skip: Collection[str] = (),
    frames: int = 5,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Check a folder in AVSBench's layout, S4 or MS3 or both.

    Always: the csv, every clip's files (a folder without any masks is one error), counts against the published ones
    (not for Mini-AVS, told by manifest.json), source videos that several MS3 splits share. With `deep`
    every file is read: truncated, empty, of another size, not binary, too short, a pickle that is no tensor. `skip`
    leaves clips out, as the reader does.

    Raises:
        AvsError: no such folder, or neither task's csv in it.
    """
    report = Report(str(root), deep)
    folders = {}
    for task in LAYOUTS:
        try:
            folders[task] = find_folder(root, task)
        except AvsError as error:
            if not Path(root).is_dir():
                raise
            absent = error
    if not folders:
        names = " nor ".join(layout.csv for layout in LAYOUTS.values())
        raise DataError(
            f"{root}: holds neither {names}, here or in Single-source/ and Multi-sources/; is it AVSBench data?"
        ) from absent
    for task, folder in folders.items():
        _check_task(report, task, folder, set(skip), frames, workers, progress)
    if deep:
        _compare_listing(report, Path(root), set(skip))
    return report


def _compare_listing(report: Report, root: Path, skip: set[str]) -> None:
    """What a Mini-AVS build does not hold as it was built, where nothing else was found: damage that still decodes."""
    known = skip | {finding.clip for finding in [*report.errors, *report.warnings] if finding.clip}
    for path in damaged_files(root, verify=True):
        clip = clip_of(path) if path.endswith((".png", ".wav")) else None
        if clip not in known:
            task = "ms3" if path.startswith(("Multi-sources", "object_masks/ms3")) else "s4"
            sentence = f"{root / path}: not as it was built; building there again (avs data build-mini) mends it"
            report.errors.append(Finding(task, sentence, clip))


def _check_task(
    report: Report, task: str, folder: Path, skip: set[str], frames: int, workers: int | None, progress: bool
) -> None:
    layout = LAYOUTS[task]
    try:
        rows = [row for row in read_csv(folder / layout.csv, task) if row[layout.key] not in skip]
    except AvsError as error:
        report.errors.append(Finding(task, str(error)))
        return
    mini = any((place / "manifest.json").is_file() for place in (folder, folder.parent))
    counts = Counter(row["split"] for row in rows)
    found = report.tasks[task] = TaskReport(str(folder), mini, dict(counts))
    if task == "s4":
        for split in counts:
            found.categories[split] = dict(Counter(row["category"] for row in rows if row["split"] == split))
    if not mini:
        _compare_published(report, task, counts)
    if task == "ms3" and not mini:
        _find_shared_sources(report, rows)
    without_masks = masks_missing(folder, task)
    if without_masks:
        report.errors.append(Finding(task, without_masks))
    clips = []
    for row in rows:
        try:
            clips.append(make_clip(folder, task, row, frames, masks=not without_masks))
        except AvsError as error:
            report.errors.append(Finding(task, str(error), row[layout.key]))
    if report.deep:
        _read_all(report, task, clips, frames, workers, progress)


def _compare_published(report: Report, task: str, counts: Counter) -> None:
    for split, expected in PUBLISHED[task].items():
        if counts[split] != expected:
            report.warnings.append(
                Finding(task, f"{LAYOUTS[task].csv}: {counts[split]} {split} clips; AVSBench has {expected}")
            )
    for split in counts.keys() - PUBLISHED[task].keys():
        report.warnings.append(Finding(task, f"{LAYOUTS[task].csv}: split {split!r} is not one of AVSBench's"))


def _find_shared_sources(report: Report, rows: list[dict[str, str]]) -> None:
    """Clips of one video in two splits: their figures are not those of unseen videos."""
    sources = {}
    for row in rows:
        sources.setdefault(row["split"], []).append(row["video_id"].rpartition("_")[0] or row["video_id"])
    for held_out in sources.keys() - {"train"}:
        train = set(sources.get("train", ()))
        shared = sum(source in train for source in sources[held_out])
        if shared:
            report.tasks["ms3"].shared_sources[held_out] = shared
            sentence = (
                f"{shared} of {len(sources[held_out])} {held_out} clips share their source video with a train clip"
            )
            report.notes.append(Finding("ms3", sentence))


def _read_all(report: Report, task: str, clips: list[Clip], frames: int, workers: int | None, progress: bool) -> None:
    workers = workers or min(8, os.cpu_count() or 1)
    sizes: dict[str, tuple[int, int]] = {}
    with Progress(disable=not progress) as bar, ThreadPoolExecutor(workers) as pool:
        for clip, (faults, size, empty) in zip(clips, pool.map(lambda c: _read_clip(c, frames), clips), strict=True):
            bar.update(
                bar.task_ids[0] if bar.task_ids else bar.add_task(f"reading {task}", total=len(clips)), advance=1
            )
            report.errors += [Finding(task, fault, clip.name) for fault in faults]
            if size:
                sizes[clip.name] = size
            if empty and task == "s4":
                report.warnings.append(Finding(task, f"clip {clip.name!r}: {empty} of its masks are empty", clip.name))
    if sizes:
        usual, _ = Counter(sizes.values()).most_common(1)[0]
        for name, size in sizes.items():
            if size != usual:
                sentence = f"clip {name!r}: frames of {size[1]}x{size[0]} pixels, where most have {usual[1]}x{usual[0]}"
                report.warnings.append(Finding(task, sentence, name))


def _read_clip(clip: Clip, frames: int) -> tuple[list[str], tuple[int, int] | None, int]:
    """Every fault of a clip's files, the size of its first sound frame, and how many masks are empty."""
    faults, sizes, empty = [], [], 0
    for frame_path, mask_path in zip(clip.frame_paths, clip.mask_paths, strict=True):
        size = None
        try:
            _, size = read_frame(frame_path)
            sizes.append(size)
        except AvsError as error:
            faults.append(str(error))
        if mask_path is None:
            continue
        try:
            mask, mask_size = read_mask(mask_path)
            empty += not mask.any()
            if size:
                require_same_size(mask_path, mask_size, size)
        except AvsError as error:
            faults.append(str(error))
    if len(set(sizes)) > 1 and not faults:
        faults.append(f"{clip.frame_paths[0].parent}: frames of different sizes in one clip")
    for path, read in (
        (clip.wav_path, lambda path: load_clip(path, frames, AUDIO_TOLERANCE)),
        (clip.log_mel_path, lambda path: load_log_mel(path, frames)),
    ):
        try:
            if path is not None:
                read(path)
        except AvsError as error:
            faults.append(str(error))
    return faults, sizes[0] if sizes else None, empty
