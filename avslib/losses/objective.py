"""The whole objective: every term by name, and their weighted sum.

loss = seg_prior + seg_posterior + 0.5 (match_prior + match_posterior) + 0.01 (kl_sv + kl_sa + divergence_c)
       - 0.001 mi + 0.001 orthogonality, with the weights of ``config.loss``.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from avslib.config import Config
from avslib.core.errors import UsageError
from avslib.losses.kl import kl_loss
from avslib.losses.matching import matching_loss
from avslib.losses.mutual_information import mutual_information_bound
from avslib.losses.orthogonality import orthogonality_loss
from avslib.losses.segmentation import structure_loss
from avslib.losses.shared_code import shared_code_divergence
from avslib.models.ecmvae import ECMVAEOutput
from avslib.models.latent import Noise, draw_noise


def objective(
    output: ECMVAEOutput,
    mask: Float[Tensor, "N 1 H W"],
    config: Config,
    noise: Noise = None,
    *,
    sum_scale: float = 1.0,
    gather=None,
) -> dict[str, Tensor]:
    """All loss terms of one pass.

    With several processes the objective is the mean of what they get. The matching loss, a sum over the rows of the
    batch, is therefore multiplied by their number: the mean is then the sum over the rows of all, and the term weighs
    as much as in one process with the whole batch. The other terms are means over rows, but for the orthogonality: it
    sees the batches of all processes if ``train.sync_batch`` is set, else each process's own.

    In the same way the objective of a batch is the mean of those of its parts, weighted by their shares in it.

    Args:
        output: what the model gave for this mask.
        mask: 1 = sounding; rows that are not annotated (``output.annotated``) count in no term that needs a mask.
        config: its ``loss`` section chooses weights and forms.
        noise: of the divergence of c where it is sampled: None or a generator to draw it, or a mapping with
            ``js_prior`` and ``js_posterior`` [A, K].
        weight: share of these rows in the batch, where it goes through the network in parts.

    Returns:
        ``loss`` and its parts, unweighted: seg_prior, seg_posterior, match_prior, match_posterior, kl_sv, kl_sa,
        divergence_c, mi (the bound itself), orthogonality. Each is a scalar tensor. A model with fewer codes has fewer
        parts: no shared code, no divergence_c, mi and orthogonality; no codes, none of the posterior's.

    Raises:
        AvsError: the model was run without a mask, or shapes differ.
    """
    if output.logits_posterior is None and config.model.latent != "none":
        raise UsageError("objective: the output has no posterior; call the model with a mask")
    if mask.shape != output.logits.shape:
        raise UsageError(
            f"objective: mask has shape {tuple(mask.shape)}, expected {tuple(output.logits.shape)}, "
            "the shape of the logits"
        )
    # half precision is for the network; sums over pixels and exponentials of log-variances need float32
    with torch.autocast(output.logits.device.type, enabled=False):
        return _objective(output, mask, config, noise, sum_scale, gather)


def _objective(
    output: ECMVAEOutput, mask: Float[Tensor, "N 1 H W"], config: Config, noise: Noise, of_sums: float, gather
) -> dict[str, Tensor]:
    w, z = config.loss, output.codes
    rows = slice(None)
    if output.annotated is not None:  # found on the host, which would otherwise wait for the device
        rows = output.annotated.cpu().nonzero().squeeze(1).to(mask.device, non_blocking=True)
    mask = mask[rows].to(output.logits.dtype)
    parts = {"seg_prior": structure_loss(output.logits[rows], mask, w.structure_weighting)}
    # a posterior that ran on all rows, with the first mask repeated, is compared with the truth where there is one
    on_all = output.logits_posterior is not None and len(output.logits_posterior) != len(mask)
    if output.logits_posterior is not None:
        logits = output.logits_posterior[rows] if on_all else output.logits_posterior
        parts["seg_posterior"] = structure_loss(logits, mask, w.structure_weighting)
    parts["match_prior"] = of_sums * matching_loss(output.logits, output.fused["prior"], output.audio["prior"])
    if output.logits_posterior is not None:
        fused, audio = output.fused["posterior"], output.audio["posterior"]
        parts["match_posterior"] = of_sums * matching_loss(output.logits_posterior, fused, audio)
        prior = {
            name: (mu, logvar) if on_all else (mu[rows], logvar[rows])
            for name, (mu, logvar) in output.latents.items()
            if not name.endswith("_y")
        }
        parts |= {
            f"kl_{code}": kl_loss(output.latents[name + "_y"], prior[name], w.kl_scale)
            for code, name in (("sv", "vs"), ("sa", "as"))
            if name in prior
        }
    if config.model.latent == "factorised":
        prior_c, posterior_c = prior["vac"], output.latents["vac_y"]
        eps = [draw_noise(noise, name, posterior_c[0]) for name in ("js_prior", "js_posterior")]
        parts["divergence_c"] = shared_code_divergence(prior_c, posterior_c, w.divergence_c, *eps)
        parts["mi"] = sum(mutual_information_bound(m.mu, m.logvar, m.target, w.mi_bound) for m in output.mi.values())
        parts["orthogonality"] = sum(
            orthogonality_loss(z[s + y], z["vac" + y], gather) for s in ("vs", "as") for y in ("", "_y")
        )
    return {"loss": sum(_weights(config)[name] * value for name, value in parts.items()), **parts}


def _weights(config: Config) -> dict[str, float]:
    """The weight of each part in the loss; the bound on the mutual information is maximised."""
    w = config.loss
    return {
        "seg_prior": w.seg_prior,
        "seg_posterior": w.seg_posterior,
        "match_prior": w.match,
        "match_posterior": w.match,
        "kl_sv": w.kl,
        "kl_sa": w.kl,
        "divergence_c": w.kl,
        "mi": -w.mi,
        "orthogonality": w.orthogonality,
    }
