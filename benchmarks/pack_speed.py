"""Throughput of packed against loose files, taken in one run, in turn."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import DataLoader

from avslib.config import DataConfig
from avslib.data.avsbench import AVSBench
from avslib.data.loading import EpochSampler, train_loader
from avslib.data.packed import PackedClips


@dataclass(frozen=True)
class Speeds:
    """Clips per second of loose and of packed files in random order, decoded; and how much faster the packed ones are,
    as the median over the rounds: decoded (`ratio`), and reading the files without decoding (`files_ratio`)."""

    loose: float
    packed: float
    ratio: float
    files_ratio: float


def compare(
    root: str | Path,
    packed: str | Path,
    task: str,
    split: str,
    *,
    image_size: int = 224,
    workers: int = 0,
    rounds: int = 3,
    skip: Collection[str] = (),
    masks: bool = True,
) -> Speeds:
    """Read a split as training does, from loose files and from its shards in turn, `rounds` times after one that is not
    counted.

    The files are as the system caches them; on a disk or network that is slower than the decoding, packed files gain
    more than this says. Checksums are taken.
    """
    loose = AVSBench(root, task, split, image_size, skip=skip, masks=masks)
    stream = PackedClips(packed, split, image_size, shuffle=True)
    order = EpochSampler(len(loose), 0)

    config = DataConfig(task=task, workers=workers)

    def read(loader: DataLoader, epoch: int) -> Iterable:
        loader.sampler.epoch = epoch
        return loader

    def read_loose(epoch: int) -> Iterable:
        return read(train_loader(loose, config, 4, seed=0), epoch)

    def read_packed(epoch: int) -> Iterable:
        return read(train_loader(stream, config, 4, seed=0), epoch)

    def open_loose(epoch: int) -> Iterable:
        order.epoch = epoch
        clips = (loose.clips[i] for _, i in order)
        return (path.read_bytes() for clip in clips for path in (*clip.frame_paths, *clip.mask_paths) if path)

    def open_packed(epoch: int) -> Iterable:
        return stream.samples(epoch)

    readers = (read_loose, read_packed, open_loose, open_packed)
    times = [[_seconds(read, epoch) for read in readers] for epoch in range(rounds + 1)][1:]
    return Speeds(
        len(loose) / statistics.median(row[0] for row in times),
        len(loose) / statistics.median(row[1] for row in times),
        statistics.median(row[0] / row[1] for row in times),
        statistics.median(row[2] / row[3] for row in times),
    )


def _seconds(read: Callable[[int], Iterable], epoch: int) -> float:
    start = time.perf_counter()
    deque(read(epoch), maxlen=0)
    return time.perf_counter() - start
