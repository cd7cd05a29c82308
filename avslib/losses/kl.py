"""KL divergence of s_v and s_a between posterior and prior: the rate term of the conditional ELBO."""

from jaxtyping import Float
from torch import Tensor

from avslib.core.numerics import safe_exp, wide
from avslib.models.latent import Gaussian


def gaussian_kl(q: Gaussian, p: Gaussian, scale: str = "consistent") -> Float[Tensor, "N"]:
    """Of diagonal Gaussians given as (mu, logvar), summed over the K dimensions.

        KL(q || p) = sum_k log(sigma_p / sigma_q) + (sigma_q^2 + (mu_q - mu_p)^2) / (2 sigma_p^2) - 1/2

    `scale` ``consistent``: sigma = exp(logvar / 2), as in sampling. ``official``: sigma = exp(logvar), as released.
    Ratios of variances beyond e^30 count linearly, so that the term and its gradient stay finite.

    >>> import torch
    >>> zero = torch.zeros(1, 2)
    >>> gaussian_kl((torch.ones(1, 2), zero), (zero, zero))
    tensor([1.])
    """
    double = 2.0 if scale == "official" else 1.0
    mu_q, logvar_q, mu_p, logvar_p = wide(*q, *p)
    delta = double * (logvar_q - logvar_p)
    precision_p = safe_exp(-double * logvar_p)
    return 0.5 * (safe_exp(delta) + (mu_q - mu_p).square() * precision_p - 1 - delta).sum(1)


def kl_loss(q: Gaussian, p: Gaussian, scale: str = "official") -> Float[Tensor, ""]:
    """Mean of :func:`gaussian_kl` over the rows."""
    return gaussian_kl(q, p, scale).mean()
