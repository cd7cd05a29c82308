"""Barber-Agakov lower bound on the mutual information between the fused codes of vision and sound.

Barber, Agakov: The IM Algorithm: a variational approach to information maximization, NeurIPS 2003.
"""

from jaxtyping import Float
from torch import Tensor

from avslib.losses.numerics import safe_exp, wide


def mutual_information_bound(
    mu: Float[Tensor, "N M"], logvar: Float[Tensor, "N M"], target: Float[Tensor, "N M"], kind: str = "official"
) -> Float[Tensor, ""]:
    """E[log q(target | mu, logvar)] up to a constant, mean over rows, summed over M; to be maximised.

    ``full``: sum_m -0.5 [(mu - target)^2 exp(-logvar) + logvar]. ``official`` leaves the logvar out, so that the bound
    can be raised for free by a larger variance.

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
