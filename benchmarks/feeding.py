"""Does the loader keep the step fed? And what do packed shards gain over loose files?"""

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
from avslib.data.packed import pack
from avslib.training.evaluate import flatten_clips
from benchmarks.candidates import OURS, Candidate
from benchmarks.pack_speed import compare
from benchmarks.record import BenchSettings, Row
from benchmarks.timing import spread, timer
from benchmarks.work import TrainStep, start

WORKERS = (0, 1, 2, 4)


def section_feeding(settings: BenchSettings) -> list[Row]:
    """Clips a second of the loader alone, share of training that waits for it, and packed shards against loose files.

    Raises:
        AvsError: no data folder in `settings`.
    """
    if settings.data is None:
        raise UsageError("avs bench --part feeding: give the data folder by --data DIR (avs data build-mini makes one)")
    workers = WORKERS[:2] if settings.quick else WORKERS
    rows = [_loader_row(settings, n) for n in workers]
    step = start("train", Candidate(OURS), settings, settings.batch)
    rows += [_step_row(settings, step, n) for n in workers]
    return [*rows, _packed_row(settings)]


def wait_share(batches: Iterable[Any], step: Any, steps: int, clock: Any = time.perf_counter) -> tuple[float, float]:
    """Share of `steps` training steps that is spent waiting for the next batch, and seconds a step.

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


def _loader(settings: BenchSettings, workers: int) -> DataLoader:
    dataset = AVSBench(settings.data, settings.task, "train", settings.image_size, settings.frames)
    return train_loader(dataset, DataConfig(task=settings.task, workers=workers), settings.batch, settings.seed)


def _loader_row(settings: BenchSettings, workers: int) -> Row:
    loader, seconds = _loader(settings, workers), []
    clips = len(loader) * settings.batch
    for _ in range(1 if settings.quick else settings.rounds):
        began = time.perf_counter()
        deque(loader, maxlen=0)
        seconds.append(time.perf_counter() - began)
    found = spread(seconds)
    return Row(
        case="reading and decoding",
        name=f"{workers} workers",
        batch=settings.batch,
        seconds=found,
        clips_per_second=clips / found.median,
    )


def _step_row(settings: BenchSettings, step: TrainStep, workers: int) -> Row:
    loader, steps = _loader(settings, workers), 2 if settings.quick else 6
    device = step.batch.image.device

    def train(batch: dict) -> None:
        rows = flatten_clips(batch, device)
        step.batch.image = step.module.normalize(rows["image"])
        step()

    share, seconds = wait_share(_endless(loader), train, steps, timer)
    return Row(
        case="training step with reading",
        name=f"{workers} workers",
        batch=settings.batch,
        seconds=spread([seconds]),
        clips_per_second=settings.batch / seconds,
        values={"share of time waiting for data": share},
    )


def _endless(loader: DataLoader) -> Iterator[dict]:
    while True:
        yield from loader


def _packed_row(settings: BenchSettings) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "packed"
        pack(settings.data, packed, settings.task, ["train"], progress=False)
        found = compare(
            settings.data,
            packed,
            settings.task,
            "train",
            image_size=settings.image_size,
            rounds=1 if settings.quick else settings.rounds,
        )
    return Row(
        case="packed shards",
        name="against loose files, on this disk",
        clips_per_second=found.packed,
        values={"packed / loose, decoded": found.ratio, "packed / loose, bytes alone": found.files_ratio},
    )
