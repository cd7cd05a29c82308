"""The whole objective: every term by name, and their weighted sum.

    loss = seg_prior + seg_posterior
    + 0.5 (match_prior + match_posterior)
    + 0.01 (kl_sv + kl_sa + divergence_c)
    - 0.001 mi + 0.001 orthogonality

The weights are those of ``config.loss``, here with their defaults; ``seg_samples`` joins where it has one.
"""

from collections.abc import Callable, Mapping
from functools import partial, reduce

import torch
from jaxtyping import Float
from torch import Tensor

from avslib.config import Config
from avslib.core.errors import UsageError
from avslib.core.shapes import require_shape
from avslib.losses.kl import kl_loss
from avslib.losses.matching import matching_loss
from avslib.losses.mutual_information import mutual_information_bound
from avslib.losses.orthogonality import correlation_loss, orthogonality_loss
from avslib.losses.segmentation import sample_loss, structure_loss
from avslib.losses.shared_code import shared_code_divergence
from avslib.models.ecmvae import ECMVAEOutput
from avslib.models.latent import Gaussian, Noise, draw_noise


def objective(
    output: ECMVAEOutput,
    mask: Float[Tensor, "N 1 H W"],
    config: Config,
    noise: Noise = None,
    *,
    sum_scale: float = 1.0,
    gather: Callable[[Tensor], Tensor] | None = None,
    progress: float = 1.0,
    earlier: Mapping[str, Tensor] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """``loss`` and its terms, unweighted, of what the model gave for `mask`; fewer codes have fewer terms.

    Args:
        mask: 1 = sounding; rows without annotation (``output.annotated``) count in no term that needs a mask.
        config: its ``loss`` section chooses weights and forms.
        noise: for the sampled forms of divergence_c: None or a generator to draw it, or a mapping with ``js_prior`` and
            ``js_posterior`` [A, K].
        sum_scale: factor of the matching terms, which are sums over rows while all others are means: P where the loss
            is averaged over P processes.
        gather: of :func:`orthogonality_loss`, to take it over the batches of all processes.
        progress: share of the steps that are done, for ``loss.kl_warmup``.
        earlier: mean codes [M, K] of steps before this one by name, for :func:`correlation_loss`.
    """
    _validate(output, mask, config)
    w, rows = config.loss, output.annotated
    truth = mask[rows].to(output.logits.dtype)
    weights = w.weights(progress)

    def posterior_and_prior(code: str) -> tuple[Gaussian, Gaussian]:
        """Both Gaussians of a code, on the rows that the posterior ran on: the annotated ones, or all."""
        posterior, (mu, logvar) = output.latents[f"{code}_y"], output.latents[code]
        return posterior, (mu[rows], logvar[rows]) if len(posterior[0]) == len(truth) else (mu, logvar)

    parts = {}
    # half precision is for the network; sums over pixels and exponentials of log-variances need float32
    with torch.autocast(output.logits.device.type, enabled=False):
        for branch, logits in {"prior": output.logits, "posterior": output.logits_posterior}.items():
            if logits is not None:
                known = logits if branch == "posterior" and len(logits) == len(truth) else logits[rows]
                parts[f"seg_{branch}"] = structure_loss(known, truth, w.structure_weighting)
                matching = matching_loss(logits, output.fused[branch], output.audio[branch])
                parts[f"match_{branch}"] = sum_scale * matching
        for term, code in {"kl_sv": "vs", "kl_sa": "as"}.items():
            if f"{code}_y" in output.latents:
                parts[term] = kl_loss(*posterior_and_prior(code), w.kl_scale)
        if "vac_y" in output.latents:
            q, p = posterior_and_prior("vac")
            eps = [draw_noise(noise, name, q[0]) for name in ("js_prior", "js_posterior")]
            parts["divergence_c"] = shared_code_divergence(p, q, w.divergence_c, *eps)
            bounds = [mutual_information_bound(m.mu, m.logvar, m.target, w.mi_bound) for m in output.mi.values()]
            parts["mi"] = reduce(torch.add, bounds)
            parts["orthogonality"] = _separation(output, w.orthogonality_form, gather, earlier or {})
        if (drawn := output.logits_samples) is not None:
            known = mask.to(truth.dtype) if drawn.shape[1] == len(mask) else truth
            parts["seg_samples"] = sample_loss(drawn, known, w.structure_weighting, w.sample_temperature)
    parts = {name: parts[name] for name in weights if name in parts}
    return {"loss": reduce(torch.add, (weights[name] * value for name, value in parts.items())), **parts}


def _separation(
    output: ECMVAEOutput, form: str, gather: Callable[[Tensor], Tensor] | None, earlier: Mapping[str, Tensor]
) -> Float[Tensor, ""]:
    """What c shares with s_v and s_a in both branches: of the sampled codes, or of the mean ones with `earlier`."""
    codes, loss = output.codes, partial(orthogonality_loss, gather=gather)
    if form == "correlation":
        codes = {name: torch.cat([mu, earlier.get(name, mu[:0])]) for name, (mu, _) in output.latents.items()}
        loss = partial(correlation_loss)
    pairs = (("vs", "vac"), ("vs_y", "vac_y"), ("as", "vac"), ("as_y", "vac_y"))
    return reduce(torch.add, (loss(codes[s], codes[c]) for s, c in pairs))


def _validate(output: ECMVAEOutput, mask: Tensor, config: Config) -> None:
    if output.logits_posterior is None and config.model.latent != "none":
        raise UsageError("objective: the output has no posterior; call the model with a mask")
    require_shape("objective: mask", mask, *output.logits.shape)
    if mask.device.type == "cpu" and len(odd := mask[~((mask >= 0) & (mask <= 1))]):  # a GPU would have to wait for it
        raise UsageError(f"objective: mask holds {odd[0].item():g}; expected 0 and 1, divide 0 and 255 by 255")
