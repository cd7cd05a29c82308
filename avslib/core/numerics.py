"""Arithmetic of models and losses: finite where an exponential or a low precision is not, and fast where it can be."""

from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def safe_exp(x: Float[Tensor, "*S"], limit: float = 30.0) -> Float[Tensor, "*S"]:
    """exp(x) up to `limit`, continued linearly (by its tangent) above it.

    Float32 overflows at e^88, and gradient norms square their terms. A clamp would set the gradient to 0 just where it
    is needed; the tangent keeps its direction.

    >>> safe_exp(torch.tensor([0.0, 100.0]))
    tensor([1.0000e+00, 7.5874e+14])
    """
    return x.clamp(max=limit).exp() * (1 + (x - limit).clamp(min=0))


def wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in float32, or in float64 where they are: sums over pixels, squares and variances need it."""
    return tuple(x if x.dtype == torch.float64 else x.float() for x in tensors)


def l2_normalize(x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
    """x / sqrt(sum_c x^2 + 1e-6) over the last axis."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def upsample_conv(x: Float[Tensor, "N C H W"], conv: nn.Conv2d) -> Float[Tensor, "N D 2*H 2*W"]:
    """`conv`, a 3x3 convolution with zero padding, of the map at twice its size (nearest), without making that map.

    Both are one transposed convolution with stride 2, whose 4x4 kernel is the sum of the four shifts of the 3x3 one:
    exact, 4 products per pixel and channel pair in place of 9, and nothing of the large map is kept for the backward.

    >>> conv, x = nn.Conv2d(3, 2, 3, padding=1).double(), torch.rand(1, 3, 4, 5).double()
    >>> torch.allclose(upsample_conv(x, conv), conv(F.interpolate(x, scale_factor=2)), rtol=1e-12)
    True
    """
    taps = conv.weight.flip(-2, -1).transpose(0, 1)
    kernel = reduce(torch.add, (F.pad(taps, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1)))
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)
