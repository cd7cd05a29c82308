"""AVSBench's S4 and MS3 folders as a `Dataset`: names are checked when it is made, contents when a clip is read."""

import copy
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from avslib.core.errors import DataError
from avslib.core.files import sha256_file
from avslib.core.parsing import LARGEST_TEXT, read_text
from avslib.data.layout import LAYOUTS, find_folder, make_clip, masks_missing, read_csv
from avslib.data.pictures import read_frame, read_mask

logger = logging.getLogger(__name__)

AUDIO_TOLERANCE = 0.2  # seconds that may be missing: 4.8 s still give five log-mel patches


class Sound(NamedTuple):
    """The files of a clip's sound, or open bytes of them. Where both are there, log-mel patches come from `mel`, as in
    AVSBench's own pipeline, and samples from `wav`."""

    name: str
    wav: Path | BinaryIO | None
    mel: Path | BinaryIO | None
    frames: int

    def waveform(self) -> Float[Tensor, "S"]:
        """16 kHz mono, exactly T seconds. AvsError when no wav exists or it is too short."""
        if self.wav is None:
            raise DataError(f"clip {self.name!r} has no wav; choose VGGish as audio encoder, or add the wav files")
        from avslib.audio import load_clip  # workers read pictures, and need no torchaudio

        return load_clip(self.wav, self.frames, AUDIO_TOLERANCE)

    def log_mel(self) -> Float[Tensor, "T 1 96 64"]:
        """From the log-mel file, else computed from the wav."""
        from avslib.audio import SAMPLE_RATE, log_mel
        from avslib.data.pickles import load_log_mel

        if self.mel is not None:
            return load_log_mel(self.mel, self.frames)
        return log_mel(self.waveform(), SAMPLE_RATE, self.frames)


class AVSBench(Dataset):
    """Clips of one split, as dicts: name; image uint8 [T, 3, H, W]; mask uint8 of 0 and 1 [T, 1, H, W], zeros where not
    annotated; annotated bool [T]; audio float32 [T, D] after `with_audio`.

    Args:
        root: folder with ``Single-source/`` or ``Multi-sources/``, or one of these two.
        task: "s4" or "ms3".
        split: "train", "val", "test", or any value of the csv's split column ("test_unseen" of Mini-AVS).
        image_size, mask_size: to resize to, one number or (height, width); both the same by default.
        frames: T, frames (and seconds) of a clip.
        skip: names of clips to leave out.
        masks: False looks for no masks, and no frame is annotated.

    Raises AvsError when made: no such folder, csv, column or split; names that lead out of the folder; missing files.
    When a clip is read: what `read_frame` and `read_mask` refuse.
    """

    def __init__(
        self,
        root: str | Path,
        task: str,
        split: str,
        image_size: int | tuple[int, int] = 224,
        frames: int = 5,
        skip: Collection[str] = (),
        mask_size: int | tuple[int, int] | None = None,
        masks: bool = True,
    ) -> None:
        self.folder = find_folder(root, task)
        self.task, self.split, self.frames = task, split, frames
        self.image_size, self.mask_size = height_width(image_size), height_width(mask_size or image_size)
        path, key, left_out = self.folder / LAYOUTS[task].csv, LAYOUTS[task].key, set(skip)
        rows = read_csv(path, task)
        if not (own := [row for row in rows if row["split"] == split]):
            splits = ", ".join(dict.fromkeys(row["split"] for row in rows))
            raise DataError(f"{path}: lists no clip of split {split!r}; it has {splits or 'no rows'}")
        if masks and (sentence := masks_missing(self.folder, task)):
            raise DataError(sentence)
        self.clips = [make_clip(self.folder, task, row, frames, masks) for row in own if row[key] not in left_out]
        level = logging.WARNING if len(self) < len(own) else logging.INFO
        logger.log(level, "%s, %s: %d clips, %d left out", path, split, len(self), len(own) - len(self))
        self.audio: Tensor | None = None

    def with_audio(self, audio: Mapping[str, Float[Tensor, "T D"]]) -> "AVSBench":
        """The same clips with these embeddings, [T, D] by clip name, in their items."""
        other = copy.copy(self)
        other.audio = stack_audio(audio, self.names, self.frames)
        return other

    def first(self, clips: int) -> "AVSBench":
        """Only the first `clips` clips."""
        other = copy.copy(self)
        other.clips, other.audio = self.clips[:clips], None if self.audio is None else self.audio[:clips]
        return other

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, str | Tensor]:
        return self.window(index, slice(None))

    def window(self, index: int, seconds: slice, epoch: int = 0) -> dict[str, str | Tensor]:
        """The item of these seconds of a clip, in every epoch the same; the others are not read."""
        clip = self.clips[index]
        frames, masks = clip.frame_paths[seconds], clip.mask_paths[seconds]
        item = read_item(clip.name, frames, masks, self.image_size, self.mask_size)
        return item if self.audio is None else item | {"audio": self.audio[index, seconds]}

    @property
    def names(self) -> list[str]:
        """Of the clips, in their order."""
        return [clip.name for clip in self.clips]

    def sound(self, index: int) -> Sound:
        """A clip's sound, which is not read yet."""
        clip = self.clips[index]
        return Sound(clip.name, clip.wav_path, clip.log_mel_path, self.frames)

    def sounds(self) -> Iterator[Sound]:
        """The sound of each clip."""
        return map(self.sound, range(len(self)))

    def waveform(self, index: int) -> Float[Tensor, "S"]:
        """As `Sound.waveform`."""
        return self.sound(index).waveform()

    def log_mel(self, index: int) -> Float[Tensor, "T 1 96 64"]:
        """As `Sound.log_mel`."""
        return self.sound(index).log_mel()

    def sound_checksums(self, log_mel: bool) -> list[Any]:
        """Endings and SHA-256 of the files that log-mel patches, or else samples, are read from."""
        paths = [sound.mel or sound.wav if log_mel else sound.wav or sound.mel for sound in self.sounds()]
        with ThreadPoolExecutor() as pool:
            return [[path.suffix for path in paths], list(pool.map(sha256_file, paths))]


