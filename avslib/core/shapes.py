"""Shapes that functions expect of their tensors, as sentences."""

from torch import Tensor

from avslib.core.errors import UsageError


def require_shape(what: str, x: Tensor | None, *expected: int | str) -> None:
    """Raise UsageError unless `x` has the shape `expected` (a text such as "N" stands for any length) or is None.

    >>> import torch
    >>> require_shape("image", torch.zeros(2, 3, 8, 8), "N", 3, "H", "W")
    """
    if x is None:
        return
    fits = x.ndim == len(expected) and all(isinstance(e, str) or e == n for n, e in zip(x.shape, expected, strict=True))
    if not fits:
        raise UsageError(f"{what} has shape {tuple(x.shape)}, expected [{', '.join(map(str, expected))}]")


def require_clips(
    image: Tensor, audio: Tensor, mask: Tensor | None, annotated: Tensor | None, frames: int, audio_dim: int
) -> None:
    """Raise UsageError unless these are rows of whole clips, `frames` each: pictures, embeddings, masks and flags."""
    require_shape("image", image, "N", 3, "H", "W")
    n = len(image)
    if frames < 1 or n % frames:
        raise UsageError(f"image has {n} rows, not a multiple of frames={frames}; pass whole clips")
    require_shape("audio", audio, n, audio_dim)
    require_shape("mask", mask, n, 1, *image.shape[-2:])
    require_shape("annotated", annotated, n)
