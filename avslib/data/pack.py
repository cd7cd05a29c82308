"""Clips packed into WebDataset shards: tar files that are read in one stream, with their checksums in index.json."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rich.progress import Progress
from safetensors.torch import save

from avslib.core.errors import OutputError, UsageError
from avslib.core.files import atomic_path
from avslib.core.locks import locked
from avslib.data.avsbench import AVSBench
from avslib.data.layout import LAYOUTS, Clip, find_folder, read_csv
from avslib.data.pickles import LOG_MEL, load_log_mel

FORMAT, INDEX = "avslib-packed-1", "index.json"


def pack(
    root: str | Path,
    out: str | Path,
    task: str = "s4",
    splits: Collection[str] | None = None,
    *,
    frames: int = 5,
    shard_mb: float = 128,
    skip: Collection[str] = (),
    masks: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the clips of `task` into the folder `out`: ``<split>-<number>.tar`` and ``index.json``.

    A sample holds the files of a clip: ``frame_1.png`` ... and ``mask_1.png`` ... (or .jpg) and ``wav`` byte for byte,
    ``log_mel.safetensors``, and ``json`` with name, category and annotated frames. Log-mel pickles are converted, since
    readers of WebDataset would unpickle them. Its key is its number in the order of the csv. Same clips, same bytes.

    Args:
        splits: of the csv; None for all.
        frames: T, of a clip.
        shard_mb: size at which the next shard begins, in units of 10**6 bytes.
        skip: names of clips to leave out.
        masks: False packs clips without them.

    Returns:
        what ``index.json`` holds: format, task, frames, and by split the shards (file, sha256, bytes, clips) and the
        names of the clips in their order.

    Raises:
        AvsError: as `AVSBench`; `out` is not empty; a log-mel that cannot be read.
    """
    out = Path(out)
    if shard_mb <= 0:
        raise UsageError(f"shard_mb is {shard_mb}; expected a size above 0, in MB")
    folder = find_folder(root, task)
    rows = read_csv(folder / LAYOUTS[task].csv, task)
    splits = list(splits or dict.fromkeys(row["split"] for row in rows))
    datasets = {split: AVSBench(root, task, split, frames=frames, skip=skip, masks=masks) for split in splits}
    # beside it: what is locked does not exist yet
    with locked(out.with_name(f".{out.name}.lock"), f"packing into {out.name}"):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise OutputError(f"{out}: exists and is not an empty folder; choose a new one")
        return _pack(out, task, datasets, frames, shard_mb * 1e6, progress)


def _pack(
    out: Path, task: str, datasets: Mapping[str, AVSBench], frames: int, limit: float, progress: bool
) -> dict[str, Any]:
    index = {"format": FORMAT, "task": task, "frames": frames, "splits": {}}
    if out.is_dir():  # a folder cannot be replaced in one step, not even an empty one on every system
        out.rmdir()
    with atomic_path(out) as part, Progress(disable=not progress) as bar:
        part.mkdir()
        line = bar.add_task(f"packing {task}", total=sum(map(len, datasets.values())))
        for split, dataset in datasets.items():
            shards = []
            names = [clip.name for clip in dataset.clips]
            remaining = list(enumerate(dataset.clips))
            while remaining:
                path = part / f"{split}-{len(shards):06d}.tar"
                count, digest, size = _write_shard(path, remaining, frames, limit)
                shards.append({"file": path.name, "sha256": digest, "bytes": size, "clips": count})
                remaining = remaining[count:]
                bar.advance(line, count)
            index["splits"][split] = {"shards": shards, "names": names}
        index["sha256"] = index_sha256(index)
        (part / INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return index


def index_sha256(index: Mapping[str, Any]) -> str:
    """Of what an index says of the clips; the checksums of the shards are in it."""
    values = {key: value for key, value in index.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class _Hashing:
    """A file to write to that hashes and counts what passes."""

    def __init__(self, stream: BinaryIO):
        self.stream, self.hash, self.bytes = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.bytes += len(data)
        return self.stream.write(data)


def _write_shard(path: Path, clips: list[tuple[int, Clip]], frames: int, limit: float) -> tuple[int, str, int]:
    """Write clips until `limit` bytes are reached: how many, and the shard's SHA-256 and size."""
    from webdataset import TarWriter

    with open(path, "wb") as stream:
        file, count = _Hashing(stream), 0
        # no time and no user, so that the same clips give the same bytes
        with TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False, compress=False) as tar:
            for number, clip in clips:
                tar.write({"__key__": f"{number:08d}", **_sample(clip, frames)})
                count += 1
                if file.bytes >= limit:
                    break
    return count, file.hash.hexdigest(), file.bytes


def _sample(clip: Clip, frames: int) -> dict[str, bytes]:
    files, annotated = {}, [path is not None for path in clip.mask_paths]
    for number, (frame, mask) in enumerate(zip(clip.frame_paths, clip.mask_paths, strict=True), 1):
        files[f"frame_{number}{frame.suffix}"] = frame.read_bytes()
        if mask is not None:
            files[f"mask_{number}{mask.suffix}"] = mask.read_bytes()
    if clip.wav_path:
        files["wav"] = clip.wav_path.read_bytes()
    if clip.log_mel_path:
        files["log_mel.safetensors"] = save({LOG_MEL: load_log_mel(clip.log_mel_path, frames).contiguous()})
    values = {"name": clip.name, "category": clip.category, "annotated": annotated}
    return files | {"json": json.dumps(values, ensure_ascii=False).encode()}
