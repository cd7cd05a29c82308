"""The fusion from its formula, with the (THW)^2 matrix: a yardstick for `avslib.models.fusion`, never the model.

y = (theta^T phi / N) g over the N = T*H*W positions of a clip; out = LayerNorm(BatchNorm3d(W_z y) + map).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avslib.models.fusion import TPAVI


class QuadraticTPAVI(nn.Module):
    """Same parameters, inputs and outputs as :class:`avslib.models.fusion.TPAVI`, at quadratic time and memory."""

    def __init__(self, channels: int):
        super().__init__()
        self.theta = nn.Conv3d(channels, channels // 2, 1)
        self.phi = nn.Conv3d(channels, channels // 2, 1)
        self.g = nn.Conv3d(channels, channels // 2, 1)
        self.output = nn.Conv3d(channels // 2, channels, 1)
        self.batch_norm = nn.BatchNorm3d(channels)
        self.layer_norm = nn.LayerNorm(channels)

    @classmethod
    def like(cls, fusion: TPAVI) -> "QuadraticTPAVI":
        """A copy of `fusion` in this form, with its weights, statistics, dtype and mode."""
        reference = cls(fusion.layer_norm.normalized_shape[0]).to(fusion.theta.weight.dtype).train(fusion.training)
        shapes = {name: value.shape for name, value in reference.state_dict().items()}
        reference.load_state_dict({name: value.view(shapes[name]) for name, value in fusion.state_dict().items()})
        return reference

    def forward(
        self, x: Float[Tensor, "N C H W"], audio: Float[Tensor, "N C"], frames: int, groups: int = 1
    ) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, "N C"]]:
        if groups > 1:  # one part after the other, each with batch statistics of its own
            parts = zip(x.chunk(groups), audio.chunk(groups), strict=True)
            return tuple(torch.cat(part) for part in zip(*(self(*p, frames) for p in parts), strict=True))
        n, c, h, w = x.shape
        clips = n // frames
        v = x.view(clips, frames, c, h, w).transpose(1, 2)
        v = v / (v.square().sum(1, keepdim=True) + 1e-6).sqrt()
        a = audio.view(clips, frames, c).transpose(1, 2)
        a = a / (a.square().sum(1, keepdim=True) + 1e-6).sqrt()
        theta, g = self.theta(v).flatten(2), self.g(v).flatten(2)
        phi = self.phi(a[..., None, None].expand_as(v)).flatten(2)
        attention = theta.transpose(1, 2) @ phi / theta.shape[2]
        y = (attention @ g.transpose(1, 2)).transpose(1, 2).reshape(clips, c // 2, frames, h, w)
        z = self.batch_norm(self.output(y)) + v
        out = self.layer_norm(z.permute(0, 2, 3, 4, 1)).permute(0, 1, 4, 2, 3)
        return out.reshape(n, c, h, w), a.transpose(1, 2).reshape(n, c)
