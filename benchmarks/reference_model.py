"""ECMVAE in its plain form: what `avslib.models.ecmvae` must equal, at the cost of doing each step as it is defined.

The fusion has its (THW)^2 matrix and runs once a branch, attention in the backbone its whole matrix, the decoder's head
convolves the doubled map, the boundary weight is one 31x31 average, and the frozen audio network runs in each pass.
"""

from unittest import mock

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from avslib.config import Config
from avslib.losses import objective
from avslib.models.branch import Branch
from avslib.models.decoder import Decoder
from avslib.models.ecmvae import ECMVAE, ECMVAEOutput
from avslib.models.latent import Gaussian, Noise
from benchmarks.reference_fusion import QuadraticTPAVI


class ReferenceECMVAE(nn.Module):
    """The plain form of `model`, under the same parameter names.

    It takes the model's own modules over, so that weights are shared; attention in the backbone is switched to its
    plain form in place: give a copy of a model that is used further.

    Args:
        model: with the fusion ``tpavi``.
        audio_network: log-mel patches [N, 1, 96, 64] to embeddings [N, D], frozen.
    """

    def __init__(self, model: ECMVAE, audio_network: nn.Module):
        super().__init__()
        self.config = model.config
        self.backbone, self.audio_projection = model.backbone, model.audio_projection
        self.fusion = nn.ModuleList(QuadraticTPAVI.like(f).to(f.theta.weight.device) for f in model.fusion)
        self.prior, self.posterior = model.prior, model.posterior
        self.audio_network = audio_network
        for module in self.backbone.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False

    def forward(
        self,
        image: Float[Tensor, "N 3 H W"],
        patches: Float[Tensor, "N 1 96 64"],
        mask: Float[Tensor, "N 1 H W"] | None = None,
        *,
        frames: int = 5,
        noise: Noise = None,
    ) -> ECMVAEOutput:
        """As :meth:`ECMVAE.forward`, of the sound itself in place of its embedding; all rows are annotated."""
        with torch.no_grad():
            audio = self.audio_network(patches)
        features, projected = self.backbone(image), self.audio_projection(audio)
        output = ECMVAEOutput(logits=image.new_empty(0, 1, 1, 1))
        latents = self.prior.encode(image, audio, None)
        output.logits = self._branch("prior", self.prior, features, projected, latents, frames, noise, output)
        if mask is not None:
            latents = self.posterior.encode(image, audio, mask)
            output.logits_posterior = self._branch(
                "posterior", self.posterior, features, projected, latents, frames, noise, output
            )
        return output

    def _branch(
        self,
        name: str,
        branch: Branch,
        features: list[Tensor],
        audio: Tensor,
        latents: dict[str, Gaussian],
        frames: int,
        noise: Noise,
        output: ECMVAEOutput,
    ) -> Float[Tensor, "N 1 H W"]:
        codes = branch.sample(latents, noise)
        fused_codes = branch.fuse_codes(latents, codes, noise)
        maps = branch.inject_codes(
            [neck(x) for neck, x in zip(branch.neck.levels, features, strict=True)], fused_codes, fused=False
        )
        pairs = [fusion(x, audio, frames) for fusion, x in zip(self.fusion, maps, strict=True)]
        output.latents |= latents
        output.codes |= codes | fused_codes
        output.fused[name], output.audio[name] = [fused for fused, _ in pairs], pairs[0][1]
        output.mi[name] = branch.mutual_information(*fused_codes.values())
        return plain_decoder(branch.decoder, branch.inject_codes(output.fused[name], fused_codes, fused=True))


def plain_decoder(decoder: Decoder, maps: list[Float[Tensor, "N C _ _"]]) -> Float[Tensor, "N 1 H W"]:
    """The decoder with every map doubled before the convolution that follows."""

    def double(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")

    fine = list(maps)
    x = decoder.refine[0](fine.pop())
    for i, skip in enumerate(decoder.skip):
        x = decoder.refine[i + 1](double(x) + skip(fine.pop()))
    x = decoder.head_in(double(x))
    return decoder.head_out(F.relu(decoder.head_mid(double(x))))


def plain_boundary_weight(mask: Float[Tensor, "N 1 H W"]) -> Float[Tensor, "N 1 H W"]:
    """w = 1 + 5 |average over 31x31, zeros outside - y|."""
    return 1 + 5 * (F.avg_pool2d(mask, 31, stride=1, padding=15) - mask).abs()


def reference_objective(
    output: ECMVAEOutput, mask: Float[Tensor, "N 1 H W"], config: Config, noise: Noise
) -> dict[str, Tensor]:
    """The objective with the plain boundary weight."""
    with mock.patch("avslib.losses.segmentation.boundary_weight", plain_boundary_weight):
        return objective(output, mask, config, noise=noise)
