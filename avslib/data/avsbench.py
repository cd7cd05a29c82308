"""AVSBench's S4 and MS3 folders as a `Dataset`: names are checked when it is made, contents when a clip is read."""

import csv
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from avslib.audio import SAMPLE_RATE, load_clip, log_mel
from avslib.data.pickles import load_log_mel
from avslib.errors import AvsError

__all__ = [
    "LAYOUTS",
    "AVSBench",
    "Clip",
    "Layout",
    "find_folder",
    "make_clip",
    "read_csv",
    "read_frame",
    "read_mask",
    "require_same_size",
]

LARGEST_PICTURE = 64 * 10**6  # pixels; larger ones are decompression bombs, or not frames
AUDIO_TOLERANCE = 0.2  # seconds that may be missing: 4.8 s still give five log-mel patches


@dataclass(frozen=True)
class Layout:
    """Where one task of AVSBench keeps its files."""

    folder: str
    csv: str
    data: str
    key: str
    columns: tuple[str, ...]


LAYOUTS = {
    "s4": Layout("Single-source", "s4_meta_data.csv", "s4_data", "name", ("name", "category", "split")),
    "ms3": Layout("Multi-sources", "ms3_meta_data.csv", "ms3_data", "video_id", ("video_id", "split")),
}


@dataclass(frozen=True)
class Clip:
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
        raise AvsError(f"task {task!r} is unknown; expected one of {', '.join(LAYOUTS)}")
    root, layout = Path(root), LAYOUTS[task]
    if not root.is_dir():
        raise AvsError(
            f"{root}: no such folder; give the folder that holds {layout.folder}/ (avs data build-mini makes one)"
        )
    for folder in (root / layout.folder, root):
        if (folder / layout.csv).is_file():
            return folder
    raise AvsError(f"{root}: holds neither {layout.folder}/{layout.csv} nor {layout.csv}; is it the {task} data?")


def read_csv(path: str | Path, task: str) -> list[dict[str, str]]:
    """Rows of the task's csv. Raises AvsError on a missing column, an empty cell, a name that leads elsewhere."""
    columns, key = LAYOUTS[task].columns, LAYOUTS[task].key
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise AvsError(f"{path}: has no column {', '.join(map(repr, missing))}; expected {','.join(columns)}")
            rows = []
            for row in reader:
                for column in columns:
                    if not _is_plain_name(row[column]):
                        raise AvsError(
                            f"{path}, line {reader.line_num}: {column} is {row[column]!r}; "
                            "expected a plain name, without slashes"
                        )
                rows.append({column: row[column] for column in columns})
    except (OSError, UnicodeError, csv.Error) as error:
        raise AvsError(f"{path}: cannot be read as a csv file in UTF-8 ({error})") from error
    names = [(row["split"], row[key]) for row in rows]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise AvsError(f"{path}: {key} {twice[1]!r} comes twice in split {twice[0]!r}; remove one of the rows")
    return rows


def _is_plain_name(value: str | None) -> bool:
    """Whether a csv cell is one path component on every system, so that it cannot lead out of the folder."""
    return (
        bool(value)
        and value.isprintable()
        and value not in (".", "..")
        and PurePosixPath(value).name == value
        and PureWindowsPath(value).name == value
    )


def make_clip(folder: Path, task: str, row: Mapping[str, str], frames: int = 5) -> Clip:
    """Find the files of one csv row. Raises AvsError that names what is missing."""
    layout = LAYOUTS[task]
    name, split, category = row[layout.key], row["split"], row.get("category")
    data = folder / layout.data
    if task == "s4":
        inner, seen, stems = Path(split, category), Path(split, category, name), (name,)
    else:
        inner, seen, stems = Path(split), Path(name), (f"{name}.mp4", name)
    annotated = 1 if task == "s4" and split == "train" else frames
    wav = data / "audio_wav" / inner / f"{name}.wav"
    pickled = data / "audio_log_mel" / inner / f"{name}.pkl"
    has_wav, has_pickle = wav.is_file(), pickled.is_file()
    if not has_wav and not has_pickle:
        raise AvsError(f"clip {name!r} has no sound: neither {wav} nor {pickled} exists")
    return Clip(
        name=name,
        category=category,
        split=split,
        frame_paths=_numbered(data / "visual_frames" / seen, stems, frames, "frames"),
        mask_paths=_numbered(data / "gt_masks" / inner / name, (name, f"{name}.mp4"), annotated, "masks")
        + (None,) * (frames - annotated),
        wav_path=wav if has_wav else None,
        log_mel_path=pickled if has_pickle else None,
    )


