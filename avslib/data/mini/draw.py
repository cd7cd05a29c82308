"""Random choices that repeat on every machine and with every version of numpy.

numpy guarantees the stream of raw bits, but not the methods built on it. So everything here uses only
``Generator.random``, the plain map of those bits to [0, 1).
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * float(rng.random())


def choice(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of `items`."""
    return items[int(rng.random() * len(items))]


def sample(rng: np.random.Generator, items: Sequence[T], k: int) -> list[T]:
    """`k` distinct ones of `items`, in random order."""
    order = np.argsort(rng.random(len(items)), kind="stable")
    return [items[i] for i in order[:k]]
