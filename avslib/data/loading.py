"""Loaders that give the same batches for any number of workers, and from any step on: order and flips are functions of
(seed, epoch, clip), not of a generator's state, so that a resumed run reads what the uninterrupted one would have read.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from avslib.core.errors import BadClipsError, DataError, PictureError
from avslib.core.seeds import flip_rng, order_rng, window_rng

if TYPE_CHECKING:  # a data worker imports this module, and should start fast
    from avslib.config import DataConfig
    from avslib.data.packed import PackedClips

TIMEOUT = 600  # seconds until a worker counts as stuck
CORRUPT = "corrupt"
UNREADABLE = (PictureError, DataError)


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) pairs in an order drawn from (seed, epoch); set `epoch` before each pass.

    There is no ``set_epoch``: accelerate would call it with this process's passes, counted from 0 in a resumed run.
    """

    def __init__(self, size: int, seed: int):
        self.size, self.seed, self.epoch = size, seed, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = order_rng(self.seed, self.epoch).permutation(self.size)
        return ((self.epoch, int(i)) for i in order)


class FlippedClips(Dataset):
    """Clips of `dataset` with random horizontal flips; items are asked for by (epoch, index).

    ``official`` is what the released loaders do: S4 flips only the first frame (and its mask), MS3 flips each frame by
    a coin of its own. ``clip`` flips whole clips, which keeps motion plausible.

    A clip that cannot be read is replaced by the next one, and named in the batch. Val and test are read
    without that: a score over fewer clips is a different score.
    """

    def __init__(self, dataset: Dataset, config: "DataConfig", seed: int):
        # plain values: a worker that unpickles a configuration imports all of pydantic
        self.dataset, self.seed, self.frames = dataset, seed, config.frames_of("train")
        self.task, self.way, self.probability = config.task, config.flip, config.flip_probability
        self.max_corrupt = config.max_corrupt

    def __len__(self) -> int:
        return len(self.dataset)

    def coins(self, epoch: int, index: int) -> Bool[Tensor, "T"]:
        """Which frames are flipped."""
        heads = torch.from_numpy(flip_rng(self.seed, epoch, index).random(self.frames) < self.probability)
        if self.way == "clip":
            return heads[:1].expand(self.frames)
        return heads if self.task == "ms3" else heads & (torch.arange(self.frames) == 0)

    def seconds(self, epoch: int, index: int) -> slice:
        """The seconds of a clip that an epoch trains on: all, or ``data.train_frames`` of them."""
        rest = self.dataset.frames - self.frames
        start = int(window_rng(self.seed, epoch, index).integers(rest + 1)) if rest else 0
        return slice(start, start + self.frames)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        (epoch, index), data = key, self.dataset
        order = ((index + i) % len(data) for i in range(len(data)))
        number, item = first_readable(
            lambda i: data.window(i, self.seconds(epoch, i), epoch), order, lambda i: data.names[i], self.max_corrupt
        )
        return self.flip(item, epoch, number)

    def flip(self, item: dict[str, Any], epoch: int, index: int) -> dict[str, Any]:
        """The item with the frames flipped that `coins` says."""
        flipped = self.coins(epoch, index)[:, None, None, None]
        return item | {name: torch.where(flipped, item[name].flip(-1), item[name]) for name in ("image", "mask")}


class StreamSampler(EpochSampler):
    """(epoch, undecoded clip) of a packed split, in the order of its stream.

    The training process draws from a sampler, so that the order does not depend on how many workers decode the clips.
    """

    def __init__(self, clips: "PackedClips"):
        super().__init__(len(clips), clips.seed)
        self.clips = clips

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return ((self.epoch, sample) for sample in self.clips.samples(self.epoch))


