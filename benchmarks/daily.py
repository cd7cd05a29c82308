"""What people wait for each day: imports, composing Mini-AVS, segmenting a video. In ratios, which compare machines."""

import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from avslib.audio.encoders import build_audio_encoder
from avslib.config import load_config
from avslib.data.avsbench import AVSBench
from avslib.data.mini.build import build_mini
from avslib.data.mini.compose import compose_clip
from avslib.data.mini.composed import ComposedClips
from avslib.video.overlay_video import write_video
from avslib.video.prediction_files import write_prediction
from avslib.video.predictor import Predictor
from avslib.video.reader import read_video
from benchmarks.record import BenchSettings, Row, spread
from benchmarks.timing import interleave

# what starts -> (the code that it imports, the imports that it is held against, at most how many times their time)
IMPORTS = {
    "import torch": ("import torch", "", 0),
    "import torch, timm": ("import torch, timm", "", 0),
    "data worker": ("import avslib.data.loading, avslib.data.avsbench", "import torch", 1.1),
    "predictor": ("import avslib.video.predictor", "import torch, timm", 1.15),
    "training": ("import avslib.training.loop", "import torch, timm", 1.15),
    "avs train, and a sweep's worker": ("import avslib.study.run", "import torch, timm", 1.15),
}
CPU_SECONDS = "import resource; u = resource.getrusage(resource.RUSAGE_SELF); print(u.ru_utime + u.ru_stime)"
CHECKPOINT, SIDE, RATE = "mini-s4", (480, 640), 25  # of the video: height, width, frames per second
VIDEO: dict[int | str, int] = {1: 20, "native": 5}  # results per second -> seconds of video


def section_daily(settings: BenchSettings) -> list[Row]:
    """CPU seconds of imports and of a clip of Mini-AVS, also as multiples of `import torch`; and of a video.

    CPU seconds are those of all threads: other load on the machine stretches only the time on the clock. A video is
    passed over three times: decoding takes the first, decoding and the network the second, and all the third, to which
    the overlay and the masks add the rest.
    """
    imports = _imports(settings)
    return [*imports, *_composing(settings, imports[0].seconds.median), *_video(settings)]


def _imports(settings: BenchSettings) -> list[Row]:
    def cpu_seconds(code: str, number: int) -> float:
        script = [sys.executable, "-c", f"{code}\n{CPU_SECONDS}"]
        return float(subprocess.run(script, check=True, capture_output=True, text=True, env=cached).stdout.split()[-1])

    # every import but the first finds compiled files, as usual
    cached = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    runs = {name: code for name, (code, *_) in IMPORTS.items()}
    for code in runs.values():  # the first import of a machine compiles and reads from disk
        cpu_seconds(code, 1)
    seconds = interleave(runs, settings.rounds, warmup=False, measure=cpu_seconds)
    rows = []
    for name, (_, base, limit) in IMPORTS.items():
        values = {}
        if base:
            times = spread([a / b for a, b in zip(seconds[name], seconds[base], strict=True)])
            values = {"times": times.median, "of": base, "target": limit}
        rows.append(Row(case="imports, CPU seconds", name=name, seconds=spread(seconds[name]), values=values))
    return rows


def _composing(settings: BenchSettings, unit: float) -> list[Row]:
    """A clip composed and written to disk; then one of preset mini's training, read from there or composed for it."""
    clips, times = 4 if settings.quick else 24, {name: list[float]() for name in ("build", "read", "compose")}
    encoder, side = build_audio_encoder("soundnet"), load_config("mini").model.image_size
    with tempfile.TemporaryDirectory() as folder:
        for number in range(settings.rounds + 1):  # in the first the assets are read
            root, counts = Path(folder) / str(number), {"s4": {"train": clips}}
            build = partial(build_mini, root, seed=number, counts=counts, workers=1, progress=False)
            times["build"].append(_cpu_seconds(build) / clips)
            read, composed = AVSBench(root, "s4", "train", side), ComposedClips(root, "s4", side, 5, encoder)
            for name, dataset in (("read", read), ("compose", composed)):
                items = (dataset.window(k, slice(None), 0) for k in range(clips))
                times[name].append(_cpu_seconds(partial(deque, items, maxlen=0)) / clips)
    names = {
        "build": "composed and written, 224 pixels",
        "read": f"read by a data worker, {side} pixels",
        "compose": f"composed by a data worker with its sound's embedding, {side} pixels",
    }
    found = {key: spread(seconds[1:]) for key, seconds in times.items()}
    return [
        Row(
            case="Mini-AVS, CPU seconds per clip",
            name=names[key],
            seconds=found[key],
            values={"times": found[key].median / unit, "of": "import torch"},
        )
        for key in times
    ]


def _cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _video(settings: BenchSettings) -> list[Row]:
    predictor = Predictor.from_checkpoint(CHECKPOINT, settings.device)
    rows = []
    for fps, seconds in VIDEO.items():
        seconds = 2 if settings.quick else seconds
        with tempfile.TemporaryDirectory() as folder:
            path = _write(Path(folder) / "video.mp4", seconds)
            passes = _passes(predictor, path, fps, Path(folder))
            times = interleave(passes, settings.rounds, warmup=False, measure=lambda run, _: _cpu_seconds(run))
        decode, both, whole = (spread(times[name]).median for name in passes)
        shares = {"decode": decode / whole, "network": (both - decode) / whole, "overlay, masks": 1 - both / whole}
        each = spread([x / seconds for x in times["all"]])
        case = f"avs predict, {fps} frame{'s' * (fps != 1)} per second of {seconds} s, {SIDE[1]}x{SIDE[0]}"
        rows.append(Row(case=case, name="CPU seconds per second of video", seconds=each, values=shares))
    return rows


def _passes(predictor: Predictor, path: Path, fps: int | str, folder: Path) -> dict[str, Callable[[], object]]:
    """Reading as a prediction reads, predicting, and all that the command does."""

    def exhaust(*sources) -> None:
        for source in sources:
            deque(source(), maxlen=0)

    def whole() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            write_prediction(predictor.predict(path, fps=fps), Path(out) / "prediction")

    read = partial(read_video, path, fps, sound=False), partial(read_video, path, fps)
    return {
        "decode": partial(exhaust, *read),
        "predict": partial(exhaust, partial(predictor.predict, path, fps=fps)),
        "all": whole,
    }


def _write(path: Path, seconds: int) -> Path:
    """A video of Mini-AVS clips that pan, with their sound."""
    clips = [compose_clip("s4", "test", k) for k in range(-(-seconds // 5))]
    pictures = [np.asarray(Image.fromarray(f).resize(SIDE[::-1])) for clip in clips for f in clip.frames][:seconds]
    frames = (np.roll(picture, k, axis=1) for picture in pictures for k in range(RATE))
    return write_video(path, frames, np.concatenate([clip.waveform for clip in clips]), RATE)
