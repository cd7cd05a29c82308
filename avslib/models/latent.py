"""Latent codes: Gaussian encoders, reparametrised sampling, and the injection of the codes into a map.

Prior encoders see what is given at test (image, audio), posterior encoders see the mask as well. `s_v` and `s_a` are
specific to vision and sound, `c` is shared by both.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from avslib.config import ModelConfig
from avslib.core.errors import UsageError
from avslib.core.shapes import require_shape

# encoder names of the two branches, in the order s_v, s_a, c
PRIOR = ("vs", "as", "vac")
POSTERIOR = ("vs_y", "as_y", "vac_y")

# None: the mean codes; a generator: one sample; a mapping from code name to eps [N, K]: that sample
Noise = torch.Generator | Mapping[str, Float[Tensor, "_ _"]] | None
# (mu, logvar)
Gaussian = tuple[Float[Tensor, "N K"], Float[Tensor, "N K"]]


def draw_noise(noise: Noise, name: str, like: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """Noise in the shape of `like`, N(0, 1): drawn, or the mapping's entry (of `training.noise.step_noise`, say)."""
    if noise is None or isinstance(noise, torch.Generator):
        device = like.device if noise is None else noise.device
        eps = torch.randn(like.shape, generator=noise, device=device, dtype=like.dtype)
        return eps.to(like.device, non_blocking=True)
    if name not in noise:
        raise UsageError(f"noise[{name!r}] is missing among {', '.join(noise)}; expected eps of each code")
    require_shape(f"noise[{name!r}]", noise[name], *like.shape)
    return noise[name].to(like.device, like.dtype)


def reparametrize(
    mu: Float[Tensor, "N K"], logvar: Float[Tensor, "N K"], eps: Float[Tensor, "N K"] | None
) -> Float[Tensor, "N K"]:
    """A sample; `eps` None gives the mean.

        z = mu + sigma epsilon where sigma = exp(logvar / 2)

    >>> reparametrize(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2))
    tensor([[1., 1.]])
    """
    return mu if eps is None else mu + torch.exp(0.5 * logvar) * eps


class ConvTrunk(nn.Module):
    """Five 4x4 convolutions with stride 2, each with BatchNorm and LeakyReLU(0.01); pooled to the size for which the
    linear layers behind it were built, and flattened."""

    def __init__(self, in_channels: int, channels: tuple[int, ...], image_size: int):
        super().__init__()
        convs = (nn.Conv2d(i, o, 4, stride=2, padding=1) for i, o in pairwise((in_channels, *channels)))
        layers = (layer for c in convs for layer in (c, nn.BatchNorm2d(c.out_channels), nn.LeakyReLU(0.01)))
        self.layers = nn.Sequential(*layers)
        self.grid = image_size // 2 ** len(channels)
        self.dim = channels[-1] * self.grid**2

    def forward(self, x: Float[Tensor, "N _ H W"]) -> Float[Tensor, "N D"]:
        x = self.layers(x)
        return (x if x.shape[-2:] == (self.grid, self.grid) else F.adaptive_avg_pool2d(x, self.grid)).flatten(1)


class CodeEncoder(nn.Module):
    """A Gaussian over a code, from what the encoder sees of image, audio embedding and, in the posterior, mask."""

    def __init__(self, m: ModelConfig, *, image: bool, audio: bool, mask: bool):
        super().__init__()
        self.sees_image, self.sees_audio = image, audio
        channels, seen = 3 * image + mask, m.audio_dim * audio
        if channels:
            widths = m.map_encoder_channels if audio else m.image_encoder_channels
            self.trunk = ConvTrunk(channels, widths, m.image_size)
            seen += m.map_vector if audio else self.trunk.dim
        if channels and audio:
            self.vector = nn.Linear(self.trunk.dim, m.map_vector)
        self.head = nn.ModuleDict({name: nn.Linear(seen, m.latent_dim) for name in ("mu", "logvar")})

    def forward(
        self, image: Float[Tensor, "N 3 H W"], audio: Float[Tensor, "N D"], mask: Float[Tensor, "N 1 H W"] | None
    ) -> Gaussian:
        maps = [x for x in (image if self.sees_image else None, mask) if x is not None]
        seen = [audio] if self.sees_audio else []
        if maps:
            x = self.trunk(torch.cat(maps, dim=1))
            seen.append(self.vector(x) if self.sees_audio else x)
        x = torch.cat(seen, dim=1)
        return self.head["mu"](x), self.head["logvar"](x)


class Injection(nn.Module):
    """Concatenates the fused codes, repeated over space, to a map; a 1x1 convolution brings it back to C channels."""

    def __init__(self, channels: int, latent_dim: int, codes: int = 2):
        super().__init__()
        self.conv = nn.Conv2d(channels + codes * latent_dim, channels, 1)

    def forward(self, x: Float[Tensor, "N C h w"], *codes: Float[Tensor, "N K"]) -> Float[Tensor, "N C h w"]:
        z = torch.cat(codes, dim=1)[:, :, None, None].expand(-1, -1, *x.shape[-2:])
        return self.conv(torch.cat([x, z], dim=1))
