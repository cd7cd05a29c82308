"""Random choices that repeat on every machine and with every numpy.

numpy keeps the stream of raw bits fixed for ever, and the methods built on it not; so everything here is made of
``Generator.random`` alone, the plain map of those bits to [0, 1).
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def clip_generator(seed: int, task: int, split: int, index: int) -> np.random.Generator:
    """The generator of one clip: its numbers depend on these four and on nothing else."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, task, split, index])))


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * float(rng.random())


def choice(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of `items`."""
    return items[int(rng.random() * len(items))]


def sample(rng: np.random.Generator, items: Sequence[T], k: int) -> list[T]:
    """`k` different ones of `items`, in random order."""
    order = np.argsort(rng.random(len(items)), kind="stable")
    return [items[i] for i in order[:k]]
