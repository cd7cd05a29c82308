"""ECMVAE: explicit conditional multimodal variational auto-encoder for audio-visual segmentation.

Mao, Zhang, Xiang, Zhong, Dai: Multimodal Variational Auto-encoder based Audio-Visual Segmentation, ICCV 2023.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from avslib.config import Config, load_config
from avslib.core.errors import UsageError
from avslib.core.hub import Pretrained
from avslib.models.alternatives import CorrelationGate
from avslib.models.backbones import STRIDES, Backbone
from avslib.models.branch import Branch, Inferred, MIHeads
from avslib.models.fusion import TPAVI
from avslib.models.latent import Noise

# four maps, fine to coarse
Levels = list[Float[Tensor, "_ C _ _"]]


@dataclass
class ECMVAEOutput:
    """Everything that a loss, a metric or a figure needs from one pass.

    Attributes:
        logits: [N, 1, H, W], prior branch; what the model predicts.
        logits_posterior: [A, 1, H, W], posterior branch on its A rows: the annotated ones, or all N; None without mask
            or without codes.
        latents: encoder name (vs, as, vac and, with mask, vs_y, as_y, vac_y) -> (mu, logvar), each [N or A, K].
        codes: encoder name -> sampled z, and sc_v, sc_a, sc_v_y, sc_a_y -> fused codes, each [N or A, K]; other forms
            of ``model.latent`` have fewer encoders, and one fused code, z.
        fused: "prior" and "posterior" -> the four fused maps, fine to coarse.
        audio: "prior" and "posterior" -> the normalised audio vector of each row, [N or A, C].
        mi: "prior" and "posterior" -> inputs of the mutual-information bound, for factorised codes.
        annotated: index of the rows whose mask is known: their numbers, or ``slice(None)`` when all have one.
    """

    logits: Float[Tensor, "N 1 H W"]
    logits_posterior: Float[Tensor, "_ 1 H W"] | None = None
    latents: dict[str, tuple[Float[Tensor, "_ K"], Float[Tensor, "_ K"]]] = field(default_factory=dict)
    codes: dict[str, Float[Tensor, "_ K"]] = field(default_factory=dict)
    fused: dict[str, Levels] = field(default_factory=dict)
    audio: dict[str, Float[Tensor, "_ C"]] = field(default_factory=dict)
    mi: dict[str, MIHeads] = field(default_factory=dict)
    annotated: Int[Tensor, "_"] | slice = field(default_factory=lambda: slice(None))


@dataclass
class _Run:
    """One branch between its encoders and its decoder: the audio it is fused with, `frames` rows per clip."""

    branch: Branch
    inferred: Inferred
    audio: Float[Tensor, "_ C"]
    frames: int


class ECMVAE(Pretrained):
    """The full model.

    Args:
        config: a whole :class:`avslib.config.Config`; its ``model`` section sizes the network.

    Example:
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

    def noise_shapes(self, rows: int, posterior_rows: int = 0) -> dict[str, tuple[int, int]]:
        """Shape of every eps that a step draws, by name, in the order in which a generator would draw them.

        Args:
            rows: N, rows of the batch.
            posterior_rows: A, rows that the posterior runs on: the annotated ones, or all of them where it sees each
                clip's first mask in every frame; 0 without masks.
        """
        m = self.config.model
        shapes = dict.fromkeys(self.prior.sampled, (rows, m.latent_dim))
        if self.posterior is not None and posterior_rows:
            shapes |= dict.fromkeys(self.posterior.sampled, (posterior_rows, m.latent_dim))
            if m.latent == "factorised":  # the objective samples c
                shapes |= dict.fromkeys(("js_prior", "js_posterior"), (posterior_rows, m.latent_dim))
        return shapes

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
    ) -> ECMVAEOutput:
        """Predict logits; with a mask, run the posterior branch as well.

        Args:
            image: normalised frames (see :meth:`normalize`), N = clips * frames rows; H and W divisible by 32.
            audio: embedding of each frame's second.
            mask: 1 where a sounding object is; needed for training only.
            frames: T, rows per clip.
            noise: None for the mean codes, a generator for one sample, or eps by name (see :meth:`noise_shapes`).
            annotated: rows whose mask is known (S4: the first of each clip), best on the host, which reads them; None
                when all are. Each clip must have equally many.
            posterior_mask: ``annotated``: the posterior runs on these rows; ``first_repeated``: on all rows, with the
                clip's first known mask.
            features: the backbone's features of `image`, where they are known already (several samples of one clip).

        Raises:
            UsageError: shapes that do not fit each other, `frames` or the configuration; in training, a single row so
                small that batch norm has no statistics.
        """
        _validate(image, audio, mask, frames, annotated, self.config.model.audio_dim)
        self._require_statistics(image)
        if not self.config.model.use_audio:
            audio = torch.zeros_like(audio)
        features = self.backbone(image) if features is None else features
        projected = self.audio_projection(audio)
        runs = [_Run(self.prior, self.prior.infer(features, image, audio, None, noise), projected, frames)]
        known: Tensor | slice = slice(None)
        if annotated is not None:
            by_clip = _annotated_by_clip(annotated, frames)
            known = by_clip.flatten().to(image.device, non_blocking=True)
        if mask is not None and self.posterior is not None:
            if annotated is not None and posterior_mask == "first_repeated":
                firsts = by_clip[:, :1].expand(-1, frames).flatten()
                mask = mask.index_select(0, firsts.to(mask.device, non_blocking=True))
            elif annotated is not None:
                frames = by_clip.shape[1]
                rows = (x.index_select(0, known) for x in (image, audio, mask, projected, *features))
                image, audio, mask, projected, *features = rows
                self._require_statistics(image)
            codes = self.posterior.infer(features, image, audio, mask.to(image.dtype), noise)
            runs.append(_Run(self.posterior, codes, projected, frames))
        fused, normalised = self._fuse(runs)
        logits = [r.branch.decode(x, r.inferred.fused_codes) for r, x in zip(runs, fused, strict=True)]
        names = ("prior", "posterior")[: len(runs)]
        return ECMVAEOutput(
            logits[0],
            logits[1] if len(runs) > 1 else None,
            latents={name: gaussian for r in runs for name, gaussian in r.inferred.latents.items()},
            codes={name: z for r in runs for name, z in (r.inferred.codes | r.inferred.fused_codes).items()},
            fused=dict(zip(names, fused, strict=True)),
            audio=dict(zip(names, normalised, strict=True)),
            mi={name: r.inferred.mi for name, r in zip(names, runs, strict=True) if r.inferred.mi is not None},
            annotated=known,
        )

    def _fuse(self, runs: list[_Run]) -> tuple[list[Levels], list[Float[Tensor, "_ C"]]]:
        """Fused maps and normalised audio of each branch. The branches share the fusion's weights, so one pass serves
        both where their clips are alike."""
        if len({(len(run.audio), run.frames) for run in runs}) > 1:
            fused, normalised = zip(*(self._fuse([run]) for run in runs), strict=True)
            return [x for (x,) in fused], [a for (a,) in normalised]
        audio, groups = torch.cat([run.audio for run in runs]), len(runs)
        levels = zip(self.fusion, *(run.inferred.maps for run in runs), strict=True)
        pairs = [fusion(torch.cat(x), audio, runs[0].frames, groups) for fusion, *x in levels]
        by_branch = zip(*(fused.chunk(groups) for fused, _ in pairs), strict=True)
        return [list(x) for x in by_branch], list(pairs[0][1].chunk(groups))

    def _require_statistics(self, image: Tensor) -> None:
        """Raise where the coarsest level has one value per channel, of which there is no variance."""
        n, _, h, w = image.shape
        own = any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.training for m in self.modules())
        if self.training and n * h * w == STRIDES[-1] ** 2 and own:
            raise UsageError(
                f"training on one frame of {h}x{w} pixels leaves batch norm a single value per channel; take more "
                "clips per step (train.batch_size) or larger images (model.image_size), or call model.eval()"
            )


