"""Product of Gaussian experts: the fusion of codes that multiplies their densities in place of a linear layer."""

import torch
from jaxtyping import Float
from torch import Tensor

from avslib.models.latent import Gaussian


def product_of_experts(*experts: tuple[Float[Tensor, "N K"], Float[Tensor, "N K"]]) -> Gaussian:
    """(mu, logvar) of the Gaussian proportional to the product of the experts' densities and a unit Gaussian's.

    Precisions add up, and means are averaged by precision: 1/var = 1 + sum_i 1/var_i, mu = var sum_i mu_i / var_i.
    Wu, Goodman: Multimodal Generative Models for Scalable Weakly-Supervised Learning, NeurIPS 2018, section 2.

    >>> mu, logvar = product_of_experts((torch.full((1, 1), 3.0), torch.zeros(1, 1)))
    >>> mu.item(), round(logvar.exp().item(), 6)
    (1.5, 0.5)
    """
    mus, logvars = (torch.stack(part) for part in zip(*experts, strict=True))
    unit = torch.zeros_like(mus[:1])
    log_precision = torch.cat([unit, -logvars])
    # by logarithms: a precision of e^100 is past float32, its share of the sum is not
    share = log_precision.softmax(0)
    return (share * torch.cat([unit, mus])).sum(0), -log_precision.logsumexp(0)
