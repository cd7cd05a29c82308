"""Raw videos cut into clips in AVSBench's layout: frames, wav and log-mel; masks are not made, only copied."""

import csv
import math
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from rich.progress import track

from avslib.core.errors import DataError, UsageError, WorkerError
from avslib.core.files import atomic_path, report_full_disk
from avslib.core.locks import LOCK, locked
from avslib.data.layout import LAYOUTS, read_csv
from avslib.video.clip_writer import ClipJob, Outcome, make_clips

LOG = "prepare_log.csv"
ENDINGS = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")


@dataclass
class Prepared:
    """What `prepare` did.

    Attributes:
        folder: with the task's csv.
        log: csv of every clip: clip, status (made, there, failed), reason.
        made, there: names of clips that were made, and of those that were there and whole already.
        failed: why the others were not made, by clip (by video where its clips are unknown).
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

    def add(self, outcome: Outcome) -> None:
        if outcome.status == "failed":
            self.failed[outcome.clip] = outcome.reason
        else:
            (self.made if outcome.status == "made" else self.there).append(outcome.clip)


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

    A clip whose files are there and can be read is kept, so that a stopped run resumes; a clip's folder of frames
    appears only when the clip is whole. Processes that fill one folder take turns. A video that fails does not
    stop the others; a full disk stops all. The csv lists the clips that are there.

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
    planned = list(_whole_videos(videos, files, split) if table is None else _rows(files, table, task))
    # two at once would list only their own clips in the csv
    with locked(folder / LOCK, "avs data prepare"):
        return _prepare(planned, folder, task, (size, masks), workers or _cpus(), progress)


def _prepare(
    planned: list[ClipJob | Outcome], folder: Path, task: str, options: tuple, workers: int, progress: bool
) -> Prepared:
    layout, result = LAYOUTS[task], Prepared(folder, folder / LOG)
    # the clips that earlier runs made
    known = read_csv(folder / layout.csv, task, optional=("start",)) if (folder / layout.csv).is_file() else []
    rows = {(row["split"], row[layout.key]): row for row in known}
    refused = [item for item in planned if isinstance(item, Outcome)]
    jobs = [item for item in planned if isinstance(item, ClipJob)]
    found = track(_run(jobs, (folder, task, *options), workers), "preparing", len(jobs), disable=not progress)
    folder.mkdir(parents=True, exist_ok=True)
    # the log can be read while the clips are made
    with report_full_disk(result.log), open(result.log, "w", encoding="utf-8", newline="") as stream:
        log = csv.writer(stream, lineterminator="\n")
        log.writerow(("clip", "status", "reason"))
        try:
            for outcome in chain(refused, chain.from_iterable(found)):
                log.writerow((outcome.clip, outcome.status, outcome.reason))
                stream.flush()
                result.add(outcome)
                if outcome.row:
                    rows[outcome.row["split"], outcome.row[layout.key]] = outcome.row
        finally:  # a stopped run lists the clips that it made
            _write_csv(folder / layout.csv, task, rows.values())
    return result


def _videos(videos: Path) -> dict[str, list[Path]]:
    """Video files by name without ending."""
    if not videos.exists():
        raise DataError(f"{videos}: no such file or folder; give the folder with the videos")
    paths = [videos] if videos.is_file() else sorted(videos.rglob("*"))
    files: dict[str, list[Path]] = {}
    for path in paths:
        if path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file():
            files.setdefault(path.stem, []).append(path)
    if not files:
        raise DataError(f"{videos}: has no video; expected files that end in {', '.join(ENDINGS)}")
    return files


def _whole_videos(root: Path, files: Mapping[str, list[Path]], split: str) -> Iterator[ClipJob | Outcome]:
    for stem, paths in files.items():
        for path in paths[1:]:
            yield Outcome(path.name, "failed", f"{path}: {paths[0]} has the same name; rename one of them")
        category = paths[0].parent.name if root.is_dir() and paths[0].parent != root else "unknown"
        yield ClipJob(paths[0], whole={"stem": stem, "category": category, "split": split})


def _rows(files: Mapping[str, list[Path]], table: str | Path, task: str) -> Iterator[ClipJob | Outcome]:
    """One job per video, so that each is decoded once, however many clips are cut from it."""
    by_video: dict[Path, list[tuple[float, dict[str, str]]]] = {}
    rows = read_csv(table, task, optional=("start", "video"))
    if not rows:
        raise DataError(f"{table}: lists no clip; expected rows of {','.join(LAYOUTS[task].columns)}")
    for row in rows:
        name = row[LAYOUTS[task].key]
        source, _, second = name.rpartition("_")
        source = Path(row["video"]).stem if "video" in row else source
        whole = [] if "video" in row else files.get(name, [])
        paths, start = whole or files.get(source, []), "0" if whole else row.get("start", second)
        if not paths:
            wanted = repr(row["video"]) if "video" in row else f"named {name!r} or {source or name!r}"
            reason = f"no video {wanted}; expected one that ends in {', '.join(ENDINGS)}"
        elif len(paths) > 1:
            reason = f"{paths[0]} and {paths[1]} have the same name; rename one of them"
        elif _second(start) is None:
            reason = f"start is {start!r}; expected seconds, at least 0"
        else:
            by_video.setdefault(paths[0], []).append((_second(start), row))
            continue
        yield Outcome(name, "failed", reason)
    yield from (ClipJob(path, cuts) for path, cuts in by_video.items())


def _second(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _write_csv(path: Path, task: str, rows: Iterable[Mapping[str, str]]) -> None:
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
    # spawned: a process with threads (torch's) must not be forked, and Windows cannot fork
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=multiprocessing.get_context("spawn"))
    try:
        for done in as_completed([pool.submit(make_clips, job, *options) for job in jobs]):
            yield done.result()
    except BrokenProcessPool:
        raise WorkerError(
            "a worker process was killed (out of memory, or a decoder crashed); finished clips are kept: start again "
            "with one worker to see at which video"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
