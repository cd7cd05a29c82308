"""One video cut into clips in AVSBench's layout: what a process of `avslib.video.prepare` does."""

import math
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.io import wavfile

from avslib.audio import SAMPLE_RATE, load_clip, log_mel
from avslib.core.errors import AvsError, DiskFullError, VideoError
from avslib.core.files import atomic_path
from avslib.core.tensors import save_tensors
from avslib.data.avsbench import AUDIO_TOLERANCE
from avslib.data.layout import LAYOUTS, clip_folders, is_plain_name, make_clip
from avslib.data.pickles import LOG_MEL, load_log_mel
from avslib.data.pictures import read_frame
from avslib.video.reader import PHASE, probe, read_video

SECONDS = 5


@dataclass(frozen=True)
class ClipJob:
    """A video and the clips to cut from it: (start second, csv row) pairs; None: end to end, named by `whole`
    (stem, category, split)."""

    video: Path
    cuts: list[tuple[float, dict[str, str]]] | None = None
    whole: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a clip: made, there (whole already) or failed; why; and its csv row unless it failed."""

    clip: str
    status: str
    reason: str = ""
    row: dict[str, str] | None = None


def make_clips(job: ClipJob, folder: Path, task: str, size: int, masks: Path | None) -> list[Outcome]:
    """Write the clips of one video below `folder`; failures are reported in the outcomes. Raises only DiskFullError."""
    key, cuts, outcomes = LAYOUTS[task].key, job.cuts or [], []
    reason = f"{job.video}: ends before the clip does; a clip needs {SECONDS} s"
    try:
        seconds = probe(job.video).seconds
        if job.cuts is None:
            cuts = _end_to_end(job, seconds, key)
        for outcome in _outcomes(job.video, seconds, cuts, folder, task, size):
            if masks and outcome.row:
                outcome = replace(outcome, reason=_copy_masks(folder, task, outcome.row, masks))
            outcomes.append(outcome)
    except DiskFullError:
        raise
    except AvsError as error:
        reason = str(error)
    except Exception as error:  # a decoder may raise anything, and one video must not stop the others
        reason = f"{job.video}: {type(error).__name__}: {error}"
    known = {outcome.clip for outcome in outcomes}
    outcomes += [Outcome(row[key], "failed", reason) for _, row in cuts if row[key] not in known]
    return outcomes or [Outcome(job.video.name, "failed", reason)]


def _outcomes(
    video: Path, seconds: float | None, cuts: list[tuple[float, dict[str, str]]], folder: Path, task: str, size: int
) -> Iterator[Outcome]:
    key, by_phase = LAYOUTS[task].key, {}
    for start, row in cuts:
        if _is_whole(folder, task, row):
            yield Outcome(row[key], "there", "", row)
        elif seconds is not None and seconds < start + SECONDS - AUDIO_TOLERANCE:
            yield Outcome(row[key], "failed", _too_short(video, seconds, start))
        else:
            by_phase.setdefault(start % 1, {})[row[key]] = (start, row)
    for fraction, wanted in by_phase.items():
        starts = {name: math.floor(start) for name, (start, _) in wanted.items()}
        for name, pictures, sound in _cut(video, fraction, starts):
            row = wanted[name][1]
            _write_clip(folder, task, row, pictures, sound, size)
            yield Outcome(name, "made", "", row)


def _end_to_end(job: ClipJob, seconds: float | None, key: str) -> list[tuple[float, dict[str, str]]]:
    if seconds is None:  # a header without a length, as browsers record
        seconds = float(sum(1 for _ in read_video(job.video, sound=False)))
    count = int((seconds + AUDIO_TOLERANCE) // SECONDS)
    if not count:
        raise VideoError(_too_short(job.video, seconds, 0))
    stem, category, split = (job.whole[k] for k in ("stem", "category", "split"))
    if not all(is_plain_name(text) for text in (stem, category, split)):
        raise VideoError(f"{job.video}: its clips would be called {stem!r}, of {category!r} in {split!r}; rename it")
    starts = range(0, count * SECONDS, SECONDS)
    return [(s, {key: f"{stem}_{s}", "start": str(s), "category": category, "split": split}) for s in starts]


def _too_short(video: Path, seconds: float, start: float) -> str:
    return f"{video}: lasts {seconds:.2f} s; the clip from second {start:g} on needs {start + SECONDS:g} s"


def _cut(
    video: Path, fraction: float, starts: Mapping[str, int]
) -> Iterator[tuple[str, list[UInt8[np.ndarray, "H W 3"]], Float[np.ndarray, "S"]]]:
    """Pictures and sound of clips that begin `fraction` of a second after their whole second, in one pass."""
    late, phase = divmod(fraction + PHASE, 1)
    late, first = int(late), round(fraction * SAMPLE_RATE)
    seconds = ((moment.image, moment.sound) for moment in read_video(video, phase=phase))
    if fraction and not late:  # the last 1/16 s or less may lie behind the end of the video
        seconds = chain(seconds, [(None, np.zeros(SAMPLE_RATE, np.float32))])
    window: deque = deque(maxlen=SECONDS + (fraction > 0))
    for start, second in enumerate(seconds, 1 - window.maxlen):
        window.append(second)
        for name in (name for name, at in starts.items() if at == start):
            pictures, sounds = zip(*window, strict=True)
            sound = np.concatenate(sounds)[first : first + SECONDS * SAMPLE_RATE]
            yield name, list(pictures[late : late + SECONDS]), sound
        if start >= max(starts.values()):
            return


def _is_whole(folder: Path, task: str, row: dict[str, str]) -> bool:
    """Whether all files of a clip are there and can be read, which takes far less time than to decode its video."""
    try:
        clip = make_clip(folder, task, row, SECONDS, masks=False)
        if clip.wav_path is None or clip.log_mel_path is None:
            return False
        load_clip(clip.wav_path, SECONDS, AUDIO_TOLERANCE)
        load_log_mel(clip.log_mel_path, SECONDS)
    except AvsError:
        return False
    return all(map(_is_picture, clip.frame_paths))


def _is_picture(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            picture.verify()  # the checksums, which decoding does not look at
        read_frame(path)
    except Exception:  # PIL raises many kinds for a damaged file
        return False
    return True


def _write_clip(folder: Path, task: str, row: dict, pictures: list, sound: Float[np.ndarray, "S"], size: int) -> None:
    """The sound first: a clip whose frames are there is whole."""
    name, data = row[LAYOUTS[task].key], folder / LAYOUTS[task].data
    inner, seen, (stem, *_) = clip_folders(task, row)
    samples = np.clip(np.round(sound * 32768), -32768, 32767).astype("<i2")
    with atomic_path(data / "audio_wav" / inner / f"{name}.wav") as part:
        wavfile.write(part, SAMPLE_RATE, samples)
    # of the samples as the wav holds them, so that either file gives the same embedding
    patches = log_mel(torch.from_numpy(samples.astype(np.float32) / 32768), SAMPLE_RATE, SECONDS)
    save_tensors(data / "audio_log_mel" / inner / f"{name}.safetensors", {LOG_MEL: patches})
    frames = data / "visual_frames" / seen
    if frames.is_dir():  # a folder cannot be replaced in one step: write what it lacks, or holds damaged
        for number, picture in enumerate(pictures, 1):
            if not _is_picture(path := frames / f"{stem}_{number}.png"):
                with atomic_path(path) as part:
                    _write_png(part, picture, size)
        return
    with atomic_path(frames) as part:
        part.mkdir()
        for number, picture in enumerate(pictures, 1):
            _write_png(part / f"{stem}_{number}.png", picture, size)


def _write_png(path: Path, picture: UInt8[np.ndarray, "H W 3"], size: int) -> None:
    image = Image.fromarray(picture)
    if size and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    image.save(path, format="PNG")


def _copy_masks(folder: Path, task: str, row: dict[str, str], masks: Path) -> str:
    """Copy the clip's masks from the folder `masks`, or return why there are none."""
    inside = clip_folders(task, row)[0] / row[LAYOUTS[task].key]
    source, target = Path(masks) / inside, folder / LAYOUTS[task].data / "gt_masks" / inside
    if not source.is_dir():
        return f"{source}: no such folder, so no masks were copied"
    if not target.exists():
        with atomic_path(target) as part:
            shutil.copytree(source, part)
    return ""
