"""A branch of the network, prior or posterior: what each has of its own, for every form of the latent codes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avslib.config import Config
from avslib.models.decoder import Decoder
from avslib.models.experts import product_of_experts
from avslib.models.latent import (
    PRIOR,
    AudioEncoder,
    AudioMapEncoder,
    Gaussian,
    ImageEncoder,
    Injection,
    Noise,
    draw_noise,
    reparametrize,
)
from avslib.models.neck import Neck

# model.latent -> name of a fused code -> the encoders whose codes it is made of
FUSED_CODES: dict[str, dict[str, tuple[str, ...]]] = {
    "factorised": {"sc_v": ("vs", "vac"), "sc_a": ("as", "vac")},
    "unfactorised": {"z": ("vs", "as")},
    "visual": {"z": ("vs",)},
    "none": {},
}
_LAYER = {"sc_v": "fuse_v", "sc_a": "fuse_a", "z": "fuse"}
_COARSEST = 3


@dataclass
class MIHeads:
    """What the Barber-Agakov bound compares: the Gaussian predicted from sc_v and the projection of sc_a, [N, M]."""

    mu: Float[Tensor, "N M"]
    logvar: Float[Tensor, "N M"]
    target: Float[Tensor, "N M"]


class Branch(nn.Module):
    """Encoders, fusion of the codes, heads of the mutual information, neck, injection and decoder.

    Args:
        config: its ``model`` section sizes the parts; ``latent``, ``code_fusion`` and ``injection`` choose them.
        levels: channels of the backbone's levels, fine to coarse.
        posterior: the encoders see the mask as well, and the names of all codes end in ``_y``.
    """

    def __init__(self, config: Config, levels: list[int], *, posterior: bool):
        super().__init__()
        m = config.model
        k, masks = m.latent_dim, int(posterior)
        self.suffix, self.fused_codes, self.where = "_y" * posterior, FUSED_CODES[m.latent], m.injection
        self.encoders = [name for name in PRIOR if any(name in parts for parts in self.fused_codes.values())]
        self.experts = m.code_fusion == "product_of_experts"
        audio_map = {
            "channels": m.map_encoder_channels,
            "image_size": m.image_size,
            "audio_dim": m.audio_dim,
            "vector": m.map_vector,
            "latent_dim": k,
        }
        if "vs" in self.encoders:
            self.encode_sv = ImageEncoder(3 + masks, m.image_encoder_channels, m.image_size, k)
        if "as" in self.encoders:
            self.encode_sa = AudioMapEncoder(1, **audio_map) if posterior else AudioEncoder(m.audio_dim, k)
        if "vac" in self.encoders:
            self.encode_c = AudioMapEncoder(3 + masks, **audio_map)
        for name, parts in self.fused_codes.items():
            if len(parts) > 1 and not self.experts:
                setattr(self, _LAYER[name], nn.Linear(len(parts) * k, k))
        if m.latent == "factorised":
            self.mi_mu = nn.Linear(k, m.mi_dim)
            self.mi_logvar = nn.Linear(k, m.mi_dim)
            self.mi_target = nn.Linear(k, m.mi_dim)
        self.neck = Neck(levels, m.channels, m.neck)
        if self.fused_codes:
            codes = len(self.fused_codes)
            if self.where == "all_levels":
                self.inject = nn.ModuleList(Injection(m.channels, k, codes) for _ in levels)
            else:
                self.inject = Injection(m.channels, k, codes)
        self.decoder = Decoder(m.channels)

    def encode(
        self, image: Float[Tensor, "N 3 H W"], audio: Float[Tensor, "N D"], mask: Float[Tensor, "N 1 H W"] | None
    ) -> dict[str, Gaussian]:
        """Gaussians of the codes by encoder name."""
        seen = image if mask is None else torch.cat([image, mask], dim=1)
        encode = {
            "vs": lambda: self.encode_sv(seen),
            "as": lambda: self.encode_sa(audio) if mask is None else self.encode_sa(audio, mask),
            "vac": lambda: self.encode_c(audio, seen),
        }
        return {name + self.suffix: encode[name]() for name in self.encoders}

    def draw(self, generator: torch.Generator, rows: int, latent_dim: int) -> dict[str, Float[Tensor, "N K"]]:
        """Noise for all that is sampled, by name: to be given as `noise`."""
        names = [*self.encoders, *(self.fused_codes if self.experts else ())]
        return {name + self.suffix: torch.randn(rows, latent_dim, generator=generator) for name in names}

    def sample(self, latents: Mapping[str, Gaussian], noise: Noise) -> dict[str, Float[Tensor, "N K"]]:
        """One sample of each Gaussian by name; its mean where `noise` is None."""
        eps = {name: None if noise is None else draw_noise(noise, name, mu) for name, (mu, _) in latents.items()}
        return {name: reparametrize(mu, logvar, eps[name]) for name, (mu, logvar) in latents.items()}

    def fuse_codes(
        self, latents: Mapping[str, Gaussian], codes: Mapping[str, Float[Tensor, "N K"]], noise: Noise
    ) -> dict[str, Float[Tensor, "N K"]]:
        """The fused codes by name: a linear layer of the samples, or a sample of the product of their Gaussians."""
        parts = {name + self.suffix: [p + self.suffix for p in found] for name, found in self.fused_codes.items()}
        if self.experts:
            products = {name: product_of_experts(*(latents[p] for p in found)) for name, found in parts.items()}
            return self.sample(products, noise)
        fused = {}
        for name, found in parts.items():
            z = torch.cat([codes[p] for p in found], dim=1)
            fused[name] = getattr(self, _LAYER[name.removesuffix("_y")])(z) if len(found) > 1 else z
        return fused

    def inject_codes(
        self, maps: list[Float[Tensor, "N C _ _"]], codes: Mapping[str, Tensor], *, fused: bool
    ) -> list[Float[Tensor, "N C _ _"]]:
        """The maps with the codes where they enter before the fusion (`fused` False) or after it."""
        if not codes or fused != (self.where == "decoder"):
            return maps
        z = list(codes.values())
        if self.where == "all_levels":
            return [inject(x, *z) for inject, x in zip(self.inject, maps, strict=True)]
        return [*maps[:_COARSEST], self.inject(maps[_COARSEST], *z)]

    def mutual_information(self, sc_v: Float[Tensor, "N K"], sc_a: Float[Tensor, "N K"]) -> MIHeads:
        return MIHeads(self.mi_mu(sc_v).tanh(), self.mi_logvar(sc_v).tanh(), self.mi_target(sc_a).tanh())
