"""What loss terms and scores promise holds at the extremes too: signs, zeros, symmetries, bounds, invariances."""

import math

import pytest
import torch
from hypothesis import given

from avslib.calibration import calibration_error, entropy_parts, fit_temperature, logits_of_mean_probability
from avslib.core.errors import AvsError
from avslib.losses import (
    gaussian_kl,
    matching_loss,
    mutual_information_bound,
    orthogonality_loss,
    shared_code_divergence,
    structure_loss,
)
from avslib.metrics import FScore, LegacyFScore, MeanIoU, frame_scores
from avslib.models.alternatives import product_of_experts
from avslib.models.latent import reparametrize
from tests.helpers.extremes import DIVERGENCES, SCALES, WEIGHTINGS, at_the_extremes, cases

# ---- loss terms


def close(a, b, rel=1e-9):
    return math.isclose(float(a), float(b), rel_tol=rel, abs_tol=rel)


def wide(gaussian):
    return tuple(x.detach().double() for x in gaussian)


@at_the_extremes
def test_kl_and_divergences_keep_their_signs_zeros_and_symmetry(effort):
    def check(case):
        p, q, (eps_p, eps_q) = wide(case.p), wide(case.q), wide(case.eps)
        for scale in SCALES:
            assert gaussian_kl(q, p, scale).min() >= -1e-9 and gaussian_kl(p, p, scale).abs().max() <= 1e-9
        for kind in DIVERGENCES:
            there = shared_code_divergence(p, q, kind, eps_p, eps_q)
            assert close(there, shared_code_divergence(q, p, kind, eps_q, eps_p)), kind
            assert abs(shared_code_divergence(p, p, kind, eps_p, eps_p)) <= 1e-9, kind
        assert shared_code_divergence(p, q, "geometric_js", eps_p, eps_q) >= -1e-9
        assert mutual_information_bound(*p, q[0], "official") <= 0
        assert mutual_information_bound(*p, q[0], "full") <= -0.5 * p[1].sum(1).mean() + 1e-9
        codes = [reparametrize(*g, e) for g, e in ((p, eps_p), (q, eps_q))]
        # by Cauchy-Schwarz, as no row is longer than 1
        assert 0 <= orthogonality_loss(*codes) <= len(codes[0]) ** 2 + 1e-9

    effort(given(cases())(check))()


@at_the_extremes
def test_experts_agree_on_what_lies_between_them(effort):
    def check(case):
        p, q = wide(case.p), wide(case.q)
        mu, logvar = product_of_experts(p, q)
        other_mu, other_logvar = product_of_experts(q, p)
        assert torch.allclose(mu, other_mu) and torch.allclose(logvar, other_logvar)
        means, logvars = (torch.stack([torch.zeros_like(a), a, b]) for a, b in zip(p, q, strict=True))
        slack = 1e-9 * (1 + means.abs().amax(0))
        assert ((mu >= means.amin(0) - slack) & (mu <= means.amax(0) + slack)).all()
        assert (logvar <= logvars.amin(0) + 1e-9).all() and (logvar >= logvars.amin(0) - math.log(3) - 1e-9).all()
        assert torch.equal(reparametrize(*p, torch.zeros_like(mu)), p[0]) and torch.equal(reparametrize(*p, None), p[0])

    effort(given(cases())(check))()


@at_the_extremes
def test_structure_and_matching_loss_do_not_see_mirrors_or_order(effort):
    def check(case):
        logits, mask = case.logits.detach().double(), case.mask.double()
        for weighting in WEIGHTINGS:
            loss = structure_loss(logits, mask, weighting)
            assert loss >= 0
            for turn in (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.mT, lambda x: x.flip(0)):
                assert close(loss, structure_loss(turn(logits), turn(mask), weighting)), weighting
            rows = [structure_loss(x[None], y[None], weighting) for x, y in zip(logits, mask, strict=True)]
            assert close(loss, sum(rows) / len(rows)), weighting
        fused, audio = [x.detach().double() for x in case.fused], case.audio.detach().double()
        loss = matching_loss(logits, fused, audio)
        assert loss >= -1e-9
        rows = [matching_loss(logits[[n]], [x[[n]] for x in fused], audio[[n]]) for n in range(len(audio))]
        assert close(loss, sum(rows))
        assert close(loss, matching_loss(logits.flip(-1), [x.flip(-1) for x in fused], audio))

    effort(given(cases())(check))()


# ---- scores


@at_the_extremes
def test_scores_lie_between_0_and_1_and_the_mask_itself_scores_1(effort):
    def check(case):
        logits, mask = case.logits.detach(), case.mask
        scores = frame_scores(logits, mask)
        for values in (scores.iou, scores.curve):
            assert values.min() >= 0 and values.max() <= 1
        assert torch.equal(scores.counted, mask.flatten(1).any(1))
        mirrored = frame_scores(logits.flip(-1), mask.flip(-1))
        assert torch.equal(scores.iou, mirrored.iou) and torch.equal(scores.curve, mirrored.curve)
        for best in (20.0, 1e4, math.inf):
            perfect = frame_scores((2 * mask - 1) * best, mask)
            assert (1 - perfect.iou).abs().max() < 1e-6 and (perfect.curve[perfect.counted].amax(1) > 1 - 1e-9).all()
        for metric in (MeanIoU(), FScore(), LegacyFScore(1, frames=1)):
            metric.update(logits, mask)
            assert 0 <= metric.compute() <= 1

    effort(given(cases())(check))()


@at_the_extremes
def test_probabilities_are_weighed_without_nan(effort):
    def check(case):
        samples = torch.stack([case.logits.detach().float(), -case.logits.detach().float().flip(0)])
        p = samples.sigmoid()
        total, expected, information = entropy_parts(p)
        assert all(x.isfinite().all() for x in (total, expected, information)) and total.max() <= 1 + 1e-6
        assert (expected <= total + 1e-6).all()
        assert 0 <= calibration_error(p[0], case.mask) <= 1
        logits = logits_of_mean_probability(samples)
        assert logits.isfinite().all()
        torch.testing.assert_close(logits.sigmoid(), p.double().mean(0).float())
        if 0 < case.mask.mean() < 1:
            temperature = fit_temperature(samples[0], case.mask)
            assert math.isfinite(temperature) and temperature >= 0

    effort(given(cases())(check))()


@pytest.mark.parametrize(
    "logits, target, said",
    [
        ([math.inf, 0.0], [1, 0], "finite logits"),
        ([math.nan, 0.0], [1, 0], "finite logits"),
        ([], [], "zeros and ones"),
        ([1.0, 0.0], [255, 0], "zeros and ones"),
        ([1.0, 0.0], [1, 1], "zeros and ones"),
    ],
)
def test_temperature_says_what_it_cannot_be_fitted_to(logits, target, said):
    with pytest.raises(AvsError, match=said):
        fit_temperature(torch.tensor(logits), torch.tensor(target))
