"""Loss terms, one file each, and the objective that sums them."""

from avslib.losses.kl import gaussian_kl, kl_loss
from avslib.losses.matching import matching_loss
from avslib.losses.mutual_information import mutual_information_bound
from avslib.losses.objective import objective
from avslib.losses.orthogonality import orthogonality_loss
from avslib.losses.segmentation import structure_loss
from avslib.losses.shared_code import geometric_js, monte_carlo_js, official_js, shared_code_divergence, symmetric_kl

__all__ = [
    "gaussian_kl",
    "geometric_js",
    "kl_loss",
    "matching_loss",
    "monte_carlo_js",
    "mutual_information_bound",
    "objective",
    "official_js",
    "orthogonality_loss",
    "shared_code_divergence",
    "structure_loss",
    "symmetric_kl",
]
