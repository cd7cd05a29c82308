"""From raw videos to a folder in AVSBench's layout: frames, wav and log-mel; masks are not made, only copied."""

import csv
import math
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import track

from avslib.core.errors import AvsError, DataError, UsageError, WorkerError
from avslib.core.files import atomic_path, told_when_full
from avslib.core.locks import LOCK, locked
from avslib.data.clip_writer import ClipJob, Outcome, make_clips
from avslib.data.layout import LAYOUTS, find_folder, read_csv

LOG = "prepare_log.csv"
VIDEO_ENDINGS = (
    ".3gp",
    ".avi",
    ".flv",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".ogv",
    ".ts",
    ".webm",
    ".wmv",
)


@dataclass
class Prepared:
    """What `prepare` did.

    Attributes:
        folder: with the task's csv.
        log: csv of every clip: clip, status (made, there, failed), reason.
        made, there: names of clips that were made, and that lay there whole already.
        failed: why the others were not made, by clip (by video where no clip could be told).
    """

    folder: Path
    log: Path
    made: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 every clip is there, 1 some failed, 2 none could be made."""
        return 0 if not self.failed else 1 if self.made or self.there else 2


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

    With a `table`, in the form of the task's csv, each row is a clip. Its video is looked for below `videos`: a file
    ``<name>.*`` is the clip itself, from its beginning; else the file named in a column ``video``, or
    ``<name up to the last _>.*``, is cut from second `start` on (column ``start``; without one, the number after the
    last ``_``). Without a table every video is cut end to end into clips ``<file>_<second>`` of `split`, whose category
    is the folder that the video lies in ("unknown" directly below `videos`); what is left at the end is not used.

    A clip whose files are there and can be read is left alone, so that a stopped run goes on; a clip's folder of frames
    appears only when the clip is whole. Processes that fill one folder take turns. A video that fails stops no other
    one; a full disk stops all. The csv lists the clips that are there.

    Args:
        videos: folder of video files, searched in depth; one video file; or the table itself, beside its videos.
        out: gets ``Single-source/`` or ``Multi-sources/``, and there ``prepare_log.csv``.
        masks: a folder as ``gt_masks`` is laid out; what it holds of a clip is copied.
        size: side in pixels to which frames are resized, as AVSBench's are; 0 keeps the video's own size.
        workers: processes.

    Raises:
        AvsError: nothing to do (no such folder, no video, an empty or faulty table); `out` cannot be written.
    """
    if task not in LAYOUTS:
        raise UsageError(f"task {task!r} is unknown; expected one of {', '.join(LAYOUTS)}")
    if size < 0 or (masks is not None and not Path(masks).is_dir()):
        raise UsageError(f"size is {size} and masks {masks}; expected at least 0, and a folder laid out as gt_masks")
    videos, layout = Path(videos), LAYOUTS[task]
    if table is None and videos.suffix.lower() == ".csv":
        videos, table = videos.parent, videos
    files, folder = _videos(videos), Path(out) / layout.folder
    planned = _whole_videos(videos, files, split) if table is None else _rows(files, table, task)
    # two at once would list only their own clips in the csv
    with locked(folder / LOCK, "avs data prepare"):
        return _prepare(planned, folder, task, (size, masks), workers or _cpus(), progress)


def _prepare(
    planned: Iterable[ClipJob | Outcome],
    folder: Path,
    task: str,
    options: tuple[int, str | Path | None],
    workers: int,
    progress: bool,
) -> Prepared:
    layout, known = LAYOUTS[task], _listed(folder, task)
    folder.mkdir(parents=True, exist_ok=True)
    result = Prepared(folder, folder / LOG)
    rows = {(row["split"], row[layout.key]): row for row in known}
    jobs = []
    # written as it goes, since it is what one looks at meanwhile
    with told_when_full(result.log), open(result.log, "w", encoding="utf-8", newline="") as stream:
        log = csv.writer(stream, lineterminator="\n")
        log.writerow(("clip", "status", "reason"))

        def note(outcome: Outcome) -> None:
            log.writerow((outcome.clip, outcome.status, outcome.reason))
            stream.flush()
            if outcome.status == "failed":
                result.failed[outcome.clip] = outcome.reason
                return
            getattr(result, outcome.status).append(outcome.clip)
            rows[outcome.row["split"], outcome.row[layout.key]] = outcome.row

        for item in planned:
            note(item) if isinstance(item, Outcome) else jobs.append(item)
        try:
            found = _run(jobs, (folder, task, *options), workers)
            for outcomes in track(found, "preparing", len(jobs), disable=not progress):
                for outcome in outcomes:
                    note(outcome)
        finally:  # what is there when the run is stopped can be read
            _write_csv(folder / layout.csv, task, rows.values())
    return result


