"""Undoing a forward pass: it has changed BatchNorm's running statistics before anyone knows whether it counts."""

import torch
from torch import nn


class Buffers:
    """A copy of the buffers of a model, to go back to."""

    def __init__(self, model: nn.Module):
        self.own = list(model.buffers())
        self.kept = [buffer.clone() for buffer in self.own]

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are now."""
        for kept, own in zip(self.kept, self.own, strict=True):
            kept.copy_(own)

    @torch.no_grad()
    def restore(self) -> None:
        """Make them again what they were at the last `keep`."""
        for kept, own in zip(self.kept, self.own, strict=True):
            own.copy_(kept)
