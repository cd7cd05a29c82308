"""A branch of the network, prior or posterior: its encoders, codes, neck and decoder, for every form of the codes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avslib.config import ModelConfig
from avslib.models.alternatives import product_of_experts
from avslib.models.decoder import Decoder
from avslib.models.latent import PRIOR, CodeEncoder, Gaussian, Injection, Noise, draw_noise, reparametrize
from avslib.models.neck import Neck

Codes = dict[str, Float[Tensor, "N K"]]
Maps = list[Float[Tensor, "N C _ _"]]

# model.latent -> name of a fused code -> the encoders whose codes it is made of
FUSED_CODES: dict[str, dict[str, tuple[str, ...]]] = {
    "factorised": {"sc_v": ("vs", "vac"), "sc_a": ("as", "vac")},
    "unfactorised": {"z": ("vs", "as")},
    "visual": {"z": ("vs",)},
    "none": {},
}


@dataclass
class MIHeads:
    """What the Barber-Agakov bound compares: the Gaussian predicted from sc_v and the projection of sc_a."""

    mu: Float[Tensor, "N M"]
    logvar: Float[Tensor, "N M"]
    target: Float[Tensor, "N M"]


@dataclass
class Inferred:
    """A branch before the fusion: Gaussians, samples and fused codes by name, maps fine to coarse, heads of the MI."""

    latents: dict[str, Gaussian]
    codes: Codes
    fused_codes: Codes
    maps: Maps
    mi: MIHeads | None


class Branch(nn.Module):
    """Encoders, fusion of the codes, heads of the mutual information, neck, injection and decoder.

    Args:
        m: sizes of the parts; ``latent``, ``code_fusion`` and ``injection`` choose them.
        levels: channels of the backbone's levels, fine to coarse.
        posterior: the encoders see the mask as well, and the names of all codes end in ``_y``.
    """

    def __init__(self, m: ModelConfig, levels: list[int], *, posterior: bool):
        super().__init__()
        k, masks, y = m.latent_dim, int(posterior), "_y" * posterior
        self.latent, self.where, self.experts = m.latent, m.injection, m.code_fusion == "product_of_experts"
        self.fused_codes = {n + y: tuple(p + y for p in parts) for n, parts in FUSED_CODES[m.latent].items()}
        self.encoders = [n + y for n in PRIOR if any(n + y in parts for parts in self.fused_codes.values())]

        if m.latent != "none":
            self.encode_sv = CodeEncoder(m, maps=3 + masks, audio=False)
        if m.latent in ("factorised", "unfactorised"):
            self.encode_sa = CodeEncoder(m, maps=masks, audio=True)
        if m.latent == "factorised":
            self.encode_c = CodeEncoder(m, maps=3 + masks, audio=True)
            if not self.experts:
                self.fuse_v, self.fuse_a = nn.Linear(2 * k, k), nn.Linear(2 * k, k)
            self.mi_mu, self.mi_logvar, self.mi_target = (nn.Linear(k, m.mi_dim) for _ in range(3))
        if m.latent == "unfactorised" and not self.experts:
            self.fuse = nn.Linear(2 * k, k)
        self.neck = Neck(levels, m.channels, m.neck)
        if self.fused_codes:
            everywhere, codes = m.injection == "all_levels", len(self.fused_codes)
            injections = [Injection(m.channels, k, codes) for _ in (levels if everywhere else levels[:1])]
            self.inject: nn.Module = nn.ModuleList(injections) if everywhere else injections[0]
        self.decoder = Decoder(m.channels)

    def infer(
        self,
        features: list[Float[Tensor, "N _ _ _"]],
        image: Float[Tensor, "N 3 H W"],
        audio: Float[Tensor, "N D"],
        mask: Float[Tensor, "N 1 H W"] | None,
        noise: Noise,
    ) -> Inferred:
        """Sample the codes and bring them and the backbone's features to the maps that are fused with the audio."""
        latents = self.encode(image, audio, mask)
        codes = self.sample(latents, noise)
        fused_codes = self.fuse_codes(latents, codes, noise)
        mi = self.mutual_information(*fused_codes.values()) if self.latent == "factorised" else None
        maps = self.inject_codes(self.neck(features), fused_codes, fused=False)
        return Inferred(latents, codes, fused_codes, maps, mi)

    def decode(self, maps: Maps, codes: Mapping[str, Tensor]) -> Float[Tensor, "N 1 H W"]:
        """Logits of the fused maps."""
        return self.decoder(self.inject_codes(maps, codes, fused=True))

    def encode(
        self, image: Float[Tensor, "N 3 H W"], audio: Float[Tensor, "N D"], mask: Float[Tensor, "N 1 H W"] | None
    ) -> dict[str, Gaussian]:
        """Gaussians of the codes by encoder name."""
        seen = image if mask is None else torch.cat([image, mask], dim=1)
        latents = {}
        if self.latent != "none":
            latents["vs"] = self.encode_sv(seen, audio)
        if self.latent in ("factorised", "unfactorised"):
            latents["as"] = self.encode_sa(mask, audio)
        if self.latent == "factorised":
            latents["vac"] = self.encode_c(seen, audio)
        return dict(zip(self.encoders, latents.values(), strict=True))

    @property
    def sampled(self) -> list[str]:
        """Names of the codes that noise is drawn for, in the order in which it is drawn."""
        return [*self.encoders, *(self.fused_codes if self.experts else ())]

    def sample(self, latents: Mapping[str, Gaussian], noise: Noise) -> Codes:
        """One sample of each Gaussian by name; its mean where `noise` is None."""
        return {
            name: reparametrize(mu, logvar, None if noise is None else draw_noise(noise, name, mu))
            for name, (mu, logvar) in latents.items()
        }

    def fuse_codes(self, latents: Mapping[str, Gaussian], codes: Mapping[str, Tensor], noise: Noise) -> Codes:
        """The fused codes by name: a linear layer of the samples, or a sample of the product of their Gaussians."""
        if self.experts:
            products = {z: product_of_experts(*(latents[p] for p in parts)) for z, parts in self.fused_codes.items()}
            return self.sample(products, noise)
        if self.latent == "factorised":
            s_v, s_a, c = codes.values()
            fused = [self.fuse_v(torch.cat([s_v, c], dim=1)), self.fuse_a(torch.cat([s_a, c], dim=1))]
        elif self.latent == "unfactorised":
            fused = [self.fuse(torch.cat(list(codes.values()), dim=1))]
        else:
            fused = list(codes.values())
        return dict(zip(self.fused_codes, fused, strict=True))

    def inject_codes(self, maps: Maps, codes: Mapping[str, Tensor], *, fused: bool) -> Maps:
        """The maps with the codes where they enter before the fusion (`fused` False) or after it."""
        if not codes or fused != (self.where == "decoder"):
            return maps
        z = list(codes.values())
        if isinstance(self.inject, nn.ModuleList):
            return [inject(x, *z) for inject, x in zip(self.inject, maps, strict=True)]
        return [*maps[:-1], self.inject(maps[-1], *z)]

    def mutual_information(self, sc_v: Float[Tensor, "N K"], sc_a: Float[Tensor, "N K"]) -> MIHeads:
        return MIHeads(self.mi_mu(sc_v).tanh(), self.mi_logvar(sc_v).tanh(), self.mi_target(sc_a).tanh())
