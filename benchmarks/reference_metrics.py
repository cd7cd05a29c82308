"""J and F of AVSBench, frame by frame, and F with one comparison for each of the 255 thresholds."""

import torch
from jaxtyping import Float
from torch import Tensor


def reference_j(logits: Float[Tensor, "N 1 H W"], mask: Float[Tensor, "N 1 H W"]) -> float:
    """Mean over frames of I / (U + 1e-7) at sigmoid > 0.5; of an empty mask, the share of pixels left out."""
    total = 0.0
    for x, y in zip(logits, mask, strict=True):
        predicted, truth = torch.sigmoid(x) > 0.5, y > 0
        if not truth.any():
            predicted, truth = ~predicted, torch.ones_like(truth)
        total += (predicted & truth).sum().item() / ((predicted | truth).sum().item() + 1e-7)
    return total / len(logits)


def reference_f(logits: Float[Tensor, "N 1 H W"], mask: Float[Tensor, "N 1 H W"]) -> float:
    """Best over thresholds of the mean F curve (beta^2 = 0.3) over the frames whose mask is not empty."""
    thresholds = torch.linspace(0, 1 - 1e-10, 255)
    curve, counted = torch.zeros(len(thresholds), dtype=torch.float64), 0
    for x, y in zip(logits, mask, strict=True):
        if not y.any():
            continue
        p, counted = torch.sigmoid(x), counted + 1
        for i, threshold in enumerate(thresholds.tolist()):
            predicted = (p >= threshold).float()
            hits = (predicted * y).sum().item()
            precision, recall = hits / (predicted.sum().item() + 1e-20), hits / (y.sum().item() + 1e-20)
            if hits:
                curve[i] += 1.3 * precision * recall / (0.3 * precision + recall)
    return (curve / max(counted, 1)).max().item()
