"""Uncertainty and calibration: entropy of samples and its parts, reliability diagrams, temperature."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from avslib.core.errors import NonFiniteError, UsageError


def entropy(p: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Entropy of a Bernoulli variable in bits: -p log2 p - (1 - p) log2 (1 - p); 0 at p = 0 and p = 1.

    >>> entropy(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0., 1., 0.])
    """
    return (torch.special.entr(p) + torch.special.entr(1 - p)) / math.log(2)


def entropy_parts(samples: Float[Tensor, "k *S"]) -> tuple[Float[Tensor, "*S"], ...]:
    """Entropy of the mean of k sampled probabilities, and its two parts, in bits.

    total = H(mean_k p_k); expected = mean_k H(p_k), which remains when the code is known; their difference is the
    mutual information of label and code, >= 0, and 0 when all samples agree. Source: Depeweg et al., "Decomposition of
    Uncertainty in Bayesian Deep Learning", ICML 2018.

    >>> total, expected, information = entropy_parts(torch.tensor([[0.0], [1.0]]))  # two certain samples that disagree
    >>> total.item(), expected.item(), information.item()
    (1.0, 0.0, 1.0)
    """
    total, expected = entropy(samples.mean(0)), entropy(samples).mean(0)
    return total, expected, (total - expected).clamp(min=0)


def logits_of_mean_probability(logits: Float[Tensor, "k *S"]) -> Float[Tensor, "*S"]:
    """logit(mean_k sigmoid(logits_k)), in log space: finite even where the mean rounds to 0 or 1.

    >>> logits_of_mean_probability(torch.tensor([[0.0, 90.0], [0.0, 90.0]]))
    tensor([ 0., 90.])
    """
    wide = (logits.cpu() if logits.device.type == "mps" else logits).double()  # mps has no float64
    log_p, log_not_p = (F.logsigmoid(x).logsumexp(0) for x in (wide, -wide))
    return (log_p - log_not_p).to(logits)


@dataclass
class Reliability:
    """A reliability diagram: mean probability `predicted` and share of positives `observed` in each bin of predictions.

    `edges` [bins + 1] go from 0 to 1, `share` [bins] is of all predictions; an empty bin holds NaN.
    """

    edges: Float[Tensor, "B1"]
    predicted: Float[Tensor, "B"]
    observed: Float[Tensor, "B"]
    share: Float[Tensor, "B"]

    @property
    def error(self) -> float:
        """Expected calibration error: the gap between predicted and observed, weighted by the share of each bin."""
        return float(((self.predicted - self.observed).abs() * self.share).nansum())


def reliability(p: Float[Tensor, "*S"], target: Shaped[Tensor, "*S"], bins: int = 15) -> Reliability:
    """Sort predictions into `bins` equal bins of probability.

    The calibration error of the result equals torchmetrics' ``BinaryCalibrationError(n_bins=bins, norm="l1")``.
    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, in its binary form.

    >>> diagram = reliability(torch.tensor([0.2, 0.2, 0.9, 0.9]), torch.tensor([0, 1, 1, 1]), bins=2)
    >>> diagram.observed.tolist(), round(diagram.error, 3)
    ([0.5, 1.0], 0.2)
    """
    if p.shape != target.shape or p.numel() == 0 or bins < 1:
        found = f"{list(p.shape)}, {list(target.shape)}, {bins} bins"
        raise UsageError(f"reliability expects probabilities and targets of one shape and a bin at least; got {found}")
    p, target = p.detach().flatten().cpu().double(), target.flatten().cpu().double()
    if not ((p >= 0) & (p <= 1)).all() or not ((target == 0) | (target == 1)).all():
        raise UsageError("reliability expects probabilities in [0, 1] and targets of 0 and 1; apply sigmoid to logits")
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = (torch.bucketize(p, edges, right=True) - 1).clamp(0, bins - 1)
    count = torch.bincount(place, minlength=bins).double()
    predicted, observed = (torch.bincount(place, weights=x, minlength=bins) / count for x in (p, target))
    return Reliability(edges, predicted, observed, count / len(p))


def calibration_error(p: Float[Tensor, "*S"], target: Shaped[Tensor, "*S"], bins: int = 15) -> float:
    """Expected calibration error of probabilities; see `reliability`."""
    return reliability(p, target, bins).error


def fit_temperature(logits: Float[Tensor, "*S"], target: Shaped[Tensor, "*S"], steps: int = 50) -> float:
    """The temperature t > 0 that minimises the binary cross-entropy of sigmoid(logits / t).

    It does not move the boundary at 0.5, so J stays the same. Targets that are all equal have no minimum and are
    refused. Source: Guo et al., ICML 2017.

    >>> logits = torch.tensor([4.0, 4.0, 4.0, -4.0])  # three of four are right: sigmoid should say 3/4
    >>> round(fit_temperature(logits, torch.tensor([1, 1, 0, 0])) / (4 / torch.tensor(3.0).log().item()), 3)
    1.0
    """
    target = target.to(logits.device).float()
    if logits.shape != target.shape or target.unique().tolist() != [0, 1]:
        raise UsageError("fit_temperature expects logits and targets of one shape, zeros and ones among the targets")
    logits = logits.detach().float()
    if not logits.isfinite().all():
        raise NonFiniteError("fit_temperature expects finite logits, so probabilities other than 0 and 1")
    log_t = torch.zeros((), device=logits.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(logits / log_t.exp(), target)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return math.exp(log_t.item())
