"""Raw videos cut into clips in AVSBench's layout: frames, wav and log-mel; masks are not made, only copied."""

import os
import re
import shutil
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rich.progress import track
from scipy.io import wavfile

from avslib.audio import SAMPLE_RATE, log_mel
from avslib.core.errors import AvsError, DataError, DiskFullError
from avslib.core.files import LOCK, atomic_path, files_below, locked
from avslib.core.tensors import load_tensors, save_tensors
from avslib.data.avsbench import AUDIO_TOLERANCE
from avslib.data.layout import LAYOUTS, clip_folders, is_plain_name, read_csv
from avslib.data.pickles import LOG_MEL
from avslib.data.pictures import read_frame
from avslib.video.reader import Moment, probe, read_video

SECONDS = 5  # of a clip
LOG, TWICE = "prepare_log.csv", " have the same name; rename all but one"
ENDINGS = (".3g2", ".3gp", ".asf", ".avi", ".dv", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg")
ENDINGS += (".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv")

Row = dict[str, str]  # of a csv
Shape = tuple[int, int]  # height and width of the frames, in pixels
Files = dict[str, Path | str]  # videos by name without ending, or why a name cannot be used


class Outcome(NamedTuple):
    row: Row
    status: str  # made, there (whole already) or failed
    reason: str = ""


class Prepared(NamedTuple):
    """What `prepare` did, with clips by name."""

    folder: Path  # with the task's csv
    log: Path  # csv of every clip: clip, split, status (made, there, failed), reason
    made: list[str]
    there: list[str]
    failed: dict[str, str]  # why, by clip (by video where its clips are unknown)
    unmasked: list[str]  # made or there, but without the masks that `masks` should have

    @property
    def exit_code(self) -> int:
        """0 every clip is there, 1 some failed or lack their masks, 2 none could be made."""
        return 0 if not self.failed and not self.unmasked else 1 if self.made or self.there else 2


def prepare(
    videos: str | Path,
    out: str | Path,
    task: str = "s4",
    table: str | Path | None = None,
    *,
    split: str = "test",
    masks: str | Path | None = None,
    size: int = 224,
    workers: int | None = None,
    progress: bool = True,
) -> Prepared:
    """Cut videos into clips of 5 s, as AVSBench does: the picture at 15/16 of each second, 16 kHz mono, log-mel.

    With a `table`, in the form of the task's csv, each row is a clip, cut from second ``start`` on of the file in
    column ``video``, or else of ``<name>.*`` (from its beginning where there is no ``start`` or the file is as short as
    a clip), or else of ``<name up to the last _>.*`` (``start`` is the number after that ``_`` if there is none).
    Without a table every video is cut end to end into clips ``<file>_<second>`` of `split`, whose category is the
    folder that the video lies in ("unknown" directly below `videos`); what is left at the end is not used.

    A clip's folder of frames appears when the clip is whole and is kept, so that a stopped run resumes; the clip fails
    if it was cut from a different file, second or size. A video that fails does not stop the others; a full disk does.

    Args:
        videos: folder of video files, searched in depth, also through links, without hidden files (``.name``); one
            video; or the table, beside them.
        out: gets ``Single-source/`` or ``Multi-sources/``, and there ``prepare_log.csv``.
        masks: a folder as ``gt_masks`` is laid out; what it holds of a clip is copied.
        size: side in pixels to which frames are resized, as AVSBench's are; 0 keeps the video's own size.
        workers: threads, each with a video of its own; None: one for each CPU.

    Raises AvsError where there is nothing to do, the table is faulty or `out` cannot be written.
    """
    videos, layout = Path(videos), LAYOUTS[task]
    if table is None and videos.suffix.lower() == ".csv":
        videos, table = videos.parent, videos
    files, folder, rows = _videos(videos), Path(out) / layout.folder, []
    if table is not None and not (rows := read_csv(table, task, optional=("start", "video"))):
        raise DataError(f"{table}: lists no clip; expected rows of {','.join(layout.columns)}")
    # two at once would list only their own clips in the csv
    with locked(folder / LOCK, "avs data prepare"), ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        # the clips that earlier runs made
        known = read_csv(folder / layout.csv, task, optional=("start",)) if (folder / layout.csv).is_file() else []
        plan = list(_rows(files, rows, task, known) if rows else _whole(videos, files, layout.key, split))
        outcomes = [Outcome(row, "failed", why) for row, why in plan if isinstance(why, str)]
        jobs: dict[Path, list[Row]] = {}
        for row, video in plan:
            if isinstance(video, Path):
                jobs.setdefault(video, []).append(row)
        done = pool.map(lambda job: _make_clips(*job, folder, task, size, masks and Path(masks)), jobs.items())
        try:
            for more in track(done, "preparing", len(jobs), disable=not progress):
                outcomes += more
        finally:  # a stopped run lists the clips that it made
            log = [(row[layout.key], row["split"], *rest) for row, *rest in outcomes]
            log = pd.DataFrame(log, columns=["clip", "split", "status", "reason"])
            columns = ["name", "start", "category", "split"] if task == "s4" else ["video_id", "split"]
            clips = pd.DataFrame([*known, *(o.row for o in outcomes if o.status != "failed")], columns=columns)
            clips = clips.fillna("0").drop_duplicates(["split", layout.key], keep="last")
            for name, content in ((LOG, log), (layout.csv, clips.sort_values(["split", layout.key]))):
                with atomic_path(folder / name) as part:
                    content.to_csv(part, index=False, lineterminator="\n")
    made, there, failed = (log[log["status"] == status] for status in ("made", "there", "failed"))
    unmasked = log["clip"][(log["status"] != "failed") & (log["reason"] != "")].tolist()
    names = failed["clip"].where(~failed["clip"].duplicated(), failed["clip"] + " (" + failed["split"] + ")")
    reasons = dict(zip(names, failed["reason"], strict=True))
    return Prepared(folder, folder / LOG, made["clip"].tolist(), there["clip"].tolist(), reasons, unmasked)


def _videos(root: Path) -> Files:
    if not root.exists():
        raise DataError(f"{root}: no such file or folder; give the folder with the videos")
    files: Files = {}
    for path in files_below(root) if root.is_dir() else [root]:
        if path.suffix.lower() in ENDINGS and not path.name.startswith("."):
            twin = str(files.get(path.stem, "")).removesuffix(TWICE)
            files[path.stem] = f"{twin} and {path}{TWICE}" if twin else path
    if not files:
        raise DataError(f"{root}: has no video; expected files that end in {', '.join(ENDINGS)}")
    return files


def _whole(root: Path, files: Files, key: str, split: str) -> Iterator[tuple[Row, Path | str]]:
    """A row without a start for each video, and the video, or why it cannot be used."""
    for stem, found in files.items():
        nested = isinstance(found, Path) and root.is_dir() and found.parent != root
        row = {key: stem, "category": found.parent.name if nested else "unknown", "split": split}
        why = f"{found}: the names of video, folder and split must be valid file names on any system; rename it"
        yield row, found if all(map(is_plain_name, row.values())) else why


def _rows(files: Files, rows: list[Row], task: str, known: list[Row]) -> Iterator[tuple[Row, Path | str]]:
    """Each row of a table with its start, and its video, or why it cannot be cut."""
    # S4 has a name once in a split, MS3 once in all: it has one folder of frames for all splits
    key, home, place = LAYOUTS[task].key, *(("category", "split") if task == "s4" else ("split", "video_id"))
    homes = {(row[key], row[place]): row[home] for row in known}
    for row in rows:
        source, _, second = row[key].rpartition("_")
        names = [Path(row["video"]).stem] if "video" in row else [row[key], source]
        name = next((name for name in names if name in files), None)
        row = row | {"start": row.get("start", "0" if name == row[key] else second)}
        other = homes.setdefault((row[key], row[place]), row[home])
        if name is None:
            wanted = " or ".join(repr(name) for name in names if name)
            yield row, f"no video named {wanted}; expected one that ends in {', '.join(ENDINGS)}"
        elif not re.fullmatch(r"\d+(\.\d*)?", row["start"]):
            yield row, f"start is {row['start']!r}; expected seconds, at least 0"
        elif other != row[home]:
            yield row, f"{row[key]} is in {home} {other} too; remove that clip, or give one of them a different name"
        else:
            yield row, files[name]


def _make_clips(video: Path, rows: list[Row], folder: Path, task: str, size: int, masks: Path | None) -> list[Outcome]:
    """The outcomes of the clips `rows` of one video; a row without ``start`` stands for all clips end to end."""
    outcomes: list[Outcome] = []
    reason = f"{video}: ends before the clip does; a clip needs {SECONDS} s"
    try:
        # a header without a length, as browsers record
        info = probe(video)
        seconds = info.seconds or float(sum(1 for _ in read_video(video, sound=False)))
        shape = (size, size) if size else (info.height, info.width)
        rows = [started for row in rows for started in _started(video, seconds, row, LAYOUTS[task].key)]
        for outcome in _outcomes(video, seconds, rows, folder, task, shape):
            if masks and outcome.status != "failed":
                outcome = outcome._replace(reason=_copy_masks(folder, task, outcome.row, masks))
            outcomes.append(outcome)
    except DiskFullError:
        raise
    except Exception as error:  # a decoder may raise anything, and one video must not stop the others
        reason = str(error) if isinstance(error, AvsError) else f"{video}: {type(error).__name__}: {error}"
    known = [outcome.row for outcome in outcomes]
    return outcomes + [Outcome(row, "failed", reason) for row in rows if row not in known]


def _started(video: Path, seconds: float, row: Row, key: str) -> list[Row]:
    if "start" not in row:
        count = max(1, int((seconds + AUDIO_TOLERANCE) // SECONDS))
        return [row | {key: f"{video.stem}_{s}", "start": str(s)} for s in range(0, count * SECONDS, SECONDS)]
    # a video with the clip's name is the clip where it has its length, else it holds the clip
    return [row | {"start": "0"} if row[key] == video.stem and seconds < SECONDS + 1 else row]


def _outcomes(video: Path, seconds: float, rows: list[Row], folder: Path, task: str, shape: Shape) -> Iterator[Outcome]:
    by_fraction: dict[float, list[tuple[int, Row]]] = {}
    for row in rows:
        end = float(row["start"]) + SECONDS
        if (files := _files(folder, task, row))[0].is_dir():
            yield _as_there(video, row, *files, shape)
        elif seconds < end - AUDIO_TOLERANCE:
            why = f"lasts {seconds:.2f} s; the clip from second {row['start']} on needs {end:g} s"
            yield Outcome(row, "failed", f"{video}: {why}")
        else:
            by_fraction.setdefault(end % 1, []).append((int(end), row))
    for fraction, wanted in by_fraction.items():  # the video is read once for each
        window: deque[Moment] = deque(maxlen=SECONDS)
        for second, moment in enumerate(read_video(video, start=fraction), 1):
            window.append(moment)
            for row in (row for end, row in wanted if end == second):
                _write_clip(folder, task, row, window, shape, video.name)
                yield Outcome(row, "made")
            if second >= max(end for end, _ in wanted):
                break


def _files(folder: Path, task: str, row: Row) -> tuple[Path, Path, Path]:
    """A clip's folder of frames, which is written last, so that the clip is whole where it exists; wav and log-mel."""
    data, name, (inner, seen, _) = folder / LAYOUTS[task].data, row[LAYOUTS[task].key], clip_folders(task, row)
    mel = data / "audio_log_mel" / inner / f"{name}.safetensors"
    return data / "visual_frames" / seen, data / "audio_wav" / inner / f"{name}.wav", mel


def _as_there(video: Path, row: Row, frames: Path, wav: Path, mel: Path, shape: Shape) -> Outcome:
    """Whether the clip in `frames` is the one that is asked for: its log-mel file says where it was cut."""
    cut = load_tensors(mel)[1] if mel.is_file() else {}
    found = next((read_frame(path)[1] for path in frames.glob("*_1.*")), shape)
    if "start" in cut and (cut["video"], float(cut["start"])) != (video.name, float(row["start"])):
        what = f"the clip from second {cut['start']} of {cut['video']}, not from second {row['start']} of {video.name}"
    elif found != shape:
        what = f"frames of {found[1]}x{found[0]} pixels, not {shape[1]}x{shape[0]}"
    elif not mel.is_file() and not wav.is_file():
        what = f"a clip of a different split, not of {row['split']}"
    else:
        return Outcome(row, "there")
    return Outcome(row, "failed", f"{frames}: holds {what}; remove that folder to cut the clip again")


def _write_clip(folder: Path, task: str, row: Row, moments: Sequence[Moment], shape: Shape, video: str) -> None:
    (frames, wav, mel), stem = _files(folder, task, row), clip_folders(task, row)[2][0]
    sound = np.concatenate([moment.sound for moment in moments])
    samples = np.clip(np.round(sound * 32768), -32768, 32767).astype("<i2")
    with atomic_path(wav) as part:
        wavfile.write(part, SAMPLE_RATE, samples)
    # of the samples as the wav holds them, so that either file gives the same embedding
    patches = log_mel(torch.from_numpy(samples.astype(np.float32) / 32768), SAMPLE_RATE, SECONDS)
    save_tensors(mel, {LOG_MEL: patches}, {"video": video, "start": row["start"]})
    with atomic_path(frames) as part:
        part.mkdir()
        for number, moment in enumerate(moments, 1):
            picture = Image.fromarray(moment.image).resize(shape[::-1], Image.Resampling.BILINEAR)
            picture.save(part / f"{stem}_{number}.png", compress_type=zlib.Z_RLE)  # 3 % larger, 4 times faster


def _copy_masks(folder: Path, task: str, row: Row, masks: Path) -> str:
    """Copy the clip's masks from the folder `masks`, or return why there are none."""
    inside = clip_folders(task, row)[0] / row[LAYOUTS[task].key]
    if not (masks / inside).is_dir():
        return f"{masks / inside}: no such folder, so no masks were copied"
    shutil.copytree(masks / inside, folder / LAYOUTS[task].data / "gt_masks" / inside, dirs_exist_ok=True)
    return ""
