"""Latent codes: Gaussian encoders, reparametrised sampling, and the injection of the codes into a map.

Prior encoders see what is given at test (image, audio), posterior encoders see the mask as well. `s_v` and `s_a` are
specific to vision and sound, `c` is shared by both.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from avslib.config import ModelConfig
from avslib.core.errors import UsageError

# encoder names of the two branches, in the order s_v, s_a, c
PRIOR = ("vs", "as", "vac")
POSTERIOR = ("vs_y", "as_y", "vac_y")

# None: the mean codes; a generator: one sample; a mapping from code name to eps [N, K]: that sample
Noise = torch.Generator | Mapping[str, Float[Tensor, "_ K"]] | None
# (mu, logvar)
Gaussian = tuple[Float[Tensor, "N K"], Float[Tensor, "N K"]]


def draw_noise(noise: Noise, name: str, like: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """Standard-normal noise in the shape of `like`: the mapping's entry `name`, or drawn (None: torch's own generator).

    Raises:
        UsageError: the mapping lacks `name`, or its entry has another shape.
    """
    if noise is None or isinstance(noise, torch.Generator):
        device = like.device if noise is None else noise.device
        eps = torch.randn(like.shape, generator=noise, device=device, dtype=like.dtype)
        return eps.to(like.device, non_blocking=True)
    if name not in noise:
        raise UsageError(
            f"noise lacks {name!r}; it has {', '.join(sorted(noise))}; add eps of shape {tuple(like.shape)}"
        )
    eps = torch.as_tensor(noise[name], dtype=like.dtype, device=like.device)
    if eps.shape != like.shape:
        raise UsageError(f"noise[{name!r}] has shape {tuple(eps.shape)}, expected {tuple(like.shape)}")
    return eps


def reparametrize(
    mu: Float[Tensor, "N K"], logvar: Float[Tensor, "N K"], eps: Float[Tensor, "N K"] | None
) -> Float[Tensor, "N K"]:
    """z = mu + exp(logvar / 2) * eps; `eps` None gives the mean.

    >>> reparametrize(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2))
    tensor([[1., 1.]])
    """
    return mu if eps is None else mu + torch.exp(0.5 * logvar) * eps


class ConvTrunk(nn.Module):
    """Five 4x4 convolutions with stride 2, each with BatchNorm and LeakyReLU(0.01), flattened.

    The fully connected layers behind it were built for one image size; maps of another size are average-pooled to it.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...], image_size: int):
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out in zip((in_channels, *channels[:-1]), channels, strict=True):
            layers += [nn.Conv2d(c_in, c_out, 4, stride=2, padding=1), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.01)]
        self.layers = nn.Sequential(*layers)
        self.grid = image_size // 2 ** len(channels)
        self.dim = channels[-1] * self.grid**2

    def forward(self, x: Float[Tensor, "N _ H W"]) -> Float[Tensor, "N D"]:
        x = self.layers(x)
        if x.shape[-2:] != (self.grid, self.grid):
            x = F.adaptive_avg_pool2d(x, self.grid)
        return x.flatten(1)


class GaussianHead(nn.Module):
    """Two linear layers: mean and log-variance."""

    def __init__(self, in_dim: int, latent_dim: int):
        super().__init__()
        self.mu = nn.Linear(in_dim, latent_dim)
        self.logvar = nn.Linear(in_dim, latent_dim)

    def forward(self, x: Float[Tensor, "N D"]) -> Gaussian:
        return self.mu(x), self.logvar(x)


class CodeEncoder(nn.Module):
    """A Gaussian over a code, from a map (image, mask or both), the audio embedding, or the two together.

    Args:
        m: sizes of the layers.
        maps: channels of the map; 0 where the encoder sees none.
        audio: whether it sees the embedding.
    """

    def __init__(self, m: ModelConfig, *, maps: int, audio: bool):
        super().__init__()
        self.sees_map, self.sees_audio = maps > 0, audio
        seen = m.audio_dim if audio else 0
        if maps:
            self.trunk = ConvTrunk(maps, m.map_encoder_channels if audio else m.image_encoder_channels, m.image_size)
            seen += m.map_vector if audio else self.trunk.dim
        if maps and audio:
            self.vector = nn.Linear(self.trunk.dim, m.map_vector)
        self.head = GaussianHead(seen, m.latent_dim)

    def forward(self, x: Float[Tensor, "N _ H W"] | None, audio: Float[Tensor, "N D"]) -> Gaussian:
        if not self.sees_audio:
            return self.head(self.trunk(x))
        return self.head(torch.cat([audio, self.vector(self.trunk(x))], dim=1) if self.sees_map else audio)


class Injection(nn.Module):
    """Concatenates the fused codes, repeated over space, to a map; a 1x1 convolution brings it back to C channels."""

    def __init__(self, channels: int, latent_dim: int, codes: int = 2):
        super().__init__()
        self.conv = nn.Conv2d(channels + codes * latent_dim, channels, 1)

    def forward(self, x: Float[Tensor, "N C h w"], *codes: Float[Tensor, "N K"]) -> Float[Tensor, "N C h w"]:
        z = torch.cat(codes, dim=1)[:, :, None, None].expand(-1, -1, *x.shape[-2:])
        return self.conv(torch.cat([x, z], dim=1))
