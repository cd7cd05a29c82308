"""The whole objective: every term by name, and their weighted sum.

loss = seg_prior + seg_posterior + 0.5 (match_prior + match_posterior) + 0.01 (kl_sv + kl_sa + divergence_c)
       - 0.001 mi + 0.001 orthogonality, with the weights of ``config.loss``.
"""

from collections.abc import Callable
from functools import reduce

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
from avslib.models.latent import PRIOR, Noise, draw_noise


def objective(
    output: ECMVAEOutput,
    mask: Float[Tensor, "N 1 H W"],
    config: Config,
    noise: Noise = None,
    *,
    sum_scale: float = 1.0,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """All loss terms of one pass.

    Args:
        output: what the model gave for this mask.
        mask: 1 = sounding; rows that are not annotated (``output.annotated``) count in no term that needs a mask.
        config: its ``loss`` section chooses weights and forms.
        noise: of the divergence of c where it is sampled: None or a generator to draw it, or a mapping with
            ``js_prior`` and ``js_posterior`` [A, K].
        sum_scale: factor of the matching terms, which are sums over rows while all others are means. Where the loss is
            averaged over P processes, P makes them the sum over the rows of all.
        gather: of :func:`orthogonality_loss`, to take it over the batches of all processes.

    Returns:
        ``loss`` and its parts, unweighted: seg_prior, seg_posterior, match_prior, match_posterior, kl_sv, kl_sa,
        divergence_c, mi (the bound itself), orthogonality. A model with fewer codes has fewer parts: no shared code, no
        divergence_c, mi and orthogonality; no codes, none of the posterior's.

    Raises:
        UsageError: the model was run without a mask, or shapes differ.
    """
    if output.logits_posterior is None and config.model.latent != "none":
        raise UsageError("objective: the output has no posterior; call the model with a mask")
    if mask.shape != output.logits.shape:
        raise UsageError(
            f"objective: mask has shape {tuple(mask.shape)}, expected {tuple(output.logits.shape)}, "
            "the shape of the logits"
        )
    w, z = config.loss, output.codes
    weights = {"seg_prior": w.seg_prior, "seg_posterior": w.seg_posterior}
    weights |= dict.fromkeys(("match_prior", "match_posterior"), w.match)
    weights |= dict.fromkeys(("kl_sv", "kl_sa", "divergence_c"), w.kl)
    weights |= {"mi": -w.mi, "orthogonality": w.orthogonality}  # the bound on the mutual information is maximised
    # half precision is for the network; sums over pixels and exponentials of log-variances need float32
    with torch.autocast(output.logits.device.type, enabled=False):
        rows = output.annotated
        truth = mask[rows].to(output.logits.dtype)
        # a posterior that ran on all rows is compared with the truth where there is one
        on_all = output.logits_posterior is not None and len(output.logits_posterior) != len(truth)
        parts = {"seg_prior": structure_loss(output.logits[rows], truth, w.structure_weighting)}
        parts["match_prior"] = sum_scale * matching_loss(output.logits, output.fused["prior"], output.audio["prior"])
        if output.logits_posterior is not None:
            logits, fused, audio = output.logits_posterior, output.fused["posterior"], output.audio["posterior"]
            parts["seg_posterior"] = structure_loss(logits[rows] if on_all else logits, truth, w.structure_weighting)
            parts["match_posterior"] = sum_scale * matching_loss(logits, fused, audio)
        # Gaussians of prior and posterior, of the rows that the posterior ran on
        posterior = {name: output.latents[name + "_y"] for name in PRIOR if name + "_y" in output.latents}
        prior = {name: output.latents[name] for name in posterior}
        if not on_all:
            prior = {name: (mu[rows], logvar[rows]) for name, (mu, logvar) in prior.items()}
        for code, name in {"sv": "vs", "sa": "as"}.items():
            if name in posterior:
                parts[f"kl_{code}"] = kl_loss(posterior[name], prior[name], w.kl_scale)
        if "vac" in posterior:
            eps = [draw_noise(noise, name, posterior["vac"][0]) for name in ("js_prior", "js_posterior")]
            parts["divergence_c"] = shared_code_divergence(prior["vac"], posterior["vac"], w.divergence_c, *eps)
            bounds = [mutual_information_bound(m.mu, m.logvar, m.target, w.mi_bound) for m in output.mi.values()]
            parts["mi"] = reduce(torch.add, bounds)
            specific = (("vs", "vac"), ("vs_y", "vac_y"), ("as", "vac"), ("as_y", "vac_y"))
            parts["orthogonality"] = reduce(torch.add, (orthogonality_loss(z[s], z[c], gather) for s, c in specific))
    parts = {name: parts[name] for name in weights if name in parts}
    return {"loss": reduce(torch.add, (weights[name] * value for name, value in parts.items())), **parts}
