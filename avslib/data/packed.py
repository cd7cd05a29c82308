"""Packed clips as a stream: from a local folder or any fsspec URL, with constant memory, each clip once an epoch."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from avslib.core.errors import PackedError, UsageError
from avslib.core.parsing import LARGEST_JSON, first_line, parse_json
from avslib.core.seeds import buffer_rng, shard_rng
from avslib.data.avsbench import read_item, stack_audio
from avslib.data.layout import LAYOUTS, is_plain_name
from avslib.data.pack import FORMAT, INDEX, index_sha256

AGAIN = "copy it again, or pack the clips again"


class NamedBytes(io.BytesIO):
    """Bytes that a reader takes for a file, and that print where they come from."""

    def __init__(self, data: bytes, title: str):
        super().__init__(data)
        self.title = title

    def __str__(self) -> str:
        return self.title


class _Shard(BaseModel):
    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    clips: int = Field(ge=0, strict=True)

    @field_validator("file")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not is_plain_name(name):
            raise ValueError("expected a plain name, without slashes")
        return name


class _Split(BaseModel):
    shards: list[_Shard]
    names: list[str]

    @model_validator(mode="after")
    def _as_many(self) -> "_Split":
        if sum(shard.clips for shard in self.shards) != len(self.names):
            raise ValueError("has not as many names as its shards have clips")
        return self


class _Index(BaseModel):
    format: Any
    task: Literal[tuple(LAYOUTS)]
    frames: int = Field(ge=1, strict=True)
    splits: dict[str, _Split] = Field(min_length=1)


def read_index(source: str | Path) -> dict[str, Any]:
    """``index.json`` of a packed folder or URL. Raises AvsError when there is none, or none of `avs data pack`."""
    where = f"{source}/{INDEX}"
    try:
        with _open(source, INDEX) as stream:
            data = stream.read(LARGEST_JSON + 1)
    except FileNotFoundError:
        raise PackedError(f"{source}: holds no {INDEX}; expected a folder or URL that avs data pack wrote") from None
    except OSError as error:
        raise PackedError(f"{where}: cannot be read ({error})") from None
    if len(data) > LARGEST_JSON:
        raise PackedError(f"{where}: has more than {LARGEST_JSON} bytes; it was not written by avs data pack")
    index = parse_json(data, where, PackedError, "what avs data pack wrote")
    if isinstance(index, dict) and index.get("format", FORMAT) != FORMAT:
        found = first_line(repr(index["format"]))
        raise PackedError(f"{where}: has format {found}; expected {FORMAT!r}: pack the clips again")
    try:
        _Index.model_validate(index)
    except ValidationError as error:
        first = error.errors()[0]
        place = first_line(".".join(str(part) for part in first["loc"]))
        raise PackedError(f"{where}: damaged, or not written by avs data pack ({place}: {first['msg']})") from None
    if index.get("sha256", "") not in ("", index_sha256(index)):
        raise PackedError(f"{where}: damaged: its SHA-256 is another; {AGAIN}")
    return index


def _open(source: str | Path, file: str) -> BinaryIO:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(str(source))
    except (ImportError, ValueError) as error:  # a protocol whose package is not installed, or that nobody knows
        raise PackedError(f"{source}: this kind of URL cannot be opened ({error})") from None
    return system.open(f"{path.rstrip('/')}/{file}", "rb")


class PackedClips(IterableDataset):
    """Clips of one split of a packed folder: the items of `AVSBench`, as a stream.

    Shards and, inside each, clips are read in one pass; a buffer of undecoded clips shuffles them. Order is a function
    of (seed, epoch) and of how many processes share the stream; every clip comes once an epoch, in one of them. Each
    shard that is read is compared with its checksum.

    Training reads it through `avslib.data.loading.packed_loader`, whose batches do not depend on the number of workers.
    In a plain ``DataLoader`` workers share the shards out: no clip twice, but an order that depends on their number.

    Args:
        source: folder, or fsspec URL (``s3://...``, ``hf://...``, ``https://...``, ``simplecache::...``).
        split: as packed.
        image_size, mask_size, frames, audio: as for `AVSBench`; at most as many frames as were packed.
        shuffle: False gives the order of the csv.
        seed: of the order.
        buffer: clips in the shuffle buffer of each worker.
        rank, world: this process and how many there are; by default what torch.distributed says, else 0 and 1.
        equal: leave out up to world - 1 clips an epoch, so that all processes have as many.
        batch_size: workers of a plain DataLoader share out whole batches of it, so that only the last one of an epoch
            is smaller.
        verify: False leaves the checksums out.

    Attributes:
        epoch: set it before each pass; worker processes see it too.
        names: of all clips of the split, in the order of the csv.
        shards: file, sha256, bytes and clips of each.

    Raises AvsError when made: no index, no such split, more frames than packed. While it is read: a shard that is
    missing or whose checksum is another, by name; what `AVSBench` says of damaged pictures.
    """

    def __init__(
        self,
        source: str | Path,
        split: str,
        image_size: int | tuple[int, int] = 224,
        frames: int = 5,
        audio: Mapping[str, Float[Tensor, "T D"]] | None = None,
        mask_size: int | tuple[int, int] | None = None,
        *,
        shuffle: bool = False,
        seed: int = 0,
        buffer: int = 128,
        rank: int | None = None,
        world: int | None = None,
        equal: bool = False,
        batch_size: int = 1,
        verify: bool = True,
    ):
        index = read_index(source)
        if split not in index["splits"]:
            raise PackedError(f"{source}: holds no split {split!r}; it has {', '.join(index['splits'])}")
        if not 1 <= frames <= index["frames"]:
            raise PackedError(
                f"{source}: was packed with {index['frames']} frames a clip; {frames} cannot be had from it"
            )
        self.source, self.split, self.task, self.frames = str(source).rstrip("/"), split, index["task"], frames
        self.shards, self.names = index["splits"][split]["shards"], index["splits"][split]["names"]
        mask_size = image_size if mask_size is None else mask_size
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        self.mask_size = (mask_size, mask_size) if isinstance(mask_size, int) else tuple(mask_size)
        self.shuffle, self.seed, self.buffer = shuffle, seed, max(1, buffer)
        self.equal, self.batch_size, self.verify = equal, batch_size, verify
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = rank if rank is not None else torch.distributed.get_rank() if there else 0
        self.world = world if world is not None else torch.distributed.get_world_size() if there else 1
        if not 0 <= self.rank < self.world:
            raise UsageError(f"rank is {self.rank} of {self.world} processes; expected 0 to {self.world - 1}")
        self.audio = None if audio is None else stack_audio(audio, self.names, frames)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch.fill_(value)

    def with_audio(self, audio: Mapping[str, Float[Tensor, "T D"]]) -> "PackedClips":
        """This stream with these embeddings, [T, D] by clip name, in its items."""
        self.audio = stack_audio(audio, self.names, self.frames)
        return self

    def __len__(self) -> int:
        """Clips that this process reads in an epoch."""
        first, last = self._share()
        return last - first

    def __iter__(self) -> Iterator[dict[str, str | Tensor]]:
        return (item for _, item in self.numbered())

    def numbered(self) -> Iterator[tuple[int, dict[str, str | Tensor]]]:
        """Items with the number of the clip in the order of the csv, for this process and worker."""
        return map(self.decode, self.samples())

    def samples(self) -> Iterator[dict[str, Any]]:
        """Undecoded pictures of each clip, as `webdataset` gives them, for this process and worker."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        samples = self._samples(*self._part(worker, workers), _is_no_sound)
        if self.shuffle:
            from webdataset import shuffle

            rng = buffer_rng(self.seed, self.epoch, self.rank, worker)
            samples = shuffle(self.buffer, initial=self.buffer, rng=rng)(samples)
        return samples

    def sounds(self) -> Iterator[tuple[str, dict[str, NamedBytes]]]:
        """Name and sound files (``wav``, ``log_mel.safetensors``) of every clip of the split, in the order of the csv,
        whatever the process."""
        for sample in self._samples(0, len(self.names), _is_sound_or_json, order=False):
            name = _values(sample)["name"]
            files = {key: self._bytes(sample, key) for key in ("wav", "log_mel.safetensors") if key in sample}
            if not files:
                where = f"{sample['__url__']}: clip {first_line(name)!r}"
                raise PackedError(f"{where} has no sound, the shard is damaged; {AGAIN}")
            yield name, files

    def _share(self) -> tuple[int, int]:
        """Positions that this process reads, in the epoch's order of shards."""
        clips = len(self.names)
        if self.equal:
            each = clips // self.world
            return self.rank * each, (self.rank + 1) * each
        return self.rank * clips // self.world, (self.rank + 1) * clips // self.world

    def _part(self, worker: int, workers: int) -> tuple[int, int]:
        """Positions that a worker of this process reads: whole batches, and the last one also the rest."""
        first, last = self._share()
        batches = (last - first) // self.batch_size
        start, stop = (first + w * batches // workers * self.batch_size for w in (worker, worker + 1))
        return start, last if worker == workers - 1 else stop

    def _samples(
        self, first: int, last: int, wanted: Callable[[str], bool], order: bool = True
    ) -> Iterator[dict[str, Any]]:
        numbers = range(len(self.shards))
        if self.shuffle and order:
            numbers = shard_rng(self.seed, self.epoch).permutation(len(self.shards))
        at = 0
        for number in numbers:
            shard = self.shards[number]
            start, stop = max(first - at, 0), min(last - at, shard["clips"])
            if start < stop:
                yield from self._read(shard, start, stop, wanted)
            at += shard["clips"]

    def _read(self, shard: dict, start: int, stop: int, wanted: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
        from webdataset.tariterators import group_by_keys

        where, count = f"{self.source}/{shard['file']}", 0
        try:
            with _open(self.source, shard["file"]) as stream:
                hashing = _Hashing(stream) if self.verify else stream
                files = _files(hashing, where, wanted)
                for sample in islice(group_by_keys(files), start, stop):
                    yield sample
                    count += 1
                if self.verify and hashing.rest() != shard["sha256"]:
                    raise PackedError(f"{where}: damaged: its SHA-256 is not the one in {INDEX}; {AGAIN}")
        except FileNotFoundError:
            raise PackedError(f"{where}: no such shard, though {INDEX} names it; {AGAIN}") from None
        except PackedError:
            raise
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:  # ValueError: a file that is there twice
            raise PackedError(
                f"{where}: damaged, or cut off while it was read ({first_line(error)}); {AGAIN}"
            ) from None
        if count < stop - start:
            raise PackedError(f"{where}: holds fewer clips than the {shard['clips']} that {INDEX} says; {AGAIN}")

    def _bytes(self, sample: dict[str, Any], key: str) -> NamedBytes:
        return NamedBytes(sample[key], f"{sample['__url__']}, {sample['__key__']}.{key}")

    def _number(self, sample: dict[str, Any]) -> int:
        key = sample["__key__"]
        if not (key.isascii() and key.isdecimal() and len(key) < 20 and int(key) < len(self.names)):
            where = sample["__url__"]
            raise PackedError(f"{where}: holds a clip {first_line(key)!r}, which {INDEX} does not name; {AGAIN}")
        return int(key)

    def decode(self, sample: dict[str, Any]) -> tuple[int, dict[str, str | Tensor]]:
        """The number of the clip in the order of the csv, and its item, of what `samples` gives."""
        values, number = _values(sample), self._number(sample)
        keys = {key.partition(".")[0]: key for key in sample}
        try:
            frames = [self._bytes(sample, keys[f"frame_{k}"]) for k in range(1, self.frames + 1)]
            annotated = enumerate(values["annotated"][: self.frames], 1)
            masks = [self._bytes(sample, keys[f"mask_{k}"]) if known else None for k, known in annotated]
        except KeyError as error:
            where = f"{sample['__url__']}: clip {values['name']!r}"
            raise PackedError(f"{where} has no {error}, the shard is damaged; {AGAIN}") from None
        item = read_item(values["name"], frames, masks, self.image_size, self.mask_size)
        if self.audio is not None:
            item["audio"] = self.audio[number]
        return number, item


def _values(sample: dict[str, Any]) -> dict[str, Any]:
    try:
        values = json.loads(sample["json"])
        if isinstance(values["name"], str) and isinstance(values["annotated"], list):
            return values
        raise TypeError
    except (KeyError, ValueError, TypeError, RecursionError):
        # where a shard is cut off, webdataset gives the clip as far as it goes
        where = f"{sample['__url__']}: clip {sample['__key__']}"
        raise PackedError(f"{where} is not whole, the shard is damaged; {AGAIN}") from None


class _Member(tarfile.TarInfo):
    """A plain file: no shard has links, devices, sparse files, or extended headers, whose parsing can take hours."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.size < 0:
            raise tarfile.ReadError(f"{first_line(repr(member.name))} is no plain file")
        return member


def _files(stream: Any, where: str, wanted: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """Name and bytes of the wanted files of a shard, as webdataset groups them.

    Nothing is unpacked to the disk, whatever the members are called. A compressed shard is no shard.
    """
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as tar:
        for member in tar:
            tar.members = []  # which it would keep
            if wanted(member.name):
                yield {"__url__": where, "fname": member.name, "data": tar.extractfile(member).read()}


def _is_no_sound(name: str) -> bool:
    return not name.endswith((".wav", ".safetensors"))


def _is_sound_or_json(name: str) -> bool:
    return name.endswith((".wav", ".safetensors", ".json"))


class _Hashing:
    """A stream that hashes what is read from it."""

    def __init__(self, stream: BinaryIO):
        self.stream, self.hash = stream, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.hash.update(data)
        return data

    def rest(self) -> str:
        """The digest, once what is left is read as well."""
        while self.read(2**20):
            pass
        return self.hash.hexdigest()
