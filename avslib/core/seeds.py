"""The seed plan: what every random number is drawn from. Nothing is drawn from a generator that runs on.

What is drawn for one purpose depends on the numbers of its line and on nothing else: on no other line, not on how much
was drawn before, and not on the number of data workers. So a resumed run repeats the uninterrupted one to the bit.
Equal bits further need the same machine, package versions and number of threads (``OMP_NUM_THREADS``: sums are parted
among threads), and on a GPU ``train.deterministic``.
`seed` is ``train.seed`` where nothing else is said.

==========================  ==================================  =======================================
what                        drawn from                          where
==========================  ==================================  =======================================
initial weights             seed (torch's own generator)        `global_seed`, `avslib.training.loop.train`
dropout of a backbone       seed, step, process                 `dropout_seed`, same
latent noise of a step      seed, step                          `step_seed`, same
order of loose clips        seed, epoch                         `order_rng`, `avslib.data.loading`
horizontal flips            seed, epoch, clip                   `flip_rng`, same
order of shards             seed, epoch                         `shard_rng`, `avslib.data.packed`
shuffle buffer of shards    seed, epoch, process (worker: 0)    `buffer_rng`, same
evaluation samples          number of the sample, clip's name   `sample_seed`, `avslib.training.evaluate`
prediction samples          ``--seed``, for each window anew    `avslib.video.predictor`
sounds exchanged            seed 0, or robustness's ``--seed``  `avslib.data.loading.shuffle_audio`
robustness: noise, sounds   ``--seed``, clip's name             `clip_rng`, `avslib.audio.conditions`
bootstrap intervals         0                                   `avslib.study.intervals`
clips of Mini-AVS           build seed, task, split, number     `avslib.data.mini.compose`
SoundNet's shipped head     ``--seed``, which is 0              `tools.soundnet_train`
notebooks                   ``SEED`` + a number each            `avslib.course.lesson.Lesson.generator`
benchmarks                  ``seed`` of the bench settings      `avslib.bench`
==========================  ==================================  =======================================

Two lines may share the numbers of a draw, never its meaning: a third number tells order (0), flips (1) and shards (2)
apart, and what torch draws from a seed is none of what numpy draws from it.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate.utils import set_seed

_ORDER, _FLIPS, _SHARDS = range(3)
_STEP, _DROPOUT = range(2)


def order_rng(seed: int, epoch: int) -> np.random.Generator:
    """Of the order of loose clips in an epoch."""
    return np.random.default_rng([seed, epoch, _ORDER])


def flip_rng(seed: int, epoch: int, clip: int) -> np.random.Generator:
    """Of the flips of a clip, by its number in the split, in an epoch."""
    return np.random.default_rng([seed, epoch, _FLIPS, clip])


def shard_rng(seed: int, epoch: int) -> np.random.Generator:
    """Of the order of packed shards in an epoch."""
    return np.random.default_rng([seed, epoch, _SHARDS])


def buffer_rng(seed: int, epoch: int, process: int, worker: int = 0) -> random.Random:
    """Of the shuffle buffer behind the shards. Workers count where they read shards themselves, not in training."""
    return random.Random(f"{seed} {epoch} {process} {worker}")


def step_seed(seed: int, step: int) -> int:
    """Of the latent noise of a step: equal in all processes, which take their parts of it."""
    return _torch_seed(seed, step, _STEP)


def dropout_seed(seed: int, step: int, process: int) -> int:
    """Of what layers draw in a step from torch's own generator."""
    return _torch_seed(seed, step, _DROPOUT, process)


def sample_seed(sample: int, name: str) -> int:
    """Of a sample (from 0) of the prior codes of a clip in evaluation; no seed of the training enters it."""
    return int.from_bytes(hashlib.sha256(f"{sample} {name}".encode()).digest()[:7])


def clip_rng(seed: int, name: str) -> np.random.Generator:
    """A generator of (seed, clip name): what it draws depends on no other clip and on no order."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def _torch_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def global_seed(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch on all devices."""
    set_seed(seed)


@contextmanager
def own_generators() -> Iterator[None]:
    """Leave the caller's global generators of Python, NumPy and torch as they were, whatever is drawn inside."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
