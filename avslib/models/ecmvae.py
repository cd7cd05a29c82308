"""ECMVAE: explicit conditional multimodal variational auto-encoder for audio-visual segmentation.

Mao, Zhang, Xiang, Zhong, Dai: Multimodal Variational Auto-encoder based Audio-Visual Segmentation, ICCV 2023.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from avslib.config import Config
from avslib.core.errors import UsageError
from avslib.models.backbones import STRIDES, Backbone
from avslib.models.branch import Branch, MIHeads
from avslib.models.correlation_gate import CorrelationGate
from avslib.models.fusion import TPAVI
from avslib.models.latent import Gaussian, Noise
from avslib.weights.hub import Pretrained


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
        fusion = {"tpavi": TPAVI, "correlation_gate": CorrelationGate}[m.fusion]
        self.fusion = nn.ModuleList(fusion(m.channels) for _ in STRIDES)
        self.prior = Branch(config, self.backbone.channels, posterior=False)
        # without codes there is nothing to infer from a mask
        self.posterior = None if m.latent == "none" else Branch(config, self.backbone.channels, posterior=True)

    def normalize(self, image: Tensor) -> Float[Tensor, "N 3 H W"]:
        """RGB of 0..255, [N, 3, H, W], to the range that the backbone's weights were trained on."""
        return (image.to(self.backbone.mean.dtype) / 255 - self.backbone.mean) / self.backbone.std

    def noise_shapes(self, rows: int, posterior_rows: int = 0) -> dict[str, tuple[int, int]]:
        """Shape of every eps that a step draws, by name, in the order in which a generator would draw them."""
        m = self.config.model
        names = {b: [*b.encoders, *(b.fused_codes if b.experts else ())] for b in (self.prior, self.posterior) if b}
        shapes = dict.fromkeys(names[self.prior], (rows, m.latent_dim))
        if self.posterior is not None and posterior_rows:
            shapes |= {name + "_y": (posterior_rows, m.latent_dim) for name in names[self.posterior]}
            if m.latent == "factorised":
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
        posterior_mask: str = "annotated",
        features: list[Float[Tensor, "N _ _ _"]] | None = None,
    ) -> ECMVAEOutput:
        """Predict logits; with a mask, run the posterior branch as well.

        Args:
            image: normalised frames (see :meth:`normalize`), N = clips * frames rows; H and W divisible by 32.
            audio: embedding of each frame's second.
            mask: 1 where a sounding object is; needed for training only.
            frames: T, rows a clip.
            noise: None for the mean codes, a generator for one sample, or eps by encoder name.
            annotated: rows whose mask is known (S4: the first of each clip), best on the host, which reads them; None
                when all are. The posterior runs on these alone, or on all with the clip's first mask
                (``data.posterior_mask``); each clip must have equally many.
            features: what the backbone gives for `image`, where it is known already (several samples of one clip).

        Raises:
            AvsError: shapes that do not fit each other, `frames` or the configuration; in training, a single row so
                small that batch norm has no statistics.
        """
        _validate(image, audio, mask, frames, annotated, self.config.model.audio_dim)
        self._require_statistics(image)
        if not self.config.model.use_audio:
            audio = torch.zeros_like(audio)
        features = self.backbone(image) if features is None else features
        projected = self.audio_projection(audio)
        output = ECMVAEOutput(logits=image.new_empty(0), annotated=annotated)
        latents = self.prior.encode(image, audio, None)
        runs = [self._encoded("prior", features, projected, latents, frames, noise, output)]
        if mask is not None and self.posterior is not None:
            if annotated is not None:
                rows, masks, frames = _posterior_rows(annotated, frames, posterior_mask, image.device)
                mask = mask.index_select(0, masks)
                if rows is not None:
                    features = [f.index_select(0, rows) for f in features]
                    image, audio, projected = (x.index_select(0, rows) for x in (image, audio, projected))
                    self._require_statistics(image)
            latents = self.posterior.encode(image, audio, mask.to(image.dtype))
            runs.append(self._encoded("posterior", features, projected, latents, frames, noise, output))
        logits = {}
        for run, (fused, normalised) in zip(runs, self._fuse(runs), strict=True):
            output.fused[run.name], output.audio[run.name] = fused, normalised
            logits[run.name] = run.branch.decoder(run.branch.inject_codes(fused, run.codes, fused=True))
        output.logits, output.logits_posterior = logits["prior"], logits.get("posterior")
        return output

    def _require_statistics(self, image: Float[Tensor, "N 3 H W"]) -> None:
        """Raise where the coarsest level has one value a channel, of which there is no variance."""
        n, _, h, w = image.shape
        if not self.training or n * h * w != STRIDES[-1] ** 2:
            return
        if any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.training for m in self.modules()):
            raise UsageError(
                f"training on one frame of {h}x{w} pixels leaves batch norm a single value a channel; take more clips "
                "a step (train.batch_size) or larger images (model.image_size), or call model.eval()"
            )

    def _encoded(
        self,
        name: str,
        features: list[Tensor],
        audio: Tensor,
        latents: dict[str, Gaussian],
        frames: int,
        noise: Noise,
        output: ECMVAEOutput,
    ) -> "_Run":
        """Sample the codes of one branch and inject them into its neck's maps; `output` gets the codes."""
        branch: Branch = getattr(self, name)
        codes = branch.sample(latents, noise)
        fused_codes = branch.fuse_codes(latents, codes, noise)
        output.latents |= latents
        output.codes |= codes | fused_codes
        if self.config.model.latent == "factorised":
            output.mi[name] = branch.mutual_information(*fused_codes.values())
        maps = branch.inject_codes(branch.neck(features), fused_codes, fused=False)
        return _Run(name, branch, maps, audio, fused_codes, frames)

    def _fuse(self, runs: list["_Run"]) -> list[tuple[list[Float[Tensor, "_ C _ _"]], Float[Tensor, "_ C"]]]:
        """Fused maps and normalised audio of each branch. They share the fusion's weights, so that one pass does for
        both where their clips are alike."""
        if len({(run.frames, len(run.audio)) for run in runs}) > 1:
            return [pair for run in runs for pair in self._fuse([run])]
        audio, count, levels = torch.cat([run.audio for run in runs]), len(runs), [run.maps for run in runs]
        pairs = [f(torch.cat(x), audio, runs[0].frames, count) for f, *x in zip(self.fusion, *levels, strict=True)]
        parts, audios = [fused.chunk(count) for fused, _ in pairs], pairs[0][1].chunk(count)
        return [([part[i] for part in parts], audios[i]) for i in range(count)]


