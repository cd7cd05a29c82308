"""Loaders that give the same batches whatever the number of workers, and from any step on.

Order and flips are functions of (seed, epoch, clip), not of a generator's state, so that a resumed run reads exactly
what the uninterrupted one would have read.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from avslib.config import DataConfig
from avslib.core.seeds import flip_rng, order_rng
from avslib.data.corrupt import first_readable
from avslib.data.packed import PackedClips


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) pairs in an order drawn from (seed, epoch); set `epoch` before each pass.

    There is no ``set_epoch``: accelerate would call it with this process's passes, which a resumed run counts anew.
    """

    def __init__(self, size: int, seed: int):
        self.size, self.seed, self.epoch = size, seed, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = order_rng(self.seed, self.epoch).permutation(self.size)
        return ((self.epoch, int(i)) for i in order)


class FlippedClips(Dataset):
    """Clips of `dataset` with random horizontal flips; items are asked for by (epoch, index).

    ``official`` is what the released loaders do: S4 flips the first frame (and its mask) alone, MS3 flips each frame by
    a coin of its own. ``clip`` flips whole clips, which keeps motion plausible.

    The place of a clip that cannot be read is taken by the next one, which `avslib.data.corrupt` tells.
    """

    def __init__(self, dataset: Dataset, config: DataConfig, seed: int):
        self.dataset, self.config, self.seed = dataset, config, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def coins(self, epoch: int, index: int) -> Bool[Tensor, "T"]:
        """Which frames are flipped."""
        c, frames = self.config, self.config.frames_of("train")
        coins = flip_rng(self.seed, epoch, index).random(frames)
        heads = torch.from_numpy(coins < c.flip_probability)
        if c.flip == "clip":
            return heads[:1].expand(frames)
        return heads if c.task == "ms3" else heads & (torch.arange(frames) == 0)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        clips = len(self.dataset)
        order = ((index + i) % clips for i in range(clips))
        number, item = first_readable(
            self.dataset.__getitem__, order, lambda i: self.dataset.clips[i].name, self.config.max_corrupt
        )
        return self.flip(item, epoch, number)

    def flip(self, item: dict[str, Any], epoch: int, index: int) -> dict[str, Any]:
        """The item with the frames flipped that the coins of (epoch, index) say."""
        flipped = self.coins(epoch, index)
        for name in ("image", "mask"):
            item[name] = torch.where(flipped[:, None, None, None], item[name].flip(-1), item[name])
        return item


class StreamSampler(Sampler[tuple[int, dict[str, Any]]]):
    """(epoch, undecoded clip) of a packed split, read in one stream; set `epoch` before each pass.

    What a sampler gives is made in the training process: however many workers decode the clips, their order is the
    same, each byte is read once, and one shuffle buffer is held. A thread reads `ahead` clips before they are wanted.
    """

    def __init__(self, clips: PackedClips, ahead: int = 8):
        self.clips, self.ahead = clips, ahead

    @property
    def epoch(self) -> int:
        return self.clips.epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self.clips.epoch = value

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        epoch = self.epoch
        return ((epoch, sample) for sample in _read_ahead(self.clips.samples(), self.ahead))


def _read_ahead(items: Iterator[dict[str, Any]], ahead: int) -> Iterator[dict[str, Any]]:
    end: dict[str, Any] = {}
    pool = ThreadPoolExecutor(1, "avslib-read-ahead")
    try:
        waiting = deque(pool.submit(next, items, end) for _ in range(max(1, ahead)))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


class FlippedStream(Dataset):
    """`FlippedClips` of a packed split: the same flips of the same clips; items are asked for by what `StreamSampler`
    reads. The place of a clip that cannot be read is taken by the next one of the batch."""

    def __init__(self, clips: PackedClips, config: DataConfig, seed: int):
        self.clips, self.flips = clips, FlippedClips(clips, config, seed)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitems__(self, keys: list[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
        return [self._item([*keys[i:], *keys[:i]]) for i in range(len(keys))]

    def _item(self, keys: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
        def number(key: tuple[int, dict[str, Any]]) -> int:
            return int(key[1]["__key__"])

        key, item = first_readable(
            lambda key: self.clips.decode(key[1])[1],
            keys,
            lambda key: self.clips.names[number(key)],
            self.flips.config.max_corrupt,
        )
        return self.flips.flip(item, key[0], number(key))


def train_loader(dataset: Dataset, config: DataConfig, batch_size: int, seed: int) -> DataLoader:
    """Shuffled, flipped batches; the last, smaller one is left out, since BatchNorm would weigh its clips more."""
    # a split smaller than one batch still trains
    drop_last = len(dataset) >= batch_size
    return DataLoader(
        FlippedClips(dataset, config, seed),
        batch_size,
        sampler=EpochSampler(len(dataset), seed),
        num_workers=config.workers,
        drop_last=drop_last,
        persistent_workers=config.workers > 0,
        timeout=config.timeout if config.workers else 0,
        pin_memory=torch.cuda.is_available(),
        generator=_unused(),
    )


def packed_loader(clips: PackedClips, config: DataConfig, batch_size: int, seed: int) -> DataLoader:
    """As `train_loader`, from packed clips; the order is theirs, for this process, whatever the number of workers."""
    return DataLoader(
        FlippedStream(clips, config, seed),
        batch_size,
        sampler=StreamSampler(clips, 2 * batch_size),
        num_workers=config.workers,
        drop_last=len(clips) >= batch_size,
        persistent_workers=config.workers > 0,
        timeout=config.timeout if config.workers else 0,
        pin_memory=torch.cuda.is_available(),
        generator=_unused(),
    )


def eval_loader(dataset: Dataset, batch_size: int, workers: int = 0) -> DataLoader:
    """All clips in their own order."""
    timeout = 600 if workers else 0  # seconds until a worker counts as stuck
    return DataLoader(
        dataset,
        batch_size,
        num_workers=workers,
        timeout=timeout,
        pin_memory=torch.cuda.is_available(),
        generator=_unused(),
    )


def _unused() -> torch.Generator:
    """What a loader draws a seed for its workers from, else at each pass from torch's own; they draw nothing."""
    return torch.Generator()


def shuffle_audio(audio: Mapping[str, Float[Tensor, "T D"]], seed: int = 0) -> dict[str, Float[Tensor, "T D"]]:
    """Every clip gets the sound of another one: a random cycle through all clips, so that none keeps its own."""
    names = list(audio)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    return {name: audio[other] for name, other in zip(order, order[1:] + order[:1], strict=True)}
