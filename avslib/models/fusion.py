"""Temporal pixel-wise audio-visual interaction (TPAVI), in its exact linear-time form.

Attention over the N = THW positions of a clip, without a softmax: theta and g come from the map, phi from the audio,
repeated over space. So the N x N matrix has only T distinct columns, and the sum over space can be taken first:

    y = 1/N (theta^T phi) g
    y_(t,h,w) = 1/N sum_(t') (theta_(t,h,w) * phi_(t')) G_(t') where G_(t') = sum_(h,w) g_(t',h,w)

theta and g are linear in the map v, and the output convolution is linear too, so all of them fold into u and M:

    u_(t') = (W_theta^T phi_(t')) * v + b_theta * phi_(t'), M = 1/N W_o G, W_o y + b_o = M u + b_o

BatchNorm needs the mean and the T x T covariance of u only. All of it is exact, for O(N T C) in place of O(N^2 C).
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avslib.core.numerics import l2_normalize, wide


class TPAVI(nn.Module):
    """Fuses one level's map with the audio of every second of the clip.

    Map [N, C, H, W] and audio [N, C] with N = B * frames rows -> fused [N, C, H, W], normalised audio [N, C]. `groups`
    equal parts of the clips (prior and posterior, one after the other) have batch statistics of their own, and update
    the running ones in turn, as that many calls would. ``gather`` stacks statistics [*S] of all P processes that share
    them to [P, *S]; by default P is 1.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.theta, self.phi, self.g = (nn.Linear(channels, inner) for _ in range(3))
        self.output = nn.Linear(inner, channels)
        self.batch_norm = nn.BatchNorm1d(channels)
        # the fusion starts as the identity: only the normalised map passes
        nn.init.zeros_(self.batch_norm.weight)
        self.layer_norm = nn.LayerNorm(channels)
        self.gather: Callable[[Tensor], Tensor] = partial(torch.unsqueeze, dim=0)

    def forward(
        self, x: Float[Tensor, "N C H W"], audio: Float[Tensor, "N C"], frames: int, groups: int = 1
    ) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, "N C"]]:
        n, c, h, w = x.shape
        # skinny products of length T gain nothing from low precision, and the batch statistics need float32
        with torch.autocast(x.device.type, enabled=False):
            x, audio = wide(x, audio)
            v = l2_normalize(x.permute(0, 2, 3, 1).reshape(n // frames, frames * h * w, c))
            a = l2_normalize(audio)
            # u and M as above: W_o y = u M
            phi = self.phi(a.view(-1, frames, c))
            u = torch.baddbmm((phi @ self.theta.bias).unsqueeze(1), v, (phi @ self.theta.weight).transpose(1, 2))
            g_sum = torch.addmm(h * w * self.g.bias, v.view(n, h * w, c).sum(1), self.g.weight.t())
            m = (g_sum @ self.output.weight.t() / (frames * h * w)).view(-1, frames, c)
            out = self.layer_norm(self._batch_norm(u, m, groups) + v)
        return out.view(n, h, w, c).permute(0, 3, 1, 2), a

    def _batch_norm(
        self, u: Float[Tensor, "B THW T"], m: Float[Tensor, "B T C"], groups: int
    ) -> Float[Tensor, "B THW C"]:
        """BatchNorm(u M + b_o), with scale and shift folded into M."""
        bn, bias = self.batch_norm, self.output.bias
        if bn.training:
            u_mean = u.mean(1, keepdim=True)
            clip_mean = (u_mean @ m).view(groups, -1, m.shape[2])
            centred = u - u_mean
            covariance = centred.transpose(1, 2) @ centred / u.shape[1]
            # seconds that sound alike (silence) can cancel in M: what rounding leaves may lie below 0
            within = ((covariance @ m) * m).sum(1).clamp(min=0).view_as(clip_mean)
            # [P, 2, G, B, C] to [2, G, P B, C]: the clips of all processes, group by group
            clip_mean, within = self.gather(torch.stack([clip_mean, within])).permute(1, 2, 0, 3, 4).flatten(2, 3)
            group_mean = clip_mean.mean(1, keepdim=True)
            var = within.mean(1, keepdim=True) + (clip_mean - group_mean).square().mean(1, keepdim=True)
            # the bias cancels below, but stays in the graph: processes that train together expect a gradient of each
            mean = group_mean + bias
            self._update_running_statistics(mean.detach(), var.detach(), clip_mean.shape[1] * u.shape[1])
        else:
            mean, var = bn.running_mean, bn.running_var
        scale = bn.weight * torch.rsqrt(var + bn.eps)
        shift = bn.bias + (bias - mean) * scale
        if bn.training:
            scale, shift = (x.expand(groups, len(u) // groups, -1).reshape(len(u), 1, -1) for x in (scale, shift))
        return torch.baddbmm(shift.expand(len(u), 1, -1), u, m * scale)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Float[Tensor, "G 1 C"], var: Float[Tensor, "G 1 C"], count: int) -> None:
        running_mean, running_var, seen = self.batch_norm.buffers()
        seen.add_(len(mean))
        for running, values in ((running_mean, mean), (running_var, var * count / max(count - 1, 1))):
            for value in values.flatten(1):
                running.lerp_(value.to(running.dtype), self.batch_norm.momentum or 0.0)
