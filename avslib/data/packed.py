"""Clips packed into WebDataset shards (tar files), with ``index.json``, which names the clips and holds checksums."""

import hashlib
import io
import json
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import fsspec
import webdataset as wds
from jaxtyping import Float
from pydantic import BaseModel, Field, ValidationError
from rich.progress import track
from safetensors.torch import save
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander
from webdataset.utils import pytorch_worker_info

from avslib.core.errors import PackedError
from avslib.core.files import new_folder, sha256_file
from avslib.core.parsing import LARGEST_JSON, first_fault, first_line
from avslib.core.seeds import buffer_rng, shard_rng
from avslib.data.avsbench import AVSBench, Sound, height_width, read_item, stack_audio
from avslib.data.layout import LAYOUTS, Clip, find_folder, read_csv
from avslib.data.pickles import LOG_MEL, load_log_mel

INDEX = "index.json"
PICTURES, SOUNDS = (".png", ".jpg", ".jpeg"), (".wav", ".safetensors")
LARGEST_SHARD, LARGEST_MEMBER = 2 * 10**9, 256 * 2**20  # bytes; one shard at a time is held in memory
BUFFER = 128  # undecoded clips from which the next one is drawn
AGAIN = "copy it again, or pack the clips again"


class Shard(BaseModel):
    """A tar file and its number of clips."""

    file: str = Field(pattern=r"^[^/\\:]+-\d{6}\.tar$")  # leads nowhere else
    sha256: str
    bytes: int = 0
    clips: int = Field(ge=0, strict=True)


class Split(BaseModel):
    """Shards of a split, and the names of its clips in the order of the csv."""

    shards: list[Shard]
    names: list[str]


