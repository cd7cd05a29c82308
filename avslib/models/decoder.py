"""Decoder: refines and sums the four fused levels from coarse to fine, and draws the logits."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from avslib.core.numerics import upsample_conv


class ResidualConvUnit(nn.Module):
    """x + two times (3x3 convolution, BatchNorm, ReLU)."""

    def __init__(self, channels: int):
        super().__init__()
        convs = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.layers = nn.Sequential(*(layer for c in convs for layer in (c, nn.BatchNorm2d(channels), nn.ReLU())))

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        return x + self.layers(x)


class Decoder(nn.Module):
    """Four levels, fine to coarse, [N, C, H / s, W / s] for s = 4, 8, 16, 32, to logits at the size of the image."""

    def __init__(self, channels: int, levels: int = 4):
        super().__init__()
        # the coarsest level has nothing to add, so it has no skip unit
        self.skip = nn.ModuleList(ResidualConvUnit(channels) for _ in range(levels - 1))
        self.refine = nn.ModuleList(ResidualConvUnit(channels) for _ in range(levels))
        self.head_in = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.head_mid = nn.Conv2d(channels // 2, channels // 4, 3, padding=1)
        self.head_out = nn.Conv2d(channels // 4, 1, 1)

    def forward(self, maps: list[Float[Tensor, "N C _ _"]]) -> Float[Tensor, "N 1 H W"]:
        coarsest, *finer = reversed(maps)
        x = self.refine[0](coarsest)
        for skip, refine, level in zip(self.skip, list(self.refine)[1:], finer, strict=True):
            x = refine(_double(x) + skip(level))
        x = upsample_conv(x, self.head_in)
        return self.head_out(F.relu(upsample_conv(x, self.head_mid)))


def _double(x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C 2*H 2*W"]:
    return F.interpolate(x, scale_factor=2, mode="nearest")
