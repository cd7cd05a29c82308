"""Barber-Agakov lower bound on the mutual information between the fused codes of vision and sound.

Barber, Agakov: The IM Algorithm: a variational approach to information maximization, NeurIPS 2003.
"""

from jaxtyping import Float
from torch import Tensor

from avslib.core.numerics import safe_exp, wide


def mutual_information_bound(
    mu: Float[Tensor, "N M"], logvar: Float[Tensor, "N M"], target: Float[Tensor, "N M"], kind: str = "official"
) -> Float[Tensor, ""]:
    """Log-likelihood of the target t up to a constant, summed over M, mean over rows; to be maximised.

        E[log q(t | mu, sigma)] = -1/2 sum_m [(mu_m - t_m)^2 / sigma_m^2 + log sigma_m^2]

    ``full``: as above. ``official`` leaves out log sigma^2, so that a larger variance raises the bound for free.

    >>> import torch
    >>> one = torch.ones(1, 2)
    >>> mutual_information_bound(one, 0 * one, 0 * one).item()
    -1.0
    """
    mu, logvar, target = wide(mu, logvar, target)
    bound = (mu - target).square() * safe_exp(-logvar)
    if kind == "full":
        bound = bound + logvar
    return -0.5 * bound.sum(1).mean()
