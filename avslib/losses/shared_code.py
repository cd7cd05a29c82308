"""Divergence between prior and posterior of the shared code c: five forms.

The paper asks for the Jensen-Shannon divergence. The released estimate evaluates each density at its own sample only
and so does not see the means; the other four do. Of these the Monte-Carlo JS, bounded by log 2, has no gradient left
once the two are far apart, as they soon are in many dimensions, so c is free and the specific codes collapse. Geometric
JS, symmetric KL and KL(q || p), the rate of the ELBO, keep pulling.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from avslib.core.numerics import safe_exp, wide
from avslib.losses.kl import gaussian_kl
from avslib.models.latent import Gaussian

Eps = Float[Tensor, "N K"]


def official_js(p: Gaussian, q: Gaussian, eps_p: Eps, eps_q: Eps) -> Float[Tensor, ""]:
    """As released: P and Q are element-wise densities, each at a sample of its own only; summed over all elements.

        1/(2 N) sum [P log(P / M) + Q log(Q / M)] where M = (P + Q) / 2

    The samples carry no gradient. Moving a mean changes nothing: P depends on eps and logvar only.
    As released to the digit down to a logvar of -30; below it precisions count linearly, for the gradient of a density
    over its own deviation, e^50 at a logvar of -50, has no norm in float32.
    """

    def own_log_density(g: Gaussian, eps: Eps) -> Tensor:
        mu, logvar, eps = wide(*g, eps)
        x = (mu + torch.exp(0.5 * logvar) * eps).detach()
        return -0.5 * ((x - mu).square() * safe_exp(-logvar) + logvar + math.log(2 * math.pi))

    log_p, log_q = own_log_density(p, eps_p), own_log_density(q, eps_q)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    total = (log_p.exp() * (log_p - log_m)).sum() + (log_q.exp() * (log_q - log_m)).sum()
    return 0.5 * total / len(log_p)


def monte_carlo_js(p: Gaussian, q: Gaussian, eps_p: Eps, eps_q: Eps) -> Float[Tensor, ""]:
    """One-sample Monte-Carlo JS with both densities at each sample.

        JS = 1/2 E_p [log(p / m)] + 1/2 E_q [log(q / m)] where m = (p + q) / 2

    Densities are over all K dimensions, in log-space; the gradient goes through the samples x = mu + sigma eps. The
    expectation lies in [0, log 2]; it is 0 only for equal Gaussians.
    """

    def half(own: Gaussian, other: Gaussian, eps: Eps) -> Tensor:
        mu, logvar, mu_other, logvar_other, eps = wide(*own, *other, eps)
        # the sample x = mu + sigma eps is never formed: x - mu would lose its digits where sigma is small beside mu
        z = (mu - mu_other) * safe_exp(-0.5 * logvar_other) + safe_exp(0.5 * (logvar - logvar_other)) * eps
        log_ratio = 0.5 * (eps.square() - z.square() + logvar - logvar_other).sum(1)
        return math.log(2) + F.logsigmoid(-log_ratio)

    return 0.5 * (half(p, q, eps_p) + half(q, p, eps_q)).mean()


def geometric_js(p: Gaussian, q: Gaussian) -> Float[Tensor, ""]:
    """Closed-form JS to the normalised geometric mean of the two Gaussians.

        JS_g = 1/2 KL(p || g) + 1/2 KL(q || g) where 1 / sigma_g^2 = 1/2 (1 / sigma_p^2 + 1 / sigma_q^2)

    The mean of g is the precision-weighted average of the means. Nielsen: On a generalization of the Jensen-Shannon
    divergence and the Jensen-Shannon centroid, Entropy 2020.
    """
    mu_p, logvar_p, mu_q, logvar_q = wide(*p, *q)
    log_precision = torch.logaddexp(-logvar_p, -logvar_q) - math.log(2)
    mean = torch.lerp(mu_q, mu_p, torch.sigmoid(logvar_q - logvar_p)), -log_precision
    return 0.5 * (gaussian_kl(p, mean) + gaussian_kl(q, mean)).mean()


def symmetric_kl(p: Gaussian, q: Gaussian) -> Float[Tensor, ""]:
    """The average of both directions.

        1/2 KL(p || q) + 1/2 KL(q || p)

    Mean over the rows.
    """
    return 0.5 * (gaussian_kl(p, q) + gaussian_kl(q, p)).mean()


def shared_code_divergence(p: Gaussian, q: Gaussian, kind: str, eps_p: Eps, eps_q: Eps) -> Float[Tensor, ""]:
    """The divergence by its name in ``loss.divergence_c``; `eps_*` serve the two sampled forms."""
    if kind == "kl":
        return gaussian_kl(q, p).mean()
    if kind in ("geometric_js", "symmetric_kl"):
        return {"geometric_js": geometric_js, "symmetric_kl": symmetric_kl}[kind](p, q)
    return {"official": official_js, "monte_carlo_js": monte_carlo_js}[kind](p, q, eps_p, eps_q)
