"""Structure loss: label-smoothed cross-entropy plus a boundary-weighted IoU loss.

Wei, Wang, Huang: F3Net: Fusion, Feedback and Focus for Salient Object Detection, AAAI 2020.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from avslib.core.numerics import wide


def boundary_weight(mask: Float[Tensor, "N 1 H W"]) -> Float[Tensor, "N 1 H W"]:
    """Up to 6 at the outline of the mask y, 1 far from it; the average is over 31 x 31 pixels.

        w = 1 + 5 |average(y) - y|

    >>> boundary_weight(torch.zeros(1, 1, 32, 32)).unique()
    tensor([1.])
    """
    # two passes of 31 in place of one of 31 x 31: equal, since the zero padding counts, and 15 times less work
    mean = F.avg_pool2d(F.avg_pool2d(mask, (31, 1), stride=1, padding=(15, 0)), (1, 31), stride=1, padding=(0, 15))
    return 1 + 5 * (mean - mask).abs()


def structure_loss(
    logits: Float[Tensor, "N 1 H W"], mask: Float[Tensor, "N 1 H W"], weighting: str = "official"
) -> Float[Tensor, ""]:
    """Cross-entropy of p = sigmoid(logits) with a smoothed mask y, plus a soft IoU loss, mean over the rows n.

        mean_n BCE_n(p, 0.999 y + 0.0005)
        + mean_n [1 - (I_n + 1) / (U_n - I_n + 1)]
        where I = sum w p y, U = sum w (p + y), w = boundary_weight(y)

    `weighting` ``official``: the released code averages the BCE to one number before it weights it, so that w cancels
    there. ``per_pixel``: sum w BCE / sum w for each mask, as F3Net has it.

    >>> y = torch.zeros(1, 1, 32, 32)
    >>> round(structure_loss(torch.full_like(y, -20.0), y).item(), 4)
    0.01
    """
    return _structure_per_mask(logits, mask, weighting).mean()


def _structure_per_mask(
    logits: Float[Tensor, "N 1 H W"], mask: Float[Tensor, "N 1 H W"], weighting: str
) -> Float[Tensor, "N"]:
    logits, mask = wide(logits, mask)
    weight = boundary_weight(mask)
    pixel = F.binary_cross_entropy_with_logits(logits, 0.999 * mask + 0.0005, reduction="none")
    by = torch.ones_like(weight) if weighting == "official" else weight
    bce = (by * pixel).sum((1, 2, 3)) / by.sum((1, 2, 3))
    p = torch.sigmoid(logits)
    intersection = (weight * p * mask).sum((1, 2, 3))
    union = (weight * (p + mask)).sum((1, 2, 3))
    return bce + 1 - (intersection + 1) / (union - intersection + 1)


def sample_loss(
    logits: Float[Tensor, "S N 1 H W"],
    mask: Float[Tensor, "N 1 H W"],
    weighting: str = "per_pixel",
    temperature: float = 0.05,
) -> Float[Tensor, ""]:
    """Mean over masks of a soft minimum of the structure loss L of S samples, with temperature T.

        -T log(1/S sum_s exp(-L_s / T))

    A soft minimum over S samples: the Monte-Carlo likelihood of the mask at T = 1, and for small T the loss of the best
    sample, so samples may differ where several masks are plausible.

    >>> y = torch.zeros(1, 1, 32, 32)
    >>> bad_and_good = torch.stack([torch.full_like(y, 20.0), torch.full_like(y, -20.0)])
    >>> round(sample_loss(bad_and_good, y, temperature=1e-3).item(), 2)
    0.01
    """
    losses = torch.stack([_structure_per_mask(x, mask, weighting) for x in logits])
    return -temperature * ((-losses / temperature).logsumexp(0) - math.log(len(losses))).mean()