def _annotated_by_clip(annotated: Bool[Tensor, "N"], frames: int) -> Int[Tensor, "B A"]:
    """Numbers of each clip's annotated rows, on the host."""
    annotated = annotated.cpu()
    counts = annotated.view(-1, frames).sum(1)
    if counts.min() != counts.max() or counts[0] == 0:
        raise UsageError(
            f"annotated: every clip needs the same number of annotated frames, at least one; found {counts.tolist()}"
        )
    return annotated.nonzero().view(len(counts), -1)


def _validate(
    image: Tensor, audio: Tensor, mask: Tensor | None, frames: int, annotated: Tensor | None, audio_dim: int
) -> None:
    n = len(image)
    if image.ndim != 4 or image.shape[1] != 3:
        raise UsageError(f"image has shape {tuple(image.shape)}, expected [N, 3, H, W]")
    if frames < 1 or n % frames:
        raise UsageError(f"image has {n} rows, not a multiple of frames={frames}; pass whole clips")
    expected = {"audio": (n, audio_dim), "mask": (n, 1, *image.shape[-2:]), "annotated": (n,)}
    for (name, shape), x in zip(expected.items(), (audio, mask, annotated), strict=True):
        if x is not None and x.shape != shape:
            raise UsageError(f"{name} has shape {tuple(x.shape)}, expected {list(shape)}")
