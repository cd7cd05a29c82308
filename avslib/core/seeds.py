"""The seed plan: what every random number is drawn from; docs/RELIABILITY.md lists it with the tests that hold it.

What is drawn for one purpose depends only on the numbers that its function below takes, so a resumed run repeats the
uninterrupted one to the bit. Equal bits also need the same machine, package versions and number of threads
(``OMP_NUM_THREADS``: threads split sums), and on a GPU ``train.deterministic``. `seed` is ``train.seed``.

Where purposes share numbers, a third one separates order (0), flips (1), shards (2) and first seconds (3), and noise
(0) and dropout (1).
"""

import hashlib
import random
from contextlib import AbstractContextManager

import numpy as np
import torch


def order_rng(seed: int, epoch: int) -> np.random.Generator:
    """For the order of loose clips in an epoch."""
    return np.random.default_rng([seed, epoch, 0])


def flip_rng(seed: int, epoch: int, clip: int) -> np.random.Generator:
    """For the flips of a clip, given by its number in the split, in an epoch."""
    return np.random.default_rng([seed, epoch, 1, clip])


def window_rng(seed: int, epoch: int, clip: int) -> np.random.Generator:
    """For the second at which a train clip of MS3 begins, in an epoch."""
    return np.random.default_rng([seed, epoch, 3, clip])


def shard_rng(seed: int, epoch: int) -> np.random.Generator:
    """For the order of packed shards in an epoch."""
    return np.random.default_rng([seed, epoch, 2])


def buffer_rng(seed: int, epoch: int, process: int) -> random.Random:
    """For the shuffle buffer behind the shards."""
    return random.Random(f"{seed} {epoch} {process} 0")


def step_seed(seed: int, step: int) -> int:
    """For the latent noise of a step: equal in all processes, each of which takes its part."""
    return _torch_seed(seed, step, 0)


def dropout_seed(seed: int, step: int, process: int) -> int:
    """For what layers draw from torch's own generator in a step."""
    return _torch_seed(seed, step, 1, process)


def sample_seed(sample: int, name: str) -> int:
    """For sample number `sample` (from 0) of a clip's prior codes in evaluation, for any seed of the training."""
    return int.from_bytes(hashlib.sha256(f"{sample} {name}".encode()).digest()[:7])


def clip_rng(seed: int, name: str) -> np.random.Generator:
    """For a clip by its name: what it draws does not depend on other clips or their order."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")])


def _torch_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


global_seed = torch.manual_seed  # of torch's generators on all devices; no other global generator is drawn from


def own_generators() -> AbstractContextManager[None]:
    """Restore the caller's global generators of torch after the block."""
    return torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ())
