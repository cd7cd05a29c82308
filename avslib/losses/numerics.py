"""Keeps the loss terms finite where an exponential or a low precision would not be."""

import torch
from jaxtyping import Float
from torch import Tensor


def safe_exp(x: Float[Tensor, "*S"], limit: float = 30.0) -> Float[Tensor, "*S"]:
    """exp(x) up to `limit`, its tangent beyond.

    Float32 overflows at e^88, and gradient norms square their terms. A clamp would take the gradient away just where it
    is needed; the tangent keeps its direction.

    >>> safe_exp(torch.tensor([0.0, 100.0]))
    tensor([1.0000e+00, 7.5874e+14])
    """
    return x.clamp(max=limit).exp() * (1 + (x - limit).clamp(min=0))


def wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in float32, or in float64 where they are: sums over pixels and variances need it."""
    return tuple(x if x.dtype == torch.float64 else x.float() for x in tensors)
