"""Which steps of a video go through the network together, and how their maps are joined.

A model is trained on windows of one frame and one second of sound per second, and is given nothing else: with several
steps in a second, a window takes the k-th step of each second, for every k in turn.

All of it is a chain of generators: memory depends on windows, steps per second and sizes, not on the video's length.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def joined_windows(
    groups: Iterable[list[Any]], segment: Callable[[list[Any]], Float[Tensor, "T M S S"]], length: int, hop: int
) -> Iterator[Float[Tensor, "M S S"]]:
    """The maps of all steps in their order, from windows of `length` seconds, one every `hop`.

    `groups` holds the steps of each second; a window takes the k-th step of each, for every k in turn. The last window
    reaches back to be whole. Where windows overlap, their maps are averaged with the weights of a triangle: 1, 2, 3,
    2, 1.
    """
    recent: list[tuple[int, list[Any]]] = []
    pending: dict[tuple[int, int], tuple[int, Tensor]] = {}  # weight and mean of maps, by second and k
    count = covered = given = 0

    def add_windows() -> None:
        for k in range(max(len(group) for _, group in recent)):
            # reaches one second further back where the last one has no k-th step
            window = [(number, group[k]) for number, group in recent if k < len(group)][-length:]
            if window[-1][0] < covered:
                continue
            for i, maps in enumerate(segment([step for _, step in window])):
                before, mean = pending.get(key := (window[i][0], k), (0, maps))
                weight = min(i + 1, len(window) - i)
                # a moving mean: where there is only one window its maps stay as they are, to the bit
                pending[key] = before + weight, torch.lerp(mean, maps, weight / (before + weight))

    def finished(end: int) -> list[Tensor]:
        means = [(key, pending.pop(key)[1]) for key in sorted(pending) if key[0] < end]
        return [mean for key, mean in means if key[0] >= given]  # the last window reached back over the others

    for count, group in enumerate(groups, 1):
        recent = [*recent, (count - 1, group)][-length - 1 :]
        if count >= length and (count - length) % hop == 0:
            add_windows()
            yield from finished(count - length + hop)
            covered, given = count, count - length + hop
    if covered < count:
        add_windows()
    yield from finished(count)
