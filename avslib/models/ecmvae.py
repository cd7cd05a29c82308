"""ECMVAE: explicit conditional multimodal variational auto-encoder for audio-visual segmentation.

Mao, Zhang, Xiang, Zhong, Dai: Multimodal Variational Auto-encoder based Audio-Visual Segmentation, ICCV 2023.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from avslib.config import Config
from avslib.errors import AvsError
from avslib.models.backbones import STRIDES, Backbone
from avslib.models.decoder import Decoder
from avslib.models.fusion import TPAVI
from avslib.models.hub import Pretrained
from avslib.models.latent import (
    POSTERIOR,
    PRIOR,
    AudioEncoder,
    AudioMapEncoder,
    ImageEncoder,
    Injection,
    Noise,
    draw_noise,
    reparametrize,
)
from avslib.models.neck import Neck

__all__ = ["ECMVAE", "Branch", "ECMVAEOutput", "MIHeads"]


@dataclass
class MIHeads:
    """What the Barber-Agakov bound compares: the Gaussian predicted from sc_v and the projection of sc_a, [N, M]."""

    mu: Float[Tensor, "N M"]
    logvar: Float[Tensor, "N M"]
    target: Float[Tensor, "N M"]


@dataclass
class ECMVAEOutput:
    """Everything that a loss, a metric or a figure needs from one pass.

    Attributes:
        logits: [N, 1, H, W], prior branch; what the model predicts.
        logits_posterior: [A, 1, H, W], posterior branch on the A annotated rows (all N, or fewer); None without mask.
        latents: encoder name (vs, as, vac and, with mask, vs_y, as_y, vac_y) -> (mu, logvar), each [N or A, K].
        codes: encoder name -> sampled z, and sc_v, sc_a, sc_v_y, sc_a_y -> fused codes, each [N or A, K].
        fused: "prior" and "posterior" -> the four fused maps, fine to coarse.
        audio: "prior" and "posterior" -> the normalised audio vector of each row, [N or A, C].
        mi: "prior" and "posterior" -> inputs of the mutual-information bound.
        annotated: rows with a mask, [N] bool; None when all have one.
    """

    logits: Float[Tensor, "N 1 H W"]
    logits_posterior: Float[Tensor, "A 1 H W"] | None = None
    latents: dict[str, tuple[Float[Tensor, "_ K"], Float[Tensor, "_ K"]]] = field(default_factory=dict)
    codes: dict[str, Float[Tensor, "_ K"]] = field(default_factory=dict)
    fused: dict[str, list[Float[Tensor, "_ C _ _"]]] = field(default_factory=dict)
    audio: dict[str, Float[Tensor, "_ C"]] = field(default_factory=dict)
    mi: dict[str, MIHeads] = field(default_factory=dict)
    annotated: Bool[Tensor, "N"] | None = None


class Branch(nn.Module):
    """What prior and posterior each have of their own: encoders, code fusion, MI heads, neck, injection, decoder."""

    def __init__(self, config: Config, levels: list[int], *, posterior: bool):
        super().__init__()
        m = config.model
        k, masks = m.latent_dim, int(posterior)
        self.names = POSTERIOR if posterior else PRIOR
        audio_map = {
            "channels": m.map_encoder_channels, "image_size": m.image_size, "audio_dim": m.audio_dim,
            "vector": m.map_vector, "latent_dim": k,
        }  # fmt: skip
        self.encode_sv = ImageEncoder(3 + masks, m.image_encoder_channels, m.image_size, k)
        self.encode_sa = AudioMapEncoder(1, **audio_map) if posterior else AudioEncoder(m.audio_dim, k)
        self.encode_c = AudioMapEncoder(3 + masks, **audio_map)
        self.fuse_v = nn.Linear(2 * k, k)
        self.fuse_a = nn.Linear(2 * k, k)
        self.mi_mu = nn.Linear(k, m.mi_dim)
        self.mi_logvar = nn.Linear(k, m.mi_dim)
        self.mi_target = nn.Linear(k, m.mi_dim)
        self.neck = Neck(levels, m.channels, m.neck)
        self.inject = Injection(m.channels, k)
        self.decoder = Decoder(m.channels)

    def encode(
        self, image: Float[Tensor, "N 3 H W"], audio: Float[Tensor, "N D"], mask: Float[Tensor, "N 1 H W"] | None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Gaussians of s_v, s_a and c under the branch's encoder names."""
        seen = image if mask is None else torch.cat([image, mask], dim=1)
        s_a = self.encode_sa(audio) if mask is None else self.encode_sa(audio, mask)
        return dict(zip(self.names, (self.encode_sv(seen), s_a, self.encode_c(audio, seen)), strict=True))

    def mutual_information(self, sc_v: Float[Tensor, "N K"], sc_a: Float[Tensor, "N K"]) -> MIHeads:
        return MIHeads(self.mi_mu(sc_v).tanh(), self.mi_logvar(sc_v).tanh(), self.mi_target(sc_a).tanh())


