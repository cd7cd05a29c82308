"""Neck: brings a backbone level to C channels, without an activation."""

from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor, nn


def basic_neck(in_channels: int, channels: int) -> nn.Sequential:
    """1x1, 3x3 and 3x3 convolutions without bias, each followed by BatchNorm; linear, so no activation."""
    sizes = ((in_channels, 1), (channels, 3), (channels, 3))
    convs = (nn.Conv2d(c, channels, kernel, padding=kernel // 2, bias=False) for c, kernel in sizes)
    return nn.Sequential(*(layer for conv in convs for layer in (conv, nn.BatchNorm2d(channels))))


class AsppNeck(nn.Module):
    """Sum of four 3x3 convolutions with dilations 3, 6, 12 and 18, without bias or norm."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels, channels, 3, padding=d, dilation=d, bias=False) for d in (3, 6, 12, 18)
        )

    def forward(self, x: Float[Tensor, "N _ H W"]) -> Float[Tensor, "N C H W"]:
        return reduce(torch.add, (conv(x) for conv in self.convs))


class Neck(nn.Module):
    """One neck, ``basic`` or ``aspp``, for each of the backbone's levels, fine to coarse."""

    def __init__(self, in_channels: list[int], channels: int, kind: str):
        super().__init__()
        block = {"basic": basic_neck, "aspp": AsppNeck}[kind]
        self.levels = nn.ModuleList(block(c, channels) for c in in_channels)

    def forward(self, features: list[Float[Tensor, "N _ _ _"]]) -> list[Float[Tensor, "N C _ _"]]:
        return [level(f) for level, f in zip(self.levels, features, strict=True)]
