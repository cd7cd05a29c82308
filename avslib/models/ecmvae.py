"""ECMVAE: explicit conditional multimodal variational auto-encoder for audio-visual segmentation.

Mao, Zhang, Xiang, Zhong, Dai: Multimodal Variational Auto-encoder based Audio-Visual Segmentation, ICCV 2023.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from avslib.config import Config, load_config
from avslib.core.checkpoints import Pretrained
from avslib.core.errors import UsageError
from avslib.core.shapes import require_clips
from avslib.models.alternatives import CorrelationGate
from avslib.models.backbones import STRIDES, Backbone
from avslib.models.branch import Branch, Maps, MIHeads
from avslib.models.fusion import TPAVI
from avslib.models.latent import Noise
from avslib.models.sampling import clip_codes, decode_by_posterior


@dataclass
class ECMVAEOutput:
    """Everything that a loss, a metric or a plot needs from one pass over N rows.

    The posterior has A rows: the annotated ones, or all N. Codes and Gaussians go by encoder (vs, as, vac, and with a
    mask vs_y, as_y, vac_y), fused codes by sc_v, sc_a, sc_v_y, sc_a_y; other forms of ``model.latent`` have fewer.
    """

    logits: Float[Tensor, "N 1 H W"]
    # None without a mask or without codes
    logits_posterior: Float[Tensor, "A 1 H W"] | None = None
    # (mu, logvar) of each code
    latents: dict[str, tuple[Float[Tensor, "_ K"], Float[Tensor, "_ K"]]] = field(default_factory=dict)
    codes: dict[str, Float[Tensor, "_ K"]] = field(default_factory=dict)
    # of "prior" and "posterior": fused maps, normalised audio, and what the mutual-information bound compares
    fused: dict[str, Maps] = field(default_factory=dict)
    audio: dict[str, Float[Tensor, "_ C"]] = field(default_factory=dict)
    mi: dict[str, MIHeads] = field(default_factory=dict)
    # numbers of the rows whose mask is known, or a slice of all of them
    annotated: Int[Tensor, "_"] | slice = field(default_factory=lambda: slice(None))
    # of samples of the prior's codes through the posterior's decoder
    logits_samples: Float[Tensor, "S A 1 H W"] | None = None


@dataclass
class Rows:
    """What a branch sees, `frames` rows per clip; only the posterior sees a mask."""

    image: Float[Tensor, "N 3 H W"]
    audio: Float[Tensor, "N D"]
    projected: Float[Tensor, "N C"]
    features: list[Float[Tensor, "N _ _ _"]]
    frames: int
    mask: Float[Tensor, "N 1 H W"] | None = None


class ECMVAE(Pretrained):
    """The full model; the ``model`` section of `config` sizes the network.

    >>> model = ECMVAE(load_config("mini", ["model.pretrained=false"])).eval()
    >>> out = model(torch.zeros(5, 3, 160, 160), torch.zeros(5, 128))
    >>> tuple(out.logits.shape), out.logits_posterior
    ((5, 1, 160, 160), None)
    """

    read_config = staticmethod(load_config)

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        m = config.model
        self.backbone = Backbone(m.backbone, m.pretrained)
        # the fusion multiplies audio and map channel by channel, so both need the same length
        self.audio_projection = nn.Identity() if m.audio_dim == m.channels else nn.Linear(m.audio_dim, m.channels)
        fusion = {"tpavi": TPAVI, "correlation_gate": CorrelationGate}[m.fusion]
        self.fusion = nn.ModuleList(fusion(m.channels) for _ in STRIDES)
        self.prior = Branch(m, self.backbone.channels, posterior=False)
        # without codes there is nothing to infer from a mask
        self.posterior = None if m.latent == "none" else Branch(m, self.backbone.channels, posterior=True)

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
        posterior_mask: Literal["annotated", "first_repeated"] = "annotated",
        features: list[Float[Tensor, "N _ _ _"]] | None = None,
        samples: int = 0,
    ) -> ECMVAEOutput:
        """Predict logits; with a mask, run the posterior branch as well. Shapes that do not fit raise a UsageError.

        Args:
            image: normalised frames (see :meth:`normalize`), N = clips * frames rows; H and W divisible by 32.
            audio: embedding of each frame's second.
            mask: 1 where a sounding object is; needed for training only.
            frames: T, rows per clip.
            noise: None for the mean codes, a generator for one sample, or eps by name (`training.noise.noise_shapes`).
            annotated: rows whose mask is known, equally many per clip (S4: the first), best on the host; None: all.
            posterior_mask: ``annotated``: the posterior runs on these rows; ``first_repeated``: on all rows, with the
                clip's first known mask.
            features: the backbone's features of `image`, where they are known (several samples of one clip).
            samples: with a mask, also decode so many samples of the prior's codes by the posterior.
        """
        require_clips(image, audio, mask, annotated, frames, self.config.model.audio_dim)
        audio = audio if self.config.model.use_audio else torch.zeros_like(audio)
        features = self.backbone(image) if features is None else features
        rows = Rows(image, audio, self.audio_projection(audio), features, frames)
        by_clip = None if annotated is None else _annotated_by_clip(annotated, frames, image.device)
        out = ECMVAEOutput(image.new_empty(0, 1, 1, 1), annotated=slice(None) if by_clip is None else by_clip.flatten())
        branches = {"prior": self.prior}
        if mask is not None and self.posterior is not None:
            branches["posterior"] = self.posterior

        encoded = self.prior.encode(image, audio, None)
        corrected, q = self.config.model.sampling == "corrected", self.posterior
        if q is not None and mask is None and noise is not None and corrected:
            codes, levels = clip_codes(encoded, noise, frames), q.neck(features)
            drawn = decode_by_posterior(q, self.fusion, codes, levels, rows.projected, self._span(rows))
            return replace(out, logits=drawn, latents=encoded, codes=codes)

        seen, plain, maps = {}, {}, {}
        for name, branch in branches.items():
            if mask is not None and branch is self.posterior:
                rows = _posterior_rows(rows, mask.to(image.dtype), by_clip, posterior_mask)
            latents = encoded if branch is self.prior else branch.encode(rows.image, rows.audio, rows.mask)
            codes = branch.sample(latents, noise)
            fused_codes = branch.fuse_codes(latents, codes, noise)
            if branch.latent == "factorised":
                out.mi[name] = branch.mutual_information(*fused_codes.values())
            plain[name] = branch.neck(rows.features)
            seen[name], maps[name] = rows, branch.inject_codes(plain[name], fused_codes, fused=False)
            out.latents |= latents
            out.codes |= codes | fused_codes
        self._fuse(maps, seen, out)
        logits = {
            name: branch.decoder(branch.inject_codes(out.fused[name], out.codes, fused=True))
            for name, branch in branches.items()
        }
        if samples and q is not None and mask is not None:  # `rows` are the posterior's
            known = out.annotated if len(rows.image) < len(image) else slice(None)
            prior = {name: (mu[known], logvar[known]) for name, (mu, logvar) in encoded.items()}
            codes, span = clip_codes(prior, noise, rows.frames, samples), self._span(rows)
            drawn = decode_by_posterior(q, self.fusion, codes, plain["posterior"], rows.projected, span)
            out.logits_samples = drawn.unflatten(0, (samples, -1))
        return replace(out, logits=logits["prior"], logits_posterior=logits.get("posterior"))

    def _span(self, rows: Rows) -> int:
        return rows.frames if self.config.model.fusion_span == "clip" else 1

    def _fuse(self, maps: dict[str, Maps], rows: dict[str, Rows], out: ECMVAEOutput) -> None:
        """Fuse the maps of each branch with its audio. The branches share the fusion's weights, so one pass serves both
        where their clips are alike."""
        alike = len({(len(r.audio), r.frames) for r in rows.values()}) == 1
        for together in [list(rows)] if alike else [[name] for name in rows]:
            audio = torch.cat([rows[name].projected for name in together])
            frames = self._span(rows[together[0]])
            levels = zip(self.fusion, *(maps[name] for name in together), strict=True)
            fused, heard = zip(*(f(torch.cat(x), audio, frames, len(together)) for f, *x in levels), strict=True)
            by_branch = zip(*(x.chunk(len(together)) for x in fused), strict=True)
            out.fused |= {name: list(x) for name, x in zip(together, by_branch, strict=True)}
            out.audio |= dict(zip(together, heard[0].chunk(len(together)), strict=True))


def _annotated_by_clip(annotated: Bool[Tensor, "N"], frames: int, device: torch.device) -> Int[Tensor, "B A"]:
    """Numbers of each clip's annotated rows."""
    annotated = annotated.cpu()
    counts = annotated.view(-1, frames).sum(1)
    if counts.min() != counts.max() or counts[0] == 0:
        raise UsageError(f"annotated: expected equally many frames of each clip, at least one; found {counts.tolist()}")
    return annotated.nonzero().view(len(counts), -1).to(device, non_blocking=True)


def _posterior_rows(rows: Rows, mask: Tensor, by_clip: Tensor | None, posterior_mask: str) -> Rows:
    """The rows with their masks: all, all with their clip's first known mask, or the annotated ones."""
    if by_clip is None:
        return replace(rows, mask=mask)
    if posterior_mask == "first_repeated":
        firsts = by_clip[:, :1].expand(-1, rows.frames).flatten()
        return replace(rows, mask=mask.index_select(0, firsts))
    inputs = (rows.image, rows.audio, rows.projected, mask, *rows.features)
    image, audio, projected, mask, *features = (x.index_select(0, by_clip.flatten()) for x in inputs)
    return Rows(image, audio, projected, features, by_clip.shape[1], mask)
