"""Does the loader keep the training step fed? And what do packed shards gain over loose files?"""

import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from avslib.config import DataConfig
from avslib.core.errors import UsageError
from avslib.data.avsbench import AVSBench
from avslib.data.loading import train_loader
from avslib.data.packed import PackedClips, pack
from avslib.training.evaluate import flatten_clips
from benchmarks.candidates import Candidate
from benchmarks.record import BenchSettings, Row, spread
from benchmarks.timing import OURS
from benchmarks.work import TrainStep, start

WORKERS = (0, 1, 2, 4)


def section_feeding(settings: BenchSettings) -> list[Row]:
    """Clips per second of the loader, the share of training that waits for it, and packed shards against loose files.

    Raises:
        AvsError: no data folder in `settings`.
    """
    if settings.data is None:
        raise UsageError("avs bench --part feeding: name a data folder with --data (avs data build-mini creates one)")
    workers = WORKERS[:2] if settings.quick else WORKERS
    step = start("train", Candidate(OURS), settings, settings.batch)
    rows = [_loader_row(settings, n) for n in workers] + [_step_row(settings, step, n) for n in workers]
    with tempfile.TemporaryDirectory() as folder:
        pack(settings.data, Path(folder) / "packed", settings.task, ["train"], progress=False)
        packed, ratio = packed_speed(settings, Path(folder) / "packed")
    case, name, values = "packed shards", "against loose files, on this disk", {"packed / loose, decoded": ratio}
    return [*rows, Row(case=case, name=name, clips_per_second=packed, values=values)]


def wait_share(batches: Iterable[Any], step: Any, steps: int, clock: Any = time.perf_counter) -> tuple[float, float]:
    """Share of `steps` training steps that is spent waiting for the next batch, and seconds per step.

    The first step is not counted: the workers start in it.
    """
    found, waited, began = iter(batches), 0.0, 0.0
    for k in range(steps + 1):
        if k == 1:
            began, waited = clock(), 0.0
        asked = clock()
        batch = next(found)
        waited += clock() - asked
        step(batch)
    whole = clock() - began
    return waited / whole, whole / steps


def packed_speed(settings: BenchSettings, packed: Path) -> tuple[float, float]:
    """Packed clips per second, and how many times as fast as loose files in random order: read in turn, and decoded.

    Both come from the system's cache; on a slower disk or network packed files gain more than this says.
    """
    stream = PackedClips(packed, "train", settings.image_size, settings.frames, shuffle=True)
    config = DataConfig(task=settings.task, workers=0)
    loaders = _loader(settings, 0), train_loader(stream, config, settings.batch, settings.seed)
    rounds = [[_pass(loader, epoch) for loader in loaders] for epoch in range(1 + settings.rounds)][1:]
    clips = len(loaders[0]) * settings.batch
    return clips / statistics.median(r[1] for r in rounds), statistics.median(r[0] / r[1] for r in rounds)


def _loader(settings: BenchSettings, workers: int) -> DataLoader:
    dataset = AVSBench(settings.data, settings.task, "train", settings.image_size, settings.frames)
    return train_loader(dataset, DataConfig(task=settings.task, workers=workers), settings.batch, settings.seed)


def _pass(loader: DataLoader, epoch: int) -> float:
    loader.sampler.epoch, began = epoch, time.perf_counter()
    deque(loader, maxlen=0)
    return time.perf_counter() - began


def _loader_row(settings: BenchSettings, workers: int) -> Row:
    loader = _loader(settings, workers)
    seconds = spread([_pass(loader, epoch) for epoch in range(1 if settings.quick else settings.rounds)])
    rate = len(loader) * settings.batch / seconds.median
    name = f"{workers} workers"
    return Row(case="reading and decoding", name=name, batch=settings.batch, seconds=seconds, clips_per_second=rate)


def _step_row(settings: BenchSettings, step: TrainStep, workers: int) -> Row:
    def endless(loader: DataLoader) -> Iterator[dict]:
        while True:
            yield from loader

    def train(batch: dict) -> None:
        step.batch.image = step.module.normalize(flatten_clips(batch, step.batch.image.device)["image"])
        step()

    share, seconds = wait_share(endless(_loader(settings, workers)), train, 2 if settings.quick else 6)
    return Row(
        case="training step with reading",
        name=f"{workers} workers",
        batch=settings.batch,
        seconds=spread([seconds]),
        clips_per_second=settings.batch / seconds,
        values={"share of time waiting for data": share},
    )
