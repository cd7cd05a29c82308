"""Where AVSBench keeps its files, and which files belong to a row of its csv."""

import csv
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from avslib.core.errors import DataError, UsageError
from avslib.core.parsing import LARGEST_TEXT, first_line, read_text

LONGEST_NAME = 200  # bytes of UTF-8: file systems take 255, and "_10.safetensors" and the like follow
# Windows keeps some characters and names of devices (``nul.txt``) for itself, and drops a dot or space at the end
PLAIN = re.compile(r'(?!(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\.|$))[^<>:"/\\|?*]*[^<>:"/\\|?*. ]', re.IGNORECASE)


class Layout(NamedTuple):
    """Where one task of AVSBench keeps its files; `key` is the csv's column of clip names."""

    folder: str
    csv: str
    data: str
    key: str
    columns: tuple[str, ...]


LAYOUTS = {
    "s4": Layout("Single-source", "s4_meta_data.csv", "s4_data", "name", ("name", "category", "split")),
    "ms3": Layout("Multi-sources", "ms3_meta_data.csv", "ms3_data", "video_id", ("video_id", "split")),
}


class Clip(NamedTuple):
    """Files of one clip; `mask_paths` holds None where a frame is not annotated (S4 train: all but the first)."""

    name: str
    category: str | None
    split: str
    frame_paths: tuple[Path, ...]
    mask_paths: tuple[Path | None, ...]
    wav_path: Path | None
    log_mel_path: Path | None


def find_folder(root: str | Path, task: str) -> Path:
    """The folder with the csv of `task`: below `root`, or `root` itself. Raises AvsError when there is none."""
    if task not in LAYOUTS:
        raise UsageError(f"task {task!r} is unknown; expected one of {', '.join(LAYOUTS)}")
    root, layout = Path(root), LAYOUTS[task]
    for folder in (root / layout.folder, root):
        if (folder / layout.csv).is_file():
            return folder
    fault = f"has neither {layout.folder}/{layout.csv} nor {layout.csv}" if root.is_dir() else "no such folder"
    raise DataError(f"{root}: {fault}; give the folder that holds {layout.folder}/ (avs data build-mini makes one)")


def read_csv(path: str | Path, task: str, optional: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """Rows of the task's csv, with the `optional` columns where they are filled in; others are left out.

    Raises AvsError on a missing column, a cell that is not a plain name, a name that comes twice in a split, or a file
    of more than `LARGEST_TEXT` bytes.
    """
    columns, key = LAYOUTS[task].columns, LAYOUTS[task].key
    text = read_text(path, LARGEST_TEXT, DataError, "a csv file in UTF-8")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
            raise DataError(f"{path}: has no column {', '.join(map(repr, missing))}; expected {','.join(columns)}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if bad := [column for column in columns if not is_plain_name(row[column])]:
                value, expected = first_line(repr(row[bad[0]])), "a plain name, valid as a file name on any system"
                raise DataError(f"{where}: {bad[0]} is {value}; expected {expected}")
            if (row["split"], row[key]) in rows:
                raise DataError(f"{where}: {key} {row[key]!r} comes twice in split {row['split']!r}; remove one row")
            kept = [*columns, *(column for column in optional if row.get(column))]
            rows[row["split"], row[key]] = {column: row[column] for column in kept}
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as a csv file in UTF-8 ({error})") from error
    return list(rows.values())


def is_plain_name(value: str | None) -> bool:
    """Whether a csv cell is one path component on every system, so that it cannot lead out of the folder."""
    printable = value and value.isprintable() and len(value.encode("utf-8", "surrogatepass")) <= LONGEST_NAME
    return bool(printable and PLAIN.fullmatch(value))


def clip_folders(task: str, row: Mapping[str, str]) -> tuple[Path, Path, tuple[str, ...]]:
    """Where a row's files lie: folder of sounds and masks, folder of frames, and what a frame's name may begin with.

    The first is below ``audio_wav``, ``audio_log_mel`` and ``gt_masks``, the second below ``visual_frames``.
    """
    name, split = row[LAYOUTS[task].key], row["split"]
    if task == "s4":
        return Path(split, row["category"]), Path(split, row["category"], name), (name,)
    return Path(split), Path(name), (f"{name}.mp4", name)


def masks_missing(folder: Path, task: str) -> str | None:
    """A sentence when the data has no masks at all, as `avs data prepare` leaves it."""
    masks = folder / LAYOUTS[task].data / "gt_masks"
    if masks.is_dir():
        return None
    advice = "put the masks there, or read the clips with AVSBench(..., masks=False)"
    return f"{masks}: no such folder, so these clips have no masks to train or score a model with; {advice}"


def make_clip(folder: Path, task: str, row: Mapping[str, str], frames: int = 5, masks: bool = True) -> Clip:
    """The files of one csv row, without masks where `masks` is False. Raises AvsError that names what is missing."""
    layout = LAYOUTS[task]
    name, split, data = row[layout.key], row["split"], folder / layout.data
    inner, seen, stems = clip_folders(task, row)
    annotated = 0 if not masks else 1 if task == "s4" and split == "train" else frames
    wav, mel = data / "audio_wav" / inner / f"{name}.wav", data / "audio_log_mel" / inner / f"{name}.pkl"
    wav_path = wav if wav.is_file() else None
    # what convert_audio made of the pickle comes first: reading it needs no unpickler
    mel_path = next((path for path in (mel.with_suffix(".safetensors"), mel) if path.is_file()), None)
    if wav_path is None and mel_path is None:
        raise DataError(f"clip {name!r} has no sound: neither {wav} nor {mel} exists")
    frame_paths = _numbered(data / "visual_frames" / seen, stems, frames, "frames")
    mask_paths = _numbered(data / "gt_masks" / inner / name, (name, f"{name}.mp4"), annotated, "masks")
    not_annotated = (None,) * (frames - annotated)
    return Clip(name, row.get("category"), split, frame_paths, mask_paths + not_annotated, wav_path, mel_path)


def _numbered(folder: Path, stems: tuple[str, ...], count: int, what: str) -> tuple[Path, ...]:
    """Pictures 1 to `count` of a clip's folder."""
    if not count:
        return ()
    try:
        present = set(os.listdir(folder))
    except OSError:
        raise DataError(f"{folder}: no such folder; expected {count} {what}") from None
    found = []
    for number in range(1, count + 1):
        names = [f"{stem}_{number}{ending}" for stem in stems for ending in (".png", ".jpg", ".jpeg")]
        if not (there := [name for name in names if name in present]):
            raise DataError(f"{folder}: has {len(present)} files, but not {names[0]}; expected {count} {what}")
        found.append(folder / there[0])
    return tuple(found)
