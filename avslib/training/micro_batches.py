"""A batch in parts, for a network that does not fit with all of it into memory.

Gradients of the parts add up to those of the whole batch: terms that are means over clips are weighed by the part's
share, sums over clips are not, and each clip gets the noise that it has in the whole batch. What sees more than one
clip at once sees those of its part alone: batch statistics of BatchNorm, and the orthogonality loss.
"""

from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Clips `first` to `last` - 1 of a batch of `clips`.

    >>> Part(2, 3, 4).of(torch.arange(8)), Part(2, 3, 4).weight
    (tensor([4, 5]), 0.25)
    """

    first: int
    last: int
    clips: int

    @property
    def weight(self) -> float:
        """Its share in the batch."""
        return (self.last - self.first) / self.clips

    def of(self, rows: Shaped[Tensor, "N *S"]) -> Shaped[Tensor, "M *S"]:
        """Its rows; each clip has equally many."""
        per_clip = len(rows) // self.clips
        return rows[self.first * per_clip : self.last * per_clip]


def parts(clips: int, size: int) -> list[Part]:
    """A batch of `clips` in parts of `size`; the last may be smaller.

    >>> [(p.first, p.last) for p in parts(5, 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    return [Part(first, min(first + size, clips), clips) for first in range(0, clips, size)]