def height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """One number, or (height, width), as the latter."""
    return (size, size) if isinstance(size, int) else tuple(size)


def read_item(
    name: str,
    frames: Sequence[Path | BinaryIO],
    masks: Sequence[Path | BinaryIO | None],
    image_size: tuple[int, int],
    mask_size: tuple[int, int],
) -> dict[str, str | Tensor]:
    """The item of `AVSBench` without its audio, from T frames and as many masks (None: not annotated), paths or open
    files; sizes are (height, width)."""
    pictures, labels = [], np.zeros((len(masks), 1, *mask_size), np.uint8)
    for frame, mask, label in zip(frames, masks, labels, strict=True):
        picture, size = read_frame(frame, image_size)
        pictures.append(picture)
        if mask is not None:
            label[0], _ = read_mask(mask, mask_size, size)
    return {
        "name": name,
        "image": torch.from_numpy(np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))),
        "mask": torch.from_numpy(labels),
        "annotated": torch.tensor([mask is not None for mask in masks]),
    }


def stack_audio(
    audio: Mapping[str, Float[Tensor, "T D"]], names: Sequence[str], frames: int
) -> Float[Tensor, "clips T D"]:
    """The embeddings of the clips `names` as one tensor. Raises AvsError when one is missing or has a wrong shape."""
    for name in names:
        if name not in audio:
            raise DataError(f"audio has no embedding of clip {name!r}; embed this split first")
        if (shape := list(audio[name].shape))[:-1] != [frames]:
            raise DataError(f"the embedding of clip {name!r} has shape {shape}; expected [{frames}, D]")
    # One tensor: spawned worker processes would share each clip's own by a file handle of its own.
    return torch.stack([audio[name].float() for name in names]) if names else torch.empty(0)


def read_skip_list(path: str | Path) -> set[str]:
    """Names of clips to leave out, one per line, quoted (") or not; a line that begins with ``#`` and a space is a
    comment. Raises AvsError when the file cannot be read, or is too large."""
    lines = read_text(path, LARGEST_TEXT, DataError, "clip names, one per line").splitlines()
    return {line.strip().strip('"') for line in lines if line.strip() and not f"{line} ".startswith("# ")}
