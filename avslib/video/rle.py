"""Run lengths of a mask, as COCO counts them: column by column, first the zeros, then the ones, in turn."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Shaped

from avslib.core.errors import UsageError


def rle_encode(mask: Shaped[np.ndarray, "H W"]) -> list[int]:
    """Lengths of the runs of a mask read down its columns; the first run is of zeros and may be empty.

    These are the ``counts`` of COCO's uncompressed form, which pycocotools reads with ``size`` [H, W] beside them.
    Source: the mask interface of the COCO data set (Lin et al., ECCV 2014).

    >>> rle_encode(np.array([[0, 1, 1], [0, 0, 1]]))
    [2, 1, 1, 2]
    >>> rle_encode(np.ones((2, 2)))
    [0, 4]
    """
    flat = np.asarray(mask).astype(bool).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return [0, *counts] if len(flat) and flat[0] else counts


def rle_decode(counts: Sequence[int], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The mask of (height, width) that `rle_encode` counted.

    Raises:
        AvsError: counts that are negative, or do not sum up to the size.

    >>> rle_decode([2, 1, 1, 2], (2, 3)).astype(int)
    array([[0, 1, 1],
           [0, 0, 1]])
    """
    height, width = size
    lengths = np.asarray(counts, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise UsageError(
            f"run lengths: expected counts >= 0 that sum up to {height} x {width} = {height * width}; "
            f"got a sum of {lengths.sum()}"
        )
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T