def _videos(videos: Path) -> dict[str, list[Path]]:
    """Video files by name without ending."""
    if not videos.exists():
        raise DataError(f"{videos}: no such file or folder; give the folder with the videos")
    paths = [videos] if videos.is_file() else sorted(videos.rglob("*"))
    files: dict[str, list[Path]] = {}
    for path in paths:
        if path.suffix.lower() in VIDEO_ENDINGS and not path.name.startswith(".") and path.is_file():
            files.setdefault(path.stem, []).append(path)
    if not files:
        raise DataError(f"{videos}: holds no video; expected files that end in {', '.join(VIDEO_ENDINGS)}")
    return files


def _whole_videos(root: Path, files: Mapping[str, list[Path]], split: str) -> Iterator[ClipJob | Outcome]:
    for stem, paths in files.items():
        for path in paths[1:]:
            yield Outcome(path.name, "failed", f"{path}: {paths[0]} has the same name; rename one of them")
        category = paths[0].parent.name if root.is_dir() and paths[0].parent != root else "unknown"
        yield ClipJob(paths[0], None, {"stem": stem, "category": category, "split": split})


def _rows(files: Mapping[str, list[Path]], table: str | Path, task: str) -> list[ClipJob | Outcome]:
    """One job a video, so that each is decoded once, however many clips are cut from it."""
    key, found, by_video = LAYOUTS[task].key, [], {}
    rows = read_csv(table, task, optional=("start", "video"))
    if not rows:
        raise DataError(f"{table}: lists no clip; expected rows of {','.join(LAYOUTS[task].columns)}")
    for row in rows:
        name = row[key]
        source, _, second = name.rpartition("_")
        whole = [] if "video" in row else files.get(name, [])
        paths = whole or files.get(source if "video" not in row else Path(row["video"]).stem, [])
        start = _second("0" if whole else row.get("start", second))
        if not paths:
            wanted = repr(row["video"]) if "video" in row else f"named {name!r} or {source or name!r}"
            found.append(Outcome(name, "failed", f"no video {wanted}; its ending may be any of {VIDEO_ENDINGS}"))
        elif len(paths) > 1:
            found.append(Outcome(name, "failed", f"{paths[0]} and {paths[1]} have the same name; rename one of them"))
        elif start is None:
            found.append(Outcome(name, "failed", f"start is {row.get('start', second)!r}; expected seconds, from 0 on"))
        else:
            by_video.setdefault(paths[0], []).append((start, row))
    return found + [ClipJob(path, cuts, {}) for path, cuts in by_video.items()]


def _second(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _listed(folder: Path, task: str) -> list[dict[str, str]]:
    """Rows of the csv that an earlier run wrote."""
    try:
        return read_csv(find_folder(folder, task) / LAYOUTS[task].csv, task, optional=("start",))
    except AvsError:
        if (folder / LAYOUTS[task].csv).is_file():
            raise
        return []


def _write_csv(path: Path, task: str, rows: Iterator[Mapping[str, str]]) -> None:
    columns = ("name", "start", "category", "split") if task == "s4" else ("video_id", "split")
    with atomic_path(path) as part, open(part, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="0", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["split"], row[LAYOUTS[task].key])))


def _run(jobs: list[ClipJob], options: tuple, workers: int) -> Iterator[list[Outcome]]:
    if min(workers, len(jobs)) <= 1:
        for job in jobs:
            yield make_clips(job, *options)
        return
    # Spawned, since a process with threads (torch's) must not be forked, and since Windows knows nothing else.
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=multiprocessing.get_context("spawn"))
    try:
        for done in as_completed([pool.submit(make_clips, job, *options) for job in jobs]):
            yield done.result()
    except BrokenProcessPool:
        raise WorkerError(
            "a worker process was killed (its memory, or a decoder that crashed); finished clips are kept: start again "
            "with one worker to see at which video"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
