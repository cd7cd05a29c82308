"""Find what is wrong with a data folder before a training does."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.progress import track
from rich.table import Table
from rich.text import Text

from avslib.core.errors import AvsError, DataError
from avslib.core.files import atomic_path
from avslib.data.avsbench import Sound
from avslib.data.layout import LAYOUTS, Clip, find_folder, make_clip, masks_missing, read_csv
from avslib.data.mini.build import damaged_files
from avslib.data.pickles import load_log_mel
from avslib.data.pictures import read_frame, read_mask

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
        """0 sound, 1 usable with warnings, 2 not usable without changes."""
        return 2 if self.errors else 1 if self.warnings else 0

    @property
    def bad_clips(self) -> list[str]:
        """Names of the clips with faults, for the reader's `skip`."""
        return sorted({finding.clip for finding in self.errors if finding.clip})

    def write_fix_list(self, path: str | Path) -> None:
        """Write `bad_clips`, one per line, for ``data.skip``."""
        with atomic_path(path) as part:
            quoted = [f'"{name}"' if name.startswith(("#", " ")) else name for name in self.bad_clips]
            lines = [f"# clips with faults in {self.root}", *quoted, ""]
            part.write_text("\n".join(lines), encoding="utf-8")

    def to_json(self) -> str:
        derived = {"ok": self.ok, "exit_code": self.exit_code, "bad_clips": self.bad_clips}
        return json.dumps(asdict(self) | derived, indent=2, ensure_ascii=False)

    def __rich__(self) -> Group:
        table = Table("task", "split", "clips", "published", "categories", title=f"Data in {self.root}")
        for task, found in self.tasks.items():
            for split, count in found.splits.items():
                published = "Mini-AVS" if found.mini else str(PUBLISHED[task].get(split, "-"))
                categories = str(len(found.categories.get(split, {})) or "-")
                table.add_row(task.upper(), split, str(count), published, categories)
        kinds = (("error", "bold red", self.errors), ("warning", "yellow", self.warnings), ("note", "cyan", self.notes))
        lines = [Text.assemble((f"{kind}: ", style), f.sentence) for kind, style, found in kinds for f in found]
        depth = "every file was read" if self.deep else "contents were not read (--deep reads them)"
        verdict = ("Sound", "Usable, with warnings", "Not usable as it is")[self.exit_code]
        return Group(table, *lines, Text(f"{verdict}; {depth}.", style="bold"))


def check(root: str | Path, deep: bool = False, skip: Collection[str] = (), progress: bool = True) -> Report:
    """Check a folder in AVSBench's layout, S4 or MS3 or both; `skip` leaves clips out, as the reader does.

    Always: the csv, every clip's files (a folder without any masks is one error), counts against the published ones
    (except for Mini-AVS, which has a manifest.json), source videos that several MS3 splits share. With `deep` every
    file is read, by the reader's own functions; a wav that is damaged beside a whole log-mel is only a warning.
    Raises AvsError when there is no such folder, or neither task's csv in it.
    """
    report, left_out = Report(str(root), deep), set(skip)
    tasks = [
        t for t, layout in LAYOUTS.items() if any(Path(root, name).exists() for name in (layout.folder, layout.csv))
    ]
    if not tasks:
        fault = "has neither S4's nor MS3's csv" if Path(root).is_dir() else "no such folder"
        raise DataError(f"{root}: {fault}; give the folder that holds Single-source/ or Multi-sources/, or one of them")
    for task in tasks:
        layout, clips = LAYOUTS[task], []
        try:
            folder = find_folder(root, task)
            rows = [row for row in read_csv(folder / layout.csv, task) if row[layout.key] not in left_out]
        except AvsError as error:
            report.errors.append(Finding(task, str(error)))
            continue
        _count(report, task, folder, rows)
        if without_masks := masks_missing(folder, task):
            report.errors.append(Finding(task, without_masks))
        for row in rows:
            try:
                clips.append(make_clip(folder, task, row, masks=not without_masks))
            except AvsError as error:
                report.errors.append(Finding(task, str(error), row[layout.key]))
        if deep:
            _read_all(report, task, clips, progress)
    if deep and (changed := damaged_files(root, verify=True)):
        fault = f"{len(changed)} files of this Mini-AVS have changed since it was built, the first is {changed[0]}"
        report.errors.append(Finding(task, f"{root}: {fault}; remove the folder, and build it again"))
    return report


def _count(report: Report, task: str, folder: Path, rows: list[dict[str, str]]) -> None:
    """Clips by split, compared with the published numbers unless the data are Mini-AVS, and videos in two splits."""
    mini = any((place / "manifest.json").is_file() for place in (folder, folder.parent))
    splits: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        splits[row["split"]].append(row)
    found = TaskReport(str(folder), mini, {split: len(clips) for split, clips in splits.items()})
    report.tasks[task] = found
    if task == "s4":
        found.categories = {split: dict(Counter(c["category"] for c in clips)) for split, clips in splits.items()}
    if mini:
        return
    for split in PUBLISHED[task] | found.splits:
        clips, published = found.splits.get(split, 0), PUBLISHED[task].get(split)
        if clips != published:
            sentence = f"{clips} {split} clips; AVSBench has {published or 'no such split'}"
            report.warnings.append(Finding(task, f"{LAYOUTS[task].csv}: {sentence}"))
    if task == "ms3":
        videos = {split: [c["video_id"].rpartition("_")[0] or c["video_id"] for c in splits[split]] for split in splits}
        train = set(videos.pop("train", ()))
        for split, own in videos.items():
            if shared := sum(video in train for video in own):
                found.shared_sources[split] = shared
                sentence = f"{shared} of {len(own)} {split} clips share their source video with a train clip"
                report.notes.append(Finding(task, sentence))


def _read_all(report: Report, task: str, clips: list[Clip], progress: bool) -> None:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        read = zip(clips, pool.map(_read_clip, clips), strict=True)
        for clip, (faults, doubts) in track(read, f"reading {task}", len(clips), disable=not progress):
            report.errors += [Finding(task, fault, clip.name) for fault in faults]
            report.warnings += [Finding(task, doubt, clip.name) for doubt in doubts]


def _read_clip(clip: Clip) -> tuple[list[str], list[str]]:
    """What makes a clip unusable, and what may."""
    faults, doubts, empty = [], [], 0

    def tried(faults: list[str], read: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except AvsError as error:
            faults.append(str(error))

    for frame_path, mask_path in zip(clip.frame_paths, clip.mask_paths, strict=True):
        frame = tried(faults, read_frame, frame_path)
        if mask_path and (mask := tried(faults, read_mask, mask_path, None, frame and frame[1])):
            empty += not mask[0].any()
    if empty and clip.category:
        doubts.append(f"clip {clip.name!r}: {empty} of its masks are empty")
    sound = Sound(clip.name, clip.wav_path, clip.log_mel_path, len(clip.frame_paths))
    patches = tried(faults, load_log_mel, sound.mel, sound.frames) if sound.mel else None
    if sound.wav:
        tried(faults if patches is None else doubts, sound.waveform)
    return faults, doubts
