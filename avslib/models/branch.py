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
# of the four levels, fine to coarse
Maps = list[Float[Tensor, "_ C _ _"]]
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


class Branch(nn.Module):
    """Encoders, fusion of the codes, heads of the mutual information, neck, injection and decoder.

    `levels` are the channels of the backbone, fine to coarse. The posterior's encoders see the mask as well, and the
    names of its codes end in ``_y``.
    """

    def __init__(self, m: ModelConfig, levels: list[int], *, posterior: bool):
        super().__init__()
        k, y = m.latent_dim, "_y" if posterior else ""
        self.latent, self.where, self.experts = m.latent, m.injection, m.code_fusion == "product_of_experts"
        self.fused_codes = {n + y: tuple(p + y for p in parts) for n, parts in FUSED_CODES[m.latent].items()}
        self.encoders = [n + y for n in PRIOR if any(n + y in parts for parts in self.fused_codes.values())]

        def encoder(name: str, *, image: bool, audio: bool) -> CodeEncoder | None:
            return CodeEncoder(m, image=image, audio=audio, mask=posterior) if name + y in self.encoders else None

        self.encode_sv = encoder("vs", image=True, audio=False)
        self.encode_sa = encoder("as", image=False, audio=True)
        self.encode_c = encoder("vac", image=True, audio=True)
        if m.latent == "factorised":
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

    @property
    def sampled(self) -> list[str]:
        """Names of the codes that noise is drawn for, in the order in which it is drawn."""
        return [*self.encoders, *(self.fused_codes if self.experts else ())]

    def encode(
        self, image: Float[Tensor, "N 3 H W"], audio: Float[Tensor, "N D"], mask: Float[Tensor, "N 1 H W"] | None
    ) -> dict[str, Gaussian]:
        """Gaussians of the codes by encoder name."""
        encoders = [encode for encode in (self.encode_sv, self.encode_sa, self.encode_c) if encode is not None]
        return {name: encode(image, audio, mask) for name, encode in zip(self.encoders, encoders, strict=True)}

    def sample(self, latents: Mapping[str, Gaussian], noise: Noise) -> Codes:
        """One sample of each Gaussian by name; its mean if `noise` is None."""
        return {
            name: reparametrize(mu, logvar, None if noise is None else draw_noise(noise, name, mu))
            for name, (mu, logvar) in latents.items()
        }

    def fuse_codes(self, latents: Mapping[str, Gaussian], codes: Mapping[str, Tensor], noise: Noise) -> Codes:
        """The fused codes by name: a linear layer of the samples, or a sample of the product of their Gaussians."""
        if self.experts:
            products = {z: product_of_experts(*(latents[p] for p in parts)) for z, parts in self.fused_codes.items()}
            return self.sample(products, noise)
        joined = {z: torch.cat([codes[p] for p in parts], dim=1) for z, parts in self.fused_codes.items()}
        if self.latent not in ("factorised", "unfactorised"):
            return joined
        layers = [self.fuse_v, self.fuse_a] if self.latent == "factorised" else [self.fuse]
        return {name: layer(z) for layer, (name, z) in zip(layers, joined.items(), strict=True)}

    def mutual_information(self, sc_v: Float[Tensor, "N K"], sc_a: Float[Tensor, "N K"]) -> MIHeads:
        return MIHeads(self.mi_mu(sc_v).tanh(), self.mi_logvar(sc_v).tanh(), self.mi_target(sc_a).tanh())

    def inject_codes(self, maps: Maps, codes: Mapping[str, Tensor], *, fused: bool) -> Maps:
        """The maps with the fused ones of `codes`, where these enter before the fusion (`fused` False) or after it."""
        if not self.fused_codes or fused != (self.where == "decoder"):
            return maps
        z = [codes[name] for name in self.fused_codes]
        if isinstance(self.inject, nn.ModuleList):
            return [inject(x, *z) for inject, x in zip(self.inject, maps, strict=True)]
        return [*maps[:-1], self.inject(maps[-1], *z)]
