"""Audio-visual matching (AVM): what is segmented should look like what sounds.

Zhou et al.: Audio-Visual Segmentation, ECCV 2022, equation 6.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from avslib.core.numerics import wide


def matching_loss(
    logits: Float[Tensor, "N 1 H W"], fused: list[Float[Tensor, "N C _ _"]], audio: Float[Tensor, "N C"]
) -> Float[Tensor, ""]:
    """Mean over the levels of a sum over the rows n of the batch, as released:

        sum_n KL(softmax(a_n) || softmax(v_n)) where v_n = mean_(h w) sigmoid(pooled_n) * fused_n

    a_n is the audio; the logits are average-pooled to each level's size; a_n and v_n are normalised to length 1.

    >>> x = torch.zeros(2, 4, 7, 7)
    >>> matching_loss(torch.zeros(2, 1, 28, 28), [x], torch.zeros(2, 4)).item()
    0.0
    """
    logits, audio, *fused = wide(logits, audio, *fused)
    target = F.softmax(F.normalize(audio, dim=1), dim=1)
    terms = []
    for level in fused:
        # the levels' strides divide the image; the adaptive form has no deterministic gradient on a GPU
        gate = torch.sigmoid(F.avg_pool2d(logits, logits.shape[-1] // level.shape[-1]))
        visual = F.normalize((gate * level).mean((2, 3)), dim=1)
        terms.append(F.kl_div(F.log_softmax(visual, dim=1), target, reduction="sum"))
    return torch.stack(terms).mean()
