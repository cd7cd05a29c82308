"""Loss terms, one file each, and the objective that sums them."""

from avslib.losses.kl import gaussian_kl as gaussian_kl
from avslib.losses.kl import kl_loss as kl_loss
from avslib.losses.matching import matching_loss as matching_loss
from avslib.losses.mutual_information import mutual_information_bound as mutual_information_bound
from avslib.losses.objective import objective as objective
from avslib.losses.orthogonality import orthogonality_loss as orthogonality_loss
from avslib.losses.segmentation import structure_loss as structure_loss
from avslib.losses.shared_code import geometric_js as geometric_js
from avslib.losses.shared_code import monte_carlo_js as monte_carlo_js
from avslib.losses.shared_code import official_js as official_js
from avslib.losses.shared_code import shared_code_divergence as shared_code_divergence
from avslib.losses.shared_code import symmetric_kl as symmetric_kl
