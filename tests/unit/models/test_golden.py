"""The released weights by their names give the released implementation's values: full model and single terms."""

import json

import numpy as np
import pytest
import torch

from avslib.losses import kl_loss, matching_loss, objective, official_js, orthogonality_loss, structure_loss
from avslib.weights.released import convert_official, load_official
from tests.helpers.reference import GOLDEN, array, fill, official_state

ENCODERS = ("vs", "as", "vac", "vs_y", "as_y", "vac_y")
TERMS = {
    "seg_prior": "seg_prior",
    "seg_posterior": "seg_posterior",
    "match_prior": "match_prior",
    "total": "loss",
    "match_posterior": "match_posterior",
    "js": "divergence_c",
    "mi": "mi",
    "orth": "orthogonality",
}


def close(ours, golden):
    ours, golden = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
    assert ours.shape == golden.shape
    assert np.abs(ours - golden).max() <= 1e-3 * np.abs(golden).max()


class Run:
    """One backbone's passes; the features do not depend on the noise, so the slow backbone runs once."""

    def __init__(self, backbone):
        self.name = backbone
        self.model = load_official(official_state(backbone))
        image, mask = array("image", (5, 3, 224, 224)), torch.from_numpy(fill.blobs(5, 224, 0))
        audio = array("audio_embedding", (5, 128)).clamp(min=0)
        features = self.model.backbone(image)
        self.model.backbone.forward = lambda image: features
        self.results = {}
        for kind in ("given", "zero"):
            noise = {e: (kind == "given") * array(f"eps_{e}", (5, 16)) for e in (*ENCODERS, "js_prior", "js_posterior")}
            with torch.set_grad_enabled(kind == "given"):
                output = self.model(image, audio, mask, noise=noise)
                self.results[kind] = output, objective(output, mask, self.model.config, noise)
        self.results["given"][1]["loss"].backward()


@pytest.fixture(scope="module", params=["pvt", "resnet"])
def run(request):
    return Run(request.param)


@pytest.fixture(params=["zero", "given"])
def case(run, request):
    """Output, loss terms and golden values of one pass."""
    return *run.results[request.param], np.load(GOLDEN / f"{run.name}_{request.param}.npz")


def test_logits(case):
    output, _, golden = case
    close(output.logits[:, 0, ::8, ::8].detach(), golden["logits_prior"])
    close(output.logits_posterior[:, 0, ::8, ::8].detach(), golden["logits_posterior"])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_latents(case, encoder):
    output, _, golden = case
    mu, logvar = output.latents[encoder]
    close(mu.detach(), golden[f"mu_{encoder}"])
    close(logvar.detach(), golden[f"logvar_{encoder}"])


def test_loss_terms(case):
    _, parts, golden = case
    parts = {name: value.item() for name, value in parts.items()}
    for theirs, ours in TERMS.items():
        close(parts[ours], golden[theirs])
    close(parts["kl_sv"] + parts["kl_sa"] + parts["divergence_c"], golden["kl"])


def test_fused_maps(case):
    output, _, golden = case
    for i, fused in enumerate(output.fused["prior"]):
        close([fused.mean().item(), fused.std().item()], golden[f"fused_prior_{i}_mean_std"])


def test_gradient_norms(run):
    golden = json.loads((GOLDEN / f"{run.name}_given_grad_norms.json").read_text(encoding="utf-8"))
    released = list(golden)
    ours, _ = convert_official({n: torch.tensor(i) for i, n in enumerate(released)})
    gradients = {n: p.grad for n, p in run.model.named_parameters() if p.grad is not None}
    assert gradients.keys() == ours.keys()
    wrong = [
        released[i]
        for n, i in ours.items()
        if abs(gradients[n].norm().item() - golden[released[i]]) > 1e-3 * golden[released[i]]
    ]
    assert not wrong


@pytest.fixture(scope="module")
def single():
    return np.load(GOLDEN / "losses.npz")


def gaussian(which):
    return array(f"loss/mu_{which}", (10, 16)), 0.3 * array(f"loss/logvar_{which}", (10, 16))


def logits_and_masks():
    mask = torch.from_numpy(fill.blobs(10, 224, 7))
    mask[3] = 0
    return array("loss/logits", (10, 1, 224, 224)), mask


def test_structure_loss_of_all_rows_and_of_first_rows(single):
    logits, mask = logits_and_masks()
    close(structure_loss(logits, mask), single["structure_ms3"])
    close(structure_loss(logits[::5], mask[::5]), single["structure_s4"])


def test_matching_loss(single):
    maps = [array(f"loss/vmap{i}", (10, 128, s, s)) for i, s in enumerate((56, 28, 14, 7))]
    audios = [array(f"loss/afeat{i}", (2, 5, 128)).flatten(0, 1) for i in range(4)]
    logits, _ = logits_and_masks()
    levels = [matching_loss(logits, [m], a) for m, a in zip(maps, audios, strict=True)]
    close(torch.stack(levels).mean(), single["match"])


def test_latent_terms(single):
    q, p = gaussian("posterior"), gaussian("prior")
    close(orthogonality_loss(array("loss/z1", (10, 16)), array("loss/z2", (10, 16))), single["orth"])
    close(kl_loss(q, p, "official"), single["kl_posterior_prior"])
    close(official_js(p, q, array("eps_js_prior", (10, 16)), array("eps_js_posterior", (10, 16))), single["js"])