class ECMVAE(nn.Module, Pretrained):
    """The full model.

    Args:
        config: a whole :class:`avslib.config.Config`; its ``model`` section sizes the network.

    Example:
        >>> from avslib.config import load_config
        >>> model = ECMVAE(load_config("mini", ["model.pretrained=false"])).eval()
        >>> out = model(torch.zeros(5, 3, 160, 160), torch.zeros(5, 128))
        >>> tuple(out.logits.shape), out.logits_posterior
        ((5, 1, 160, 160), None)
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        m = config.model
        self.backbone = Backbone(m.backbone, m.pretrained)
        # the fusion multiplies audio and map channel by channel, so both need the same length
        self.audio_projection = nn.Identity() if m.audio_dim == m.channels else nn.Linear(m.audio_dim, m.channels)
        self.fusion = nn.ModuleList(TPAVI(m.channels) for _ in STRIDES)
        self.prior = Branch(config, self.backbone.channels, posterior=False)
        self.posterior = Branch(config, self.backbone.channels, posterior=True)

    def normalize(self, image: Tensor) -> Float[Tensor, "N 3 H W"]:
        """RGB of 0..255, [N, 3, H, W], to the range that the backbone's weights were trained on."""
        return (image.to(self.backbone.mean.dtype) / 255 - self.backbone.mean) / self.backbone.std

    def forward(
        self,
        image: Float[Tensor, "N 3 H W"],
        audio: Float[Tensor, "N D"],
        mask: Float[Tensor, "N 1 H W"] | None = None,
        *,
        frames: int = 5,
        noise: Noise = None,
        annotated: Bool[Tensor, "N"] | None = None,
        features: list[Float[Tensor, "N _ _ _"]] | None = None,
    ) -> ECMVAEOutput:
        """Predict logits; with a mask, run the posterior branch as well.

        Args:
            image: normalised frames (see :meth:`normalize`), N = clips * frames rows; H and W divisible by 32.
            audio: embedding of each frame's second.
            mask: 1 where a sounding object is; needed for training only.
            frames: T, rows a clip.
            noise: None for the mean codes, a generator for one sample, or eps by encoder name.
            annotated: rows whose mask is known (S4: the first of each clip); None when all are. The posterior runs on
                these alone, and each clip must have equally many.
            features: what the backbone gives for `image`, where it is known already (several samples of one clip).

        Raises:
            AvsError: shapes that do not fit each other, `frames` or the configuration.
        """
        _validate(image, audio, mask, frames, annotated, self.config.model.audio_dim)
        if not self.config.model.use_audio:
            audio = torch.zeros_like(audio)
        features = self.backbone(image) if features is None else features
        projected = self.audio_projection(audio)
        output = ECMVAEOutput(logits=image.new_empty(0), annotated=annotated)
        latents = self.prior.encode(image, audio, None)
        output.logits = self._run(self.prior, "prior", features, projected, latents, frames, noise, output)
        if mask is not None:
            if annotated is not None:
                rows, frames = _annotated_rows(annotated, frames)
                features = [f.index_select(0, rows) for f in features]
                image, audio, mask, projected = (x.index_select(0, rows) for x in (image, audio, mask, projected))
            latents = self.posterior.encode(image, audio, mask.to(image.dtype))
            output.logits_posterior = self._run(
                self.posterior, "posterior", features, projected, latents, frames, noise, output
            )
        return output

    def _run(
        self,
        branch: Branch,
        name: str,
        features: list[Tensor],
        audio: Tensor,
        latents: dict,
        frames: int,
        noise: Noise,
        output: ECMVAEOutput,
    ) -> Float[Tensor, "N 1 H W"]:
        """Sample, inject, fuse and decode one branch; intermediate results go into `output`."""
        eps = {key: None if noise is None else draw_noise(noise, key, mu) for key, (mu, _) in latents.items()}
        codes = {key: reparametrize(mu, logvar, eps[key]) for key, (mu, logvar) in latents.items()}
        s_v, s_a, c = (codes[key] for key in branch.names)
        sc_v = branch.fuse_v(torch.cat([s_v, c], dim=1))
        sc_a = branch.fuse_a(torch.cat([s_a, c], dim=1))
        maps = branch.neck(features)
        maps[-1] = branch.inject(maps[-1], sc_v, sc_a)
        fused, audios = zip(*(f(x, audio, frames) for f, x in zip(self.fusion, maps, strict=True)), strict=True)
        suffix = "_y" if name == "posterior" else ""
        output.latents |= latents
        output.codes |= codes | {"sc_v" + suffix: sc_v, "sc_a" + suffix: sc_a}
        output.fused[name], output.audio[name] = list(fused), audios[0]
        output.mi[name] = branch.mutual_information(sc_v, sc_a)
        return branch.decoder(fused)


def _annotated_rows(annotated: Bool[Tensor, "N"], frames: int) -> tuple[Tensor, int]:
    """Indices of the annotated rows, and how many each clip has."""
    counts = annotated.view(-1, frames).sum(1)
    if counts.min() != counts.max() or counts[0] == 0:
        raise AvsError(
            f"annotated: every clip needs the same number of annotated frames, at least one; found {counts.tolist()}"
        )
    return annotated.nonzero().squeeze(1), int(counts[0])


def _validate(
    image: Tensor, audio: Tensor, mask: Tensor | None, frames: int, annotated: Tensor | None, audio_dim: int
) -> None:
    n = len(image)
    if image.ndim != 4 or image.shape[1] != 3:
        raise AvsError(f"image has shape {tuple(image.shape)}, expected [N, 3, H, W]")
    if frames < 1 or n % frames:
        raise AvsError(f"image has {n} rows, which is no multiple of frames={frames}; pass whole clips")
    if audio.shape != (n, audio_dim):
        raise AvsError(f"audio has shape {tuple(audio.shape)}, expected [{n}, {audio_dim}], one embedding a frame")
    if mask is not None and mask.shape != (n, 1, *image.shape[-2:]):
        raise AvsError(f"mask has shape {tuple(mask.shape)}, expected {(n, 1, *image.shape[-2:])}")
    if annotated is not None and annotated.shape != (n,):
        raise AvsError(f"annotated has shape {tuple(annotated.shape)}, expected [{n}]")