class Index(BaseModel):
    """What ``index.json`` holds."""

    format: Literal["avslib-packed-1"] = "avslib-packed-1"
    task: Literal[tuple(LAYOUTS)]
    frames: int = Field(ge=1, strict=True)
    splits: dict[str, Split]
    sha256: str = ""

    def checksum(self) -> str:
        """Of all that the index says, the checksums of the shards included."""
        return hashlib.sha256(json.dumps(self.model_dump(exclude={"sha256"}), sort_keys=True).encode()).hexdigest()


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
) -> Index:
    """Write the clips of `task` into the folder `out`: ``<split>-<number>.tar`` and ``index.json``.

    A sample holds the files of a clip byte for byte, ``frame_1.png`` ..., ``mask_1.png`` ... (or .jpg) and ``wav``,
    and ``log_mel.safetensors`` and ``json``. The same clips give the same bytes. `splits` is None for all of the csv;
    the next shard begins at `shard_mb` * 10**6 bytes; `frames`, `skip` and `masks` are as for `AVSBench`.

    Raises AvsError as `AVSBench`, when `out` is not empty, and on a log-mel that cannot be read.
    """
    out = Path(out)
    splits = splits or [row["split"] for row in read_csv(find_folder(root, task) / LAYOUTS[task].csv, task)]
    datasets = {s: AVSBench(root, task, s, frames=frames, skip=skip, masks=masks) for s in dict.fromkeys(splits)}
    with new_folder(out, f"packing into {out.name}") as part:
        index = Index(task=task, frames=frames, splits={})
        for split, dataset in datasets.items():
            clips = track(dataset.clips, f"packing {task} {split}", disable=not progress)
            shards = _write_shards(part / split, clips, frames, shard_mb * 1e6)
            index.splits[split] = Split(shards=shards, names=dataset.names)
        index.sha256 = index.checksum()
        (part / INDEX).write_text(index.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return index


def _write_shards(stem: Path, clips: Iterable[Clip], frames: int, size: float) -> list[Shard]:
    shards = []

    def note(file: str) -> None:
        size, digest = Path(file).stat().st_size, sha256_file(file)
        shards.append(Shard(file=Path(file).name, sha256=digest, bytes=size, clips=writer.count))

    pattern = str(stem).replace("%", "%%") + "-%06d.tar"
    # neither time nor user, so that the same clips give the same bytes
    plain = {"user": "", "group": "", "mode": 0o644, "mtime": 0, "encoder": False, "compress": False}
    with wds.ShardWriter(pattern, maxsize=size, post=note, verbose=0, **plain) as writer:
        for number, clip in enumerate(clips):
            writer.write({"__key__": f"{number:08d}", **_clip_files(clip, frames)})
    return shards


def _clip_files(clip: Clip, frames: int) -> dict[str, bytes]:
    files = {}
    for what, paths in (("frame", clip.frame_paths), ("mask", clip.mask_paths)):
        files |= {f"{what}_{k}{path.suffix}": path.read_bytes() for k, path in enumerate(paths, 1) if path}
    if clip.wav_path:
        files["wav"] = clip.wav_path.read_bytes()
    if clip.log_mel_path:  # never as a pickle, which other readers of WebDataset would unpickle
        files["log_mel.safetensors"] = save({LOG_MEL: load_log_mel(clip.log_mel_path, frames).contiguous()})
    annotated = [path is not None for path in clip.mask_paths]
    values = {"name": clip.name, "category": clip.category, "annotated": annotated}
    return files | {"json": json.dumps(values, ensure_ascii=False).encode()}


def read_index(source: str | Path) -> Index:
    """``index.json`` of a packed folder or URL. Raises AvsError when it is missing or not one of `avs data pack`."""
    try:
        index = Index.model_validate_json(_fetch(source, INDEX, LARGEST_JSON))
        as_many = all(sum(shard.clips for shard in split.shards) == len(split.names) for split in index.splits.values())
        if not as_many or index.sha256 not in ("", index.checksum()):
            raise ValueError("its names, shards and checksum do not agree")
    except ValueError as error:  # pydantic's is one
        reason = first_fault(error) if isinstance(error, ValidationError) else first_line(error)
        raise PackedError(f"{source}/{INDEX}: damaged, or not written by avs data pack ({reason}); {AGAIN}") from None
    return index


def _fetch(source: str | Path, file: str, largest: int) -> bytes:
    where = f"{str(source).rstrip('/')}/{file}"
    try:
        system, path = fsspec.core.url_to_fs(where)
        with system.open(path, "rb") as stream:
            data = stream.read(largest + 1)
    except (ImportError, ValueError, OSError) as error:  # the first two: no such protocol, or no package for it
        reason = f"cannot be read ({first_line(error)})"
        raise PackedError(f"{where}: {reason}; expected a folder or URL that avs data pack wrote") from None
    if len(data) > largest:
        raise PackedError(f"{where}: has more than {largest} bytes; it was not written by avs data pack")
    return data


class _File(io.BytesIO):
    """A file of a sample, which error messages name by its place."""

    def __init__(self, sample: Mapping[str, Any], key: str):
        super().__init__(sample[key])
        self.place = f"{sample['__url__']}, {sample['__key__']}.{key}"

    def __str__(self) -> str:
        return self.place


class PackedClips:
    """Clips of one split of a packed folder, or fsspec URL (``s3://...``, ``hf://...``, ``simplecache::...``): the
    items of `AVSBench`, as a stream, with at most as many frames as were packed.

    `shuffle` draws the order of the shards, and of `buffer` undecoded clips, from (seed, epoch) and the number of
    processes; without it the order is that of the csv. Each process (`rank` of `world`, as webdataset finds them)
    reads as many clips: up to world - 1 are left out of an epoch, the others come once.

    Raises AvsError when made: no index, no such split, more frames than packed. While it is read: a shard that is
    missing, or differs from its checksum, by name; what `AVSBench` says of damaged pictures.
    """

    def __init__(
        self,
        source: str | Path,
        split: str,
        image_size: int | tuple[int, int] = 224,
        frames: int = 5,
        *,
        shuffle: bool = False,
        seed: int = 0,
    ):
        index = read_index(source)
        if split not in index.splits:
            raise PackedError(f"{source}: has no split {split!r}; it has {', '.join(index.splits)}")
        if not 1 <= frames <= index.frames:
            raise PackedError(f"{source}: was packed with {index.frames} frames per clip, but {frames} were requested")
        self.rank, self.world, *_ = pytorch_worker_info()
        self.source, self.split, self.task, self.frames = str(source).rstrip("/"), split, index.task, frames
        self.shards, self.names = index.splits[split].shards, index.splits[split].names
        self.starts = list(accumulate((shard.clips for shard in self.shards), initial=0))
        self.image_size = self.mask_size = height_width(image_size)
        self.shuffle, self.seed, self.buffer = shuffle, seed, BUFFER
        self.audio: Tensor | None = None

    def with_audio(self, audio: Mapping[str, Float[Tensor, "T D"]]) -> "PackedClips":
        """This stream with these embeddings, [T, D] by clip name, in its items."""
        self.audio = stack_audio(audio, self.names, self.frames)
        return self

    def __len__(self) -> int:
        """Clips that this process reads in an epoch."""
        return len(self.names) // self.world

    def __iter__(self) -> Iterator[dict[str, str | Tensor]]:
        return map(self.decode, self.samples())

    def samples(self, epoch: int = 0) -> Iterator[dict[str, Any]]:
        """Undecoded pictures of the clips of this process, as webdataset groups them, with name and number."""
        order, shuffle, first = range(len(self.shards)), None, self.rank * len(self)
        if self.shuffle:
            order = shard_rng(self.seed, epoch).permutation(len(self.shards)).tolist()
            rng = buffer_rng(self.seed, epoch, self.rank)
            shuffle = wds.shuffle(self.buffer, initial=self.buffer, rng=rng)
        shard_of = [number for number in order for _ in range(self.shards[number].clips)]
        own = list(dict.fromkeys(shard_of[first : first + len(self)]))
        skip = shard_of[:first].count(own[0]) if own else 0
        return iter(wds.DataPipeline(partial(self._read, own, PICTURES), wds.slice(skip, skip + len(self)), shuffle))

    def sounds(self) -> Iterator[Sound]:
        """The sound of each clip of the split, in the order of the csv."""
        for sample in self._read(range(len(self.shards)), SOUNDS):
            files = [_File(sample, key) if key in sample else None for key in ("wav", "log_mel.safetensors")]
            yield Sound(sample["name"], *files, self.frames)

    def sound_checksums(self, log_mel: bool) -> list[Any]:
        """Those of the shards, with the sounds of either kind in them."""
        return [[shard.sha256 for shard in self.shards]]

    def decode(self, sample: Mapping[str, Any]) -> dict[str, str | Tensor]:
        """The item of an undecoded clip."""
        keys = {key.partition(".")[0]: key for key in sample}
        frames, masks = (
            [_File(sample, key) if (key := keys.get(f"{what}_{k}")) else None for k in range(1, self.frames + 1)]
            for what in ("frame", "mask")
        )
        item = read_item(sample["name"], frames, masks, self.image_size, self.mask_size)
        return item if self.audio is None else item | {"audio": self.audio[sample["number"]]}

    def _read(self, numbers: Iterable[int], endings: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """Samples of shards, with the files that have one of these endings."""
        for number in numbers:
            shard, where = self.shards[number], f"{self.source}/{self.shards[number].file}"
            data = _fetch(self.source, shard.file, LARGEST_SHARD)
            if hashlib.sha256(data).hexdigest() != shard.sha256:
                raise PackedError(f"{where}: checksum mismatch: the shard is damaged; {AGAIN}")
            try:
                with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
                    if max(member.size for member in tar) > LARGEST_MEMBER:
                        raise ValueError("a file in it is too large")
                opened = {"url": where, "stream": io.BytesIO(data)}
                samples = list(group_by_keys(tar_file_expander([opened], select_files=lambda f: f.endswith(endings))))
                if len(samples) != shard.clips:
                    raise ValueError(f"{len(samples)} clips")
            except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
                fault = f"damaged, or does not hold the {shard.clips} clips of {INDEX} in plain files"
                raise PackedError(f"{where}: {fault}; {AGAIN}") from error
            for place, sample in enumerate(samples, self.starts[number]):
                yield sample | {"number": place, "name": self.names[place]}