def _numbered(folder: Path, stems: tuple[str, ...], count: int, what: str) -> tuple[Path, ...]:
    """Pictures 1 to `count` of a clip's folder."""
    try:
        present = set(os.listdir(folder))
    except OSError:
        raise AvsError(f"{folder}: no such folder; expected {count} {what}") from None
    found = []
    for number in range(1, count + 1):
        names = [f"{stem}_{number}{ending}" for stem in stems for ending in (".png", ".jpg", ".jpeg")]
        name = next((name for name in names if name in present), None)
        if name is None:
            raise AvsError(
                f"{folder}: holds {len(present)} files, but not {names[0]}; expected {count} {what}, "
                f"{stems[0]}_1.png to _{count}.png"
            )
        found.append(folder / name)
    return tuple(found)


def _open(path: Path, wanted: tuple[int, int] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """A decoded picture and its own (height, width); a JPEG much larger than `wanted` is decoded smaller."""
    try:
        picture = Image.open(path, formats=("PNG", "JPEG"))
        size = picture.height, picture.width
        if size[0] * size[1] > LARGEST_PICTURE:
            raise AvsError(f"{path}: has {size[1]}x{size[0]} pixels, more than {LARGEST_PICTURE}; resize it")
        if wanted:
            picture.draft("RGB", wanted[::-1])
        picture.load()
    except AvsError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise AvsError(f"{path}: missing, truncated or no PNG or JPEG picture ({error}); get the file again") from error
    return picture, size


def read_frame(path: Path, image_size: tuple[int, int] | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """A frame as uint8 [H, W, 3], resized bilinearly when of another size, and its size on disk (height, width)."""
    picture, size = _open(path, image_size)
    picture = picture.convert("RGB")
    if image_size and picture.size != image_size[::-1]:
        picture = picture.resize(image_size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(picture), size


def read_mask(path: Path, image_size: tuple[int, int] | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """A mask as uint8 0/1 [H, W], resized to the nearest pixel, and its size on disk. AvsError when not binary."""
    picture, size = _open(path)
    values = np.asarray(picture.convert("L"))
    if not _is_binary(values) and picture.mode == "P":
        values = np.asarray(picture)  # a coloured palette: the indices are the labels
    if not _is_binary(values):
        raise AvsError(
            f"{path}: the mask is not binary, it holds the values {np.unique(values)[:6].tolist()}; "
            "expected 0 and 255 only"
        )
    mask = (values > 0).astype(np.uint8)
    if image_size and size != image_size:
        mask = np.asarray(Image.fromarray(mask).resize(image_size[::-1], Image.Resampling.NEAREST))
    return mask, size


def _is_binary(values: np.ndarray) -> bool:
    on = values > 0
    return bool((values[on] == 255).all() or (values[on] == 1).all())


def require_same_size(mask_path: Path, mask_size: tuple[int, int], frame_size: tuple[int, int]) -> None:
    """Raise AvsError unless a mask and its frame, both (height, width), agree."""
    if mask_size != frame_size:
        raise AvsError(
            f"{mask_path}: the mask has {mask_size[1]}x{mask_size[0]} pixels and its frame "
            f"{frame_size[1]}x{frame_size[0]}; expected the same size"
        )


class AVSBench(Dataset):
    """Clips of one split.

    Args:
        root: folder with ``Single-source/`` or ``Multi-sources/``, or one of these two.
        task: "s4" or "ms3".
        split: "train", "val", "test", or another value of the csv's split column ("test_unseen" of Mini-AVS).
        image_size: pictures are resized to it, one number or (height, width).
        frames: T, frames (and seconds) of a clip.
        audio: embeddings [T, D] by clip name, added to the items.
        skip: names of clips to leave out.

    Items are dicts: name; image uint8 [T, 3, H, W]; mask uint8 of 0 and 1 [T, 1, H, W], zeros where not annotated;
    annotated bool [T]; audio float32 [T, D] where given.

    Raises AvsError when made: no such folder, csv, column or split; names that lead out of the folder; missing files.
    When a clip is read: a truncated picture, a mask of another size than its frame, a mask that is not binary.
    """

    def __init__(
        self,
        root: str | Path,
        task: str,
        split: str,
        image_size: int | tuple[int, int] = 224,
        frames: int = 5,
        audio: Mapping[str, Float[Tensor, "T D"]] | None = None,
        skip: Collection[str] = (),
    ) -> None:
        self.folder = find_folder(root, task)
        self.task, self.split, self.frames = task, split, frames
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if frames < 1 or len(self.image_size) != 2 or min(self.image_size) < 1:
            raise AvsError(f"frames and image_size must be at least 1; got {frames} and {image_size}")
        path, key = self.folder / LAYOUTS[task].csv, LAYOUTS[task].key
        rows = read_csv(path, task)
        splits = list(dict.fromkeys(row["split"] for row in rows))
        if split not in splits:
            raise AvsError(f"{path}: lists no clip of split {split!r}; it has {', '.join(splits) or 'no rows'}")
        skipped = set(skip)
        rows = [row for row in rows if row["split"] == split and row[key] not in skipped]
        self.clips = [make_clip(self.folder, task, row, frames) for row in rows]
        # One tensor: worker processes that are not forked would share every clip's by a file handle of its own.
        self.audio = None if audio is None else self._stack(audio)

    def _stack(self, audio: Mapping[str, Tensor]) -> Float[Tensor, "clips T D"]:
        for clip in self.clips:
            if clip.name not in audio:
                raise AvsError(f"audio holds no embedding of clip {clip.name!r}; embed this split first")
            if audio[clip.name].ndim != 2 or len(audio[clip.name]) != self.frames:
                raise AvsError(
                    f"the embedding of clip {clip.name!r} has shape {list(audio[clip.name].shape)}; "
                    f"expected [{self.frames}, D]"
                )
        return torch.stack([audio[clip.name].float() for clip in self.clips]) if self.clips else torch.empty(0)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, str | Tensor]:
        clip = self.clips[index]
        pictures, masks = [], []
        for frame_path, mask_path in zip(clip.frame_paths, clip.mask_paths, strict=True):
            picture, size = read_frame(frame_path, self.image_size)
            pictures.append(picture)
            if mask_path is None:
                masks.append(np.zeros(self.image_size, np.uint8))
                continue
            mask, mask_size = read_mask(mask_path, self.image_size)
            require_same_size(mask_path, mask_size, size)
            masks.append(mask)
        item = {
            "name": clip.name,
            "image": torch.from_numpy(np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))),
            "mask": torch.from_numpy(np.stack(masks)[:, None]),
            "annotated": torch.tensor([path is not None for path in clip.mask_paths]),
        }
        if self.audio is not None:
            item["audio"] = self.audio[index]
        return item

    def waveform(self, index: int) -> Float[Tensor, "S"]:
        """The clip's sound, 16 kHz mono, exactly T seconds. AvsError when no wav exists or it is too short."""
        clip = self.clips[index]
        if clip.wav_path is None:
            raise AvsError(
                f"clip {clip.name!r} has no wav, only {clip.log_mel_path}; use an audio encoder that "
                "starts from the log-mel (VGGish), or add the wav files"
            )
        return load_clip(clip.wav_path, self.frames, AUDIO_TOLERANCE)

    def log_mel(self, index: int) -> Float[Tensor, "T 1 96 64"]:
        """The clip's log-mel patches: from its pickle, else computed from its wav."""
        clip = self.clips[index]
        if clip.log_mel_path is not None:
            return load_log_mel(clip.log_mel_path, self.frames)
        return log_mel(self.waveform(index), SAMPLE_RATE, self.frames)
