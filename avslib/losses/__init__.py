"""Loss terms, one file each, and the objective that sums them."""

from avslib.losses.kl import gaussian_kl, kl_loss
from avslib.losses.matching import matching_loss
from avslib.losses.mutual_information import mutual_information_bound
from avslib.losses.objective import objective
from avslib.losses.orthogonality import correlation_loss, orthogonality_loss
from avslib.losses.segmentation import structure_loss
from avslib.losses.shared_code import geometric_js, monte_carlo_js, official_js, shared_code_divergence, symmetric_kl
