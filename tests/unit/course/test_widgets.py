"""Widgets: every control redraws the one picture, once, and as the static figure does."""

import html
import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch

from avslib import losses
from avslib.core.errors import AvsError
from avslib.models.ecmvae import ECMVAE
from avslib.training.setup import open_split
from avslib.video.predictor import Predictor
from course import widgets
from course.show import image_html
from course.widgets import parts

pytest.importorskip("ipywidgets", reason='the widgets need ipywidgets: python -m pip install "ipywidgets>=8.1"')


@pytest.fixture(scope="module")
def dataset(mini_data):
    from avslib.config import load_config

    settings = {"data.root": str(mini_data), "model.image_size": 64, "data.workers": 0}
    return open_split(load_config("mini", settings), "test")


@pytest.fixture(scope="module")
def predictor():
    from avslib.config import load_config
    from tests.helpers.tiny import TINY

    torch.manual_seed(0)
    model = ECMVAE(load_config("mini", TINY)).eval()
    with torch.no_grad():  # an untrained model says "no" everywhere or "yes"; here what it hears and codes matters
        model.prior.inject.conv.weight *= 30
    return Predictor(model)


@pytest.fixture
def disks():
    """Probabilities that fall with the distance from the centre, and masks of other sizes; the last is empty."""
    distance = torch.hypot(*torch.meshgrid(torch.arange(-16.0, 16), torch.arange(-16.0, 16), indexing="ij"))
    mask = (distance < torch.tensor([6.0, 8, 0])[:, None, None]).long()
    return (1 - distance / 24).expand(3, -1, -1).clamp(0, 1), mask


def picture(widget):
    return widget.children[-1].value


def alt(widget):
    return html.unescape(re.search(r'alt="(.*?)"', picture(widget))[1])


def controls(widget):
    return {c.description: c for c in widget.children if hasattr(c, "description") and c.description}


def drive(widget, name, value, capsys):
    """Move one control; the picture must change, once and in place, with nothing printed."""
    before, children, seen = picture(widget), widget.children, []
    watch = seen.append
    widget.children[-1].observe(watch, names="value")
    controls(widget)[name].value = value
    widget.children[-1].unobserve(watch, names="value")
    assert len(seen) == 1 and picture(widget) != before and widget.children == children
    assert picture(widget).count("<img") == 1 and capsys.readouterr() == ("", "")
    return alt(widget)


def same(widget, figure):
    return picture(widget) == image_html(figure, onload=parts.FINISH_CONTROLS)


def test_clip_browser(dataset, capsys):
    w = widgets.clip_browser(dataset)
    player = w.children[-2]
    assert same(w, widgets.clip_figure(dataset, 0, 0)) and "<audio controls" in player.value
    sound = player.value
    assert "frame 3: " in drive(w, "Frame (second)", 3, capsys) and player.value == sound  # it plays on
    assert "no outline" in drive(w, "Draw the true outline of what sounds", False, capsys)
    assert dataset.clips[1].name in drive(w, "Clip", 1, capsys) and player.value != sound
    assert same(w, widgets.clip_figure(dataset, 1, 3, outline=False))
    assert "frame 4: " in widgets.clip_figure(dataset, 1).get_label()


def test_sound_swapper(dataset, predictor, capsys):
    w = widgets.sound_swapper(predictor, dataset, [0, 2])
    assert "differs from the first in 0 %" in alt(w)
    other = drive(w, "Sound of clip", 2, capsys)
    lit, j = re.findall(r"lit ([\d.]+) %", other), re.findall(r"J ([\d.]+)", other)
    assert len(lit) == len(j) == 2 and dataset.clips[2].name in other
    assert same(w, widgets.swap_figure(predictor, dataset, 0, 2))
    drive(w, "Pictures of clip", 2, capsys)
    assert same(w, widgets.swap_figure(predictor, dataset, 2, 2))


def test_another_sound_moves_the_mask_of_a_trained_model(dataset):
    from course.widgets.clips import moved

    trained, item = Predictor.from_checkpoint("mini-s4"), dataset[0]
    own, *others = (trained(item["image"], audio) for audio in dataset.audio[:3])
    assert moved(own, own) == 0 and max(moved(own, other) for other in others) > 0.05


def test_latent_explorer(dataset, predictor, capsys):
    w = widgets.latent_explorer(predictor, dataset, index=1)
    assert "shifted by nothing" in alt(w) and len(controls(w)) == 6
    for name in controls(w):
        assert "+3.0" in drive(w, name, 3.0, capsys)
    shifts = {"vs": (3.0, 3.0), "as": (3.0, 3.0), "vac": (3.0, 3.0)}
    assert same(w, widgets.latent_figure(predictor, dataset, 1, shifts))


def test_a_model_without_the_three_codes_is_named(dataset, predictor):
    other = Predictor(ECMVAE(predictor.model.config.replace({"model.latent": "none"})))
    with pytest.raises(AvsError, match=r"has model\.latent=none: open a factorised one"):
        widgets.code_axes(other, dataset)


