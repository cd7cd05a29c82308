"""Samples of the prior's codes that the posterior decodes: the corrected form of ``model.sampling``.

The prior's own decoder is trained on codes that are independent of the mask given image and sound, so by convexity of
the loss its optimum ignores them. The posterior's decoder has learnt to read a code; Kohl et al.: A Probabilistic U-Net
for Segmentation of Ambiguous Images, NeurIPS 2018, draws masks from it in this way. Noise is drawn once per clip.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from avslib.models.branch import Branch, Maps
from avslib.models.latent import Gaussian, Noise, draw_noise, reparametrize

Samples = dict[str, Float[Tensor, "SN K"]]


def clip_codes(latents: Mapping[str, Gaussian], noise: Noise, frames: int, samples: int | None = None) -> Samples:
    """A code of each Gaussian [N, K] by name, with the noise of each clip's first row; with `samples`, as many of each
    row, [samples N, K], sample by sample, whose noise is named ``NAME_samples`` [N, samples K]."""
    codes = {}
    for name, (mu, logvar) in latents.items():
        count, key = (1, name) if samples is None else (samples, f"{name}_samples")
        eps = draw_noise(noise, key, mu.repeat(1, count))[::frames].repeat_interleave(frames, 0)
        eps = eps.unflatten(1, (count, -1)).transpose(0, 1).flatten(0, 1)
        codes[name] = reparametrize(mu.repeat(count, 1), logvar.repeat(count, 1), eps)
    return codes


def decode_by_posterior(
    posterior: Branch, fusion: nn.ModuleList, codes: Samples, maps: Maps, audio: Float[Tensor, "N C"], span: int
) -> Float[Tensor, "SN 1 H W"]:
    """Logits of S samples of the prior's codes for N rows, given the maps of the posterior's neck and the projected
    audio of these rows; the fusion sees `span` rows together."""
    samples = len(next(iter(codes.values()))) // len(audio)
    fused_codes = posterior.fuse_codes({}, {f"{name}_y": code for name, code in codes.items()}, None)
    audio, maps = audio.repeat(samples, 1), [x.repeat(samples, 1, 1, 1) for x in maps]
    maps = posterior.inject_codes(maps, fused_codes, fused=False)
    fused = [fuse(x, audio, span, samples)[0] for fuse, x in zip(fusion, maps, strict=True)]
    return posterior.decoder(posterior.inject_codes(fused, fused_codes, fused=True))
