"""Train clips of Mini-AVS that are on no disk: each is composed when it is read, by the process that reads it."""

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from avslib.audio.encoders import AudioEncoder
from avslib.data.mini.build import CSV_SPLIT
from avslib.data.mini.compose import compose_clip
from avslib.data.mini.soundtrack import RATE
from avslib.data.mini.sources import from_manifest


class ComposedClips(Dataset):
    """In the first epoch the train clips of a Mini-AVS build; in each later one as many new clips, with which a larger
    build of the same seed would go on. Items are as those of `avslib.data.avsbench.AVSBench`.

    Args:
        root: a Mini-AVS build, of which only ``manifest.json`` is read.
        task: "s4" or "ms3".
        size: side of the frames in pixels, at which they are drawn.
        frames: T, from the first second on.
        encoder: of the sounds; without one, embeddings are zeros of length `audio_dim`.

    Raises RecordError if `root` holds no build, or was built by a different version.
    """

    def __init__(
        self, root: str | Path, task: str, size: int, frames: int, encoder: AudioEncoder | None, audio_dim: int = 128
    ) -> None:
        def seed_and_counts(manifest: dict) -> tuple[int, dict[str, int]]:
            return int(manifest["seed"]), {split: int(count) for split, count in manifest["counts"][task].items()}

        self.seed, counts = from_manifest(Path(root) / "manifest.json", seed_and_counts)
        self.task, self.size, self.frames, self.encoder = task, size, frames, encoder
        self.silence = torch.zeros(frames, audio_dim)
        train = [split for split in counts if CSV_SPLIT.get(split, split) == "train"]
        self.clips = [(split, k, counts[split]) for split in train for k in range(counts[split])]

    def first(self, clips: int) -> "ComposedClips":
        """Only the first `clips` clips of each epoch."""
        other = copy.copy(self)
        other.clips = self.clips[:clips]
        return other

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def names(self) -> list[str]:
        """Of the clips of the first epoch, in their order."""
        return [f"{self.task}_{split}_{k:05d}" for split, k, _ in self.clips]

    def window(self, index: int, seconds: slice, epoch: int = 0) -> dict[str, str | Tensor]:
        """The item of these seconds of a clip of an epoch."""
        split, k, count = self.clips[index]
        clip = compose_clip(self.task, split, epoch * count + k, self.seed, self.size)
        sound = torch.from_numpy(clip.waveform[None, : self.frames * RATE])
        annotated = torch.arange(self.frames) < (1 if self.task == "s4" else self.frames)
        item = {
            "image": torch.from_numpy(np.ascontiguousarray(clip.frames[: self.frames].transpose(0, 3, 1, 2))),
            "mask": torch.from_numpy(clip.masks[: self.frames, None]) * annotated[:, None, None, None],
            "annotated": annotated,
            "audio": self.silence if self.encoder is None else self.encoder.embed(sound, self.frames)[0],
        }
        return {"name": clip.name} | {name: values[seconds] for name, values in item.items()}