class FlippedStream(FlippedClips):
    """`FlippedClips` of a packed split: the same flips of the same clips; items are asked for by what `StreamSampler`
    reads. A clip that cannot be read is replaced by the next one of the batch."""

    def __getitems__(self, keys: list[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
        clips, items = self.dataset, []
        for i, (epoch, _) in enumerate(keys):
            samples = [sample for _, sample in (*keys[i:], *keys[:i])]
            sample, item = first_readable(clips.decode, samples, itemgetter("name"), self.max_corrupt)
            part = self.seconds(epoch, sample["number"])
            item = {key: value[part] if isinstance(value, Tensor) else value for key, value in item.items()}
            items.append(self.flip(item, epoch, sample["number"]))
        return items


def train_loader(dataset: Dataset, config: "DataConfig", batch_size: int, seed: int) -> DataLoader:
    """Shuffled, flipped batches; the last, smaller one is left out, since BatchNorm would weigh its clips more. Packed
    clips come in their own order for this process."""
    from avslib.data.packed import PackedClips

    packed = isinstance(dataset, PackedClips)
    sampler = StreamSampler(dataset) if packed else EpochSampler(len(dataset), seed)
    clips = (FlippedStream if packed else FlippedClips)(dataset, config, seed)
    return _loader(clips, batch_size, config.workers, config.timeout, sampler)


def eval_loader(dataset: Dataset, batch_size: int, workers: int = 0) -> DataLoader:
    """All clips in their own order."""
    return _loader(dataset, batch_size, workers, TIMEOUT)


def _loader(
    dataset: Dataset, batch_size: int, workers: int, timeout: float, sampler: Sampler | None = None
) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        drop_last=sampler is not None and len(sampler) >= batch_size,  # a split smaller than one batch still trains
        persistent_workers=sampler is not None and workers > 0,
        timeout=timeout if workers else 0,
        pin_memory=torch.cuda.is_available(),
        # the workers' seeds, which nothing uses, would be drawn from torch's own generator
        generator=torch.Generator(),
    )


def shuffle_audio(audio: Mapping[str, Float[Tensor, "T D"]], seed: int = 0) -> dict[str, Float[Tensor, "T D"]]:
    """Give every clip the sound of a different clip: a random cycle through all clips, so that none keeps its own."""
    names = list(audio)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    return {name: audio[other] for name, other in zip(order, order[1:] + order[:1], strict=True)}


def first_readable(
    read: Callable[[Any], Mapping[str, Any]], keys: Iterable[Any], name: Callable[[Any], str], limit: int
) -> tuple[Any, dict[str, Any]]:
    """The first of `keys` whose clip can be read, with its item: ``corrupt`` there holds the clips before it, as JSON.

    `name` gives a key's clip. Raises BadClipsError when more than `limit` of them are corrupt, or all.
    """
    corrupt: dict[str, str] = {}
    for key in keys:
        try:
            return key, {**read(key), CORRUPT: json.dumps(corrupt) if corrupt else ""}
        except UNREADABLE as error:
            corrupt[name(key)] = str(error)
        if len(corrupt) > limit:
            break
    raise too_many(corrupt, limit)


def corrupt_clips(batch: Mapping[str, Any]) -> dict[str, str]:
    """Why each clip could not be read whose place another one took in this batch.

    >>> corrupt_clips({"corrupt": ["", '{"dog": "dog_1.png: truncated"}']})
    {'dog': 'dog_1.png: truncated'}
    """
    return {name: why for text in batch.get(CORRUPT, ()) if text for name, why in json.loads(text).items()}


def too_many(corrupt: Mapping[str, str], limit: int) -> BadClipsError:
    """What to raise, with the names of all corrupt clips and the reasons of the first ones."""
    reasons = "; ".join(f"{name!r} ({why})" for name, why in list(corrupt.items())[:3])
    more = "".join(f", {name!r}" for name in list(corrupt)[3:])
    return BadClipsError(
        f"{len(corrupt)} of the train clips cannot be read, but data.max_corrupt allows {limit}: {reasons}{more}; "
        "repair them or leave them out with data.skip (avs data check --fix-list writes it), or raise data.max_corrupt"
    )
