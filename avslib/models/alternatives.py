"""Simpler rivals of two parts of the model: an audio-visual gate for the fusion, a product of experts for the codes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from avslib.core.numerics import l2_normalize, wide
from avslib.models.latent import Gaussian


class CorrelationGate(nn.Module):
    """The simple rival of TPAVI, with its interface: a gate at every position of a frame.

        out = LayerNorm(v + W_o (gate * v)) where gate = sigmoid(s * cos(theta(v), phi(a)) + b)

    v and a are the normalised map and audio of one second. Such maps localise sounds without masks (Senocak et al.:
    Learning to Localize Sound Source in Visual Scenes, CVPR 2018).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.theta, self.phi = (nn.Linear(channels, channels // 2) for _ in range(2))
        self.scale, self.bias = nn.Parameter(torch.tensor(5.0)), nn.Parameter(torch.tensor(0.0))
        self.output = nn.Linear(channels, channels)
        # it starts as the identity, as TPAVI does
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.layer_norm = nn.LayerNorm(channels)

    def forward(
        self, x: Float[Tensor, "N C H W"], audio: Float[Tensor, "N C"], frames: int, groups: int = 1
    ) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, "N C"]]:
        # the squares of a map past 256 are not in float16, whose lengths would be infinite and the map 0
        with torch.autocast(x.device.type, enabled=False):
            x, audio = wide(x, audio)
            v, a = l2_normalize(x.permute(0, 2, 3, 1)), l2_normalize(audio)
            correlation = F.cosine_similarity(self.theta(v), self.phi(a)[:, None, None], dim=-1)
            gate = torch.sigmoid(self.scale * correlation + self.bias).unsqueeze(-1)
            return self.layer_norm(v + self.output(gate * v)).permute(0, 3, 1, 2), a


def product_of_experts(*experts: Gaussian) -> Gaussian:
    """(mu, logvar) of the Gaussian proportional to the product of the experts' densities and a unit Gaussian's.

        1 / sigma^2 = 1 + sum_i 1 / sigma_i^2, mu = sigma^2 sum_i mu_i / sigma_i^2

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
