"""Plain reference forms that the tests compare with, and the modules outside the package that they need.

Written from the definitions, in float64, with loops or torch.distributions; nothing here is taken from avslib.
"""

import importlib.util
import json
from pathlib import Path

import torch
from torch import distributions
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


def load_module(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fill = load_module(GOLDEN / "fill.py")
QuadraticTPAVI = load_module(ROOT / "benchmarks" / "reference_fusion.py").QuadraticTPAVI


def array(name, shape):
    """The golden input `name` as a tensor."""
    return torch.from_numpy(fill.array(name, shape))


def official_state(backbone):
    """The golden weights of `resnet` or `pvt` under the released names."""
    names = json.loads((GOLDEN / f"official_{backbone}_state_dict.json").read_text(encoding="utf-8"))
    return {name: torch.as_tensor(fill.tensor(name, tuple(shape))) for name, shape in names}


def normal(gaussian):
    mu, logvar = (x.double() for x in gaussian)
    return distributions.Normal(mu, torch.exp(0.5 * logvar))


def structure_loss(logits, mask, per_pixel):
    """One mask after the other; the 31x31 average (zeros outside) by a box of ones."""
    total_bce = total_iou = 0.0
    for x, y in zip(logits.double(), mask.double(), strict=True):
        box = F.conv2d(y[None], torch.ones(1, 1, 31, 31, dtype=torch.double), padding=15)[0] / 31**2
        w = 1 + 5 * (box - y).abs()
        p = 1 / (1 + torch.exp(-x))
        smooth = y * 0.999 + 0.0005
        bce = -(smooth * p.log() + (1 - smooth) * (1 - p).log())
        total_bce += (w * bce).sum() / w.sum() if per_pixel else bce.mean()
        i, u = (w * p * y).sum(), (w * (p + y)).sum()
        total_iou += 1 - (i + 1) / (u - i + 1)
    return (total_bce + total_iou) / len(logits)


def matching_loss(logits, fused, audio):
    """Sum over rows of KL(softmax audio || softmax visual), mean over levels."""
    levels = []
    for level in fused:
        total = 0.0
        for n in range(len(logits)):
            gate = torch.sigmoid(F.adaptive_avg_pool2d(logits[n].double(), level.shape[-2:]))
            visual = (gate * level[n].double()).mean((1, 2))
            visual = visual / visual.norm()
            p, q = (distributions.Categorical(logits=z) for z in (audio[n].double(), visual))
            total += distributions.kl_divergence(p, q)
        levels.append(total)
    return sum(levels) / len(levels)


def geometric_js(p, q, grid):
    """Nielsen's geometric JS of 1-D Gaussians by integration on `grid`: the mean is sqrt(p q), normalised."""
    log_p, log_q = normal(p).log_prob(grid), normal(q).log_prob(grid)
    step = grid[1] - grid[0]
    log_g = 0.5 * (log_p + log_q)
    log_g = log_g - torch.logsumexp(log_g, 0) - step.log()
    return 0.5 * ((log_p.exp() * (log_p - log_g)).sum() + (log_q.exp() * (log_q - log_g)).sum()) * step


def js(p, q, grid):
    """Jensen-Shannon divergence of 1-D Gaussians by integration on `grid`."""
    log_p, log_q = normal(p).log_prob(grid), normal(q).log_prob(grid)
    log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0, dtype=torch.double))
    step = grid[1] - grid[0]
    return 0.5 * ((log_p.exp() * (log_p - log_m)).sum() + (log_q.exp() * (log_q - log_m)).sum()) * step