def test_principal_axes_are_those_of_the_cloud():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(4000, 3, generator=generator) * torch.tensor([0.1, 3.0, 1.0]) + 5
    axes = widgets.principal_axes(codes)
    torch.testing.assert_close(axes.axes, torch.eye(3)[[1, 2]], atol=0.05, rtol=0)
    torch.testing.assert_close(axes.deviation, torch.tensor([3.0, 1.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(axes.offset([2, 0]), 2 * axes.deviation[0] * axes.axes[0])


def test_loss_playground(capsys):
    w = widgets.loss_playground()
    for name, value in (("Mean of p", -2.0), ("Sigma of p", 2.0), ("Mean of q", 3.0), ("Sigma of q", 0.5)):
        assert f"{value:.1f}" in drive(w, name, value, capsys)
    assert same(w, widgets.divergence_figure(-2.0, 2.0, 3.0, 0.5))


def test_only_the_released_divergence_of_equal_gaussians_is_not_zero():
    found = widgets.divergences(1.5, 0.7, 1.5, 0.7)
    released = found.pop('released "JS"')
    assert released > 0.01 and max(map(abs, found.values())) < 1e-6
    # nor does it see the means
    assert widgets.divergences(-4, 0.7, 4, 0.7)['released "JS"'] == pytest.approx(released, abs=1e-4)


def test_divergences_are_those_of_the_package():
    found = widgets.divergences(0, 1, 2, 0.5)
    p, q = ((torch.tensor([[m]]), 2 * torch.tensor([[s]]).log()) for m, s in ((0.0, 1.0), (2.0, 0.5)))
    assert found["KL(p‖q)"] == pytest.approx(losses.gaussian_kl(p, q).item())
    assert found["geometric JS"] == pytest.approx(losses.geometric_js(p, q).item())
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    a, b = (torch.distributions.Normal(m, s).log_prob(x).exp() for m, s in ((0.0, 1.0), (2.0, 0.5)))
    js = 0.5 * torch.trapezoid(torch.xlogy(a, 2 * a / (a + b)) + torch.xlogy(b, 2 * b / (a + b)), x).item()
    assert found["Monte-Carlo JS"] == pytest.approx(js, abs=0.01)


def test_threshold_slider(disks, capsys):
    probability, mask = disks
    w = widgets.threshold_slider(probability, mask)
    middle = alt(w)
    high = drive(w, "Threshold", 0.9, capsys)
    assert same(w, widgets.threshold_figure(probability, mask, 0.9))
    low = drive(w, "Threshold", 0.1, capsys)
    at = [re.search(r"precision ([\d.]+), recall ([\d.]+)", text) for text in (low, middle, high)]
    precision, recall = ([float(one[group]) for one in at] for group in (1, 2))
    assert precision == sorted(precision) and recall == sorted(recall, reverse=True) and recall[0] == 1
    assert "over 2 frames" in low  # the third has no mask


def test_every_control_has_a_label_that_fits(dataset, predictor, disks):
    for w in (
        widgets.clip_browser(dataset),
        widgets.sound_swapper(predictor, dataset, [0]),
        widgets.loss_playground(),
        widgets.latent_explorer(predictor, dataset),
        widgets.threshold_slider(*disks),
    ):
        for c in w.children:
            if type(c).__name__ == "HTML":
                continue
            assert c.description.strip()
            assert type(c).__name__ == "Checkbox" or len(c.description) < 28  # 190 px


def test_swap_pairs_are_of_two_things_that_sound_in_turn(dataset, tmp_path):
    things = {"a": ["cat", "dog"], "b": ["dog", "cat"], "c": ["cat", "dog", ""], "d": ["dog", "cow"]}
    records = [{"name": name, "objects": [{"category": x} for x in seen]} for name, seen in things.items()]
    data, heard = dataset.first(0), ("cat", "dog", "dog", "cow")
    data.clips = [SimpleNamespace(name=name, category=x) for name, x in zip(things, heard, strict=True)]
    data.folder = tmp_path / "Single-source"
    with pytest.raises(AvsError, match="manifest"):
        widgets.swap_pairs(data)
    (tmp_path / "manifest.json").write_text(json.dumps({"clips": records}))
    assert widgets.swap_pairs(data) == [(0, 1)]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda d, p: widgets.clip_figure(d, 3), "clips 0 to 2"),
        (lambda d, p: widgets.clip_figure(d, 0, 5), "frames 0 to 4"),
        (lambda d, p: widgets.swap_figure(p, d, 0, -1), "clips 0 to 2"),
        (lambda d, p: widgets.sound_swapper(p, d, []), "no clip to choose from"),
        (lambda d, p: widgets.latent_figure(p, d, 0, {"x": (1,)}), "no code 'x'"),
        (lambda d, p: widgets.latent_figure(p, d, 0, {"vs": (1, 2, 3)}), "3 numbers for 2 axes"),
        (lambda d, p: widgets.principal_axes(torch.zeros(1, 4)), r"\[1, 4\]"),
        (lambda d, p: widgets.divergences(0, 0, 0, 1), "positive sigmas"),
        (lambda d, p: widgets.divergences(float("nan"), 1, 0, 1), "finite"),
        (lambda d, p: widgets.threshold_figure(torch.full((1, 4, 4), 2.0), torch.ones(1, 4, 4), 0.5), "from 0 to 1"),
        (lambda d, p: widgets.threshold_figure(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), 0.5), "no frame has a mask"),
        (lambda d, p: widgets.threshold_figure(torch.zeros(1, 4, 4), torch.ones(1, 4, 4), 1.5), "threshold 1.5"),
    ],
)
def test_bad_input_is_reported_in_a_sentence(dataset, predictor, call, message):
    with pytest.raises(AvsError, match=message):
        call(dataset, predictor)


def test_a_dataset_without_sound_is_refused(mini_data, predictor):
    from avslib.data.avsbench import AVSBench

    silent = AVSBench(mini_data, "s4", "test", 64)
    for call in (lambda: widgets.swap_figure(predictor, silent, 0, 1), lambda: widgets.code_axes(predictor, silent)):
        with pytest.raises(AvsError, match="no sound embeddings"):
            call()


def test_missing_ipywidgets_is_reported_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(AvsError, match="pip install"):
        widgets.loss_playground()
    assert widgets.divergence_figure(0, 1, 1, 1).get_label()