@dataclass
class _Run:
    """One branch between its encoders and its decoder: maps and audio to be fused, `frames` rows a clip."""

    name: str
    branch: Branch
    maps: list[Float[Tensor, "_ C _ _"]]
    audio: Float[Tensor, "_ C"]
    codes: dict[str, Float[Tensor, "_ K"]]
    frames: int


def _posterior_rows(
    annotated: Bool[Tensor, "N"], frames: int, masks: str, device: torch.device
) -> tuple[Tensor | None, Tensor, int]:
    """Rows that the posterior runs on (None: all), the row whose mask each of them sees, and how many a clip has.

    annotated: the annotated rows with their own masks; first_repeated: all rows with their clip's first mask.
    """
    annotated = annotated.cpu()
    counts = annotated.view(-1, frames).sum(1)
    if counts.min() != counts.max() or counts[0] == 0:
        raise UsageError(
            f"annotated: every clip needs the same number of annotated frames, at least one; found {counts.tolist()}"
        )
    rows, per_clip = annotated.nonzero().squeeze(1), int(counts[0])
    if masks == "first_repeated":
        return None, rows[::per_clip].repeat_interleave(frames).to(device, non_blocking=True), frames
    rows = rows.to(device, non_blocking=True)
    return rows, rows, per_clip


def _validate(
    image: Tensor, audio: Tensor, mask: Tensor | None, frames: int, annotated: Tensor | None, audio_dim: int
) -> None:
    n = len(image)
    if image.ndim != 4 or image.shape[1] != 3:
        raise UsageError(f"image has shape {tuple(image.shape)}, expected [N, 3, H, W]")
    if frames < 1 or n % frames:
        raise UsageError(f"image has {n} rows, which is no multiple of frames={frames}; pass whole clips")
    if audio.shape != (n, audio_dim):
        raise UsageError(f"audio has shape {tuple(audio.shape)}, expected [{n}, {audio_dim}], one embedding a frame")
    if mask is not None and mask.shape != (n, 1, *image.shape[-2:]):
        raise UsageError(f"mask has shape {tuple(mask.shape)}, expected {(n, 1, *image.shape[-2:])}")
    if annotated is not None and annotated.shape != (n,):
        raise UsageError(f"annotated has shape {tuple(annotated.shape)}, expected [{n}]")
