"""What the codes hold is read from codes whose content is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from avslib.config import load_config
from avslib.data.avsbench import AVSBench
from avslib.data.mini.sources import ClipLabels
from avslib.models import ECMVAE
from avslib.study import representation as module
from avslib.study.representation import code_gaussians, codes_table, representation

N, K = 200, 4
SOUNDS, PLACES = ("cow", "dog", "pig"), ("beach", "street")


@pytest.fixture(scope="module")
def found():
    """Scores of codes made by hand: s_v is noise and place, s_a the sound, c the posterior's place of the mask."""
    rng = np.random.default_rng(0)
    sound, place, x = rng.integers(3, size=N), rng.integers(2, size=N), rng.integers(2, 30, size=N)
    mask = torch.zeros(N, 1, 32, 32)
    mask[torch.arange(N), 0, :, torch.from_numpy(x)] = 1

    def gaussian(*columns):
        mu = rng.normal(size=(N, K)) * 0.1
        for k, column in enumerate(columns):
            mu[:, k] += column
        return torch.from_numpy(mu).float(), torch.full((N, K), -2.0)

    prior = {"s_v": gaussian(place), "s_a": gaussian(*np.eye(3)[sound].T), "c": gaussian()}
    prior["c"] = (prior["s_a"][0] * 3, prior["c"][1])
    posterior = {"s_v": prior["s_v"], "s_a": gaussian(), "c": gaussian(x / 10)}
    names = [f"clip{i}" for i in range(N)]
    labels = {
        name: ClipLabels((frozenset({SOUNDS[s]}),), frozenset(), None, PLACES[p])
        for name, s, p in zip(names, sound, place, strict=True)
    }

    clips = SimpleNamespace(names=names, frames=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "code_gaussians", lambda *_: (prior, posterior, mask))
        return representation(None, None, clips, labels)


def test_overlap_is_one_for_a_scaled_copy_and_about_zero_for_independent_codes(found):
    assert found["cka_prior_s_a"] == pytest.approx(1, abs=1e-4)
    assert abs(found["cka_prior_s_v"]) < 0.05 and abs(found["cka_posterior_s_a"]) < 0.05


def test_probes_find_what_was_put_in_and_only_there(found):
    assert found["sound_prior_s_a"] > 0.95 and found["background_prior_s_v"] > 0.95
    assert found["sound_prior_s_v"] < 0.5 and found["background_prior_s_a"] < 0.65
    assert found["x_posterior_c"] > 0.9 and found["x_posterior_s_v"] < 0.1 and found["x_prior_c"] < 0.1


def test_rate_and_active_units_are_zero_where_posterior_and_prior_are_equal(found):
    assert found["kl_s_v"] == found["active_s_v"] == 0 and found["active_c"] == K and found["kl_c"] > 1


def test_codes_of_a_model_are_those_of_a_pass(mini_data):
    config = load_config("mini", {"model.pretrained": False, "model.image_size": 64, "data.workers": 0})
    model = ECMVAE(config).eval()
    dataset = AVSBench(mini_data, "s4", "test", 64, 5, mask_size=96).first(2)
    dataset = dataset.with_audio({name: torch.randn(5, 128) for name in dataset.names})
    prior, posterior, mask = code_gaussians(model, config, dataset)
    assert mask.shape == (10, 1, 96, 96) and {len(mu) for mu, _ in (prior | posterior).values()} == {10}
    rows = [dataset[k] for k in range(2)]
    image = model.normalize(torch.cat([row["image"] for row in rows]))
    seen = torch.nn.functional.interpolate(mask, (64, 64), mode="nearest-exact")
    with torch.no_grad():
        out = model(image, torch.cat([row["audio"] for row in rows]), seen)
    torch.testing.assert_close(prior["c"], out.latents["vac"])
    torch.testing.assert_close(posterior["s_v"], out.latents["vs_y"])


def test_without_a_record_of_codes_the_tables_are_empty():
    assert codes_table([], "s4").count("|") <= 4
