"""Metrics of listening against plain numpy, and the symmetry of the fusion that they make visible."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from avslib.config import load_config
from avslib.data.avsbench import AVSBench
from avslib.data.mini.sources import ClipLabels, read_labels
from avslib.metrics import PairRanking, frame_scores
from avslib.models import ECMVAE
from avslib.training.evaluate import heard_objects
from avslib.training.listening import Listening

ON = {"dog": (1, 1, 0), "cow": (0, 1, 0), "pig": (0, 0, 0)}


@pytest.fixture
def clip():
    """Three seconds, three objects in thirds of the picture; the pig is hidden in the last second."""
    outlines = {name: np.zeros((3, 8, 9), bool) for name in ON}
    for k, outline in enumerate(outlines.values()):
        outline[:, :, 3 * k : 3 * k + 3] = True
    outlines["pig"][2] = False
    played = tuple(frozenset(name for name in ON if ON[name][t]) for t in range(3))
    labels = ClipLabels(played, frozenset(ON), lambda: outlines)
    truth = np.stack([np.any([outlines[n][t] & bool(ON[n][t]) for n in ON], axis=0) for t in range(3)])
    logits = torch.randn(3, 1, 8, 9, generator=torch.Generator().manual_seed(3))
    return outlines, labels, torch.from_numpy(truth[:, None]).byte(), logits


def test_sel_and_time_are_those_of_numpy(clip):
    outlines, labels, mask, logits = clip
    listening = Listening(False, {"a": labels})
    listening.update(["a"], torch.ones(3, dtype=torch.bool), logits, frame_scores(logits, mask))
    found = listening.compute()
    p = 1 / (1 + np.exp(-logits[:, 0].double().numpy()))
    mean = {n: [p[t][outlines[n][t]].mean() if outlines[n][t].any() else None for t in range(3)] for n in ON}
    sel = [mean[a][t] > mean[b][t] for t in range(3) for a in ON for b in ON if ON[a][t] and not ON[b][t]]
    time = [mean[n][s] > mean[n][t] for n in ON for s in range(3) for t in range(3) if ON[n][s] and not ON[n][t]]
    assert found["sel"] == np.mean(sel) and found["time"] == np.mean(time)
    lit = (p[2] > 0.5).mean()
    assert found["J_empty"] == pytest.approx(1 - lit) and found["lit_empty"] == float(lit > 0.01)
    assert found["lit_silent"] == found["lit_empty"] and "lit_off_screen" not in found
    assert listening.time == {"a": np.mean(time)}


def test_empty_frames_count_by_what_sounds(clip):
    _, labels, mask, _ = clip
    played = (frozenset({"dog"}), frozenset({"horse"}), frozenset())  # the horse is out of view
    listening = Listening(False, {"a": replace(labels, played=played)})
    logits = torch.tensor([-9.0, -9.0, 9.0]).view(3, 1, 1, 1).expand(3, 1, 8, 9)
    listening.update(["a"], torch.ones(3, dtype=torch.bool), logits, frame_scores(logits, mask * 0))
    found = listening.compute()
    assert (found["lit_off_screen"], found["lit_silent"], found["lit_empty"]) == (0, 1, pytest.approx(1 / 3))


def test_frames_that_nobody_annotated_and_clips_without_outlines_do_not_count(clip):
    _, _, mask, logits = clip
    listening = Listening(False, {"a": ClipLabels()})
    listening.update(["a"], torch.tensor([True, False, False]), logits, frame_scores(logits, mask))
    found = listening.compute()
    assert found["J_not_empty"] == pytest.approx(frame_scores(logits, mask).iou[0].item())
    assert found.keys() == {"J_not_empty"}


def test_ranking_of_one_brightness_is_chance():
    metric = PairRanking()
    metric.update(torch.full((3,), 0.25), torch.full((4,), 0.25))
    assert metric.compute() == 0.5


@pytest.mark.parametrize("span", ["clip", "second"])
def test_fusion_over_the_clip_does_not_know_which_second_is_a_frames_own(span):
    overrides = {"model.pretrained": False, "model.image_size": 64, "model.latent": "none", "model.fusion_span": span}
    torch.manual_seed(0)
    model = ECMVAE(load_config("mini", overrides)).eval()
    for fusion in model.fusion:  # it starts as the identity
        torch.nn.init.ones_(fusion.batch_norm.weight)
    image = torch.randn(1, 3, 64, 64).repeat(5, 1, 1, 1)
    with torch.no_grad():
        logits = model(image, torch.randn(5, 128), frames=5).logits
    alike = torch.allclose(logits, logits[:1].expand_as(logits), atol=1e-5)
    assert alike == (span == "clip")


def test_a_clip_scored_on_its_first_seconds_only(clip, mini_data):
    _, labels, mask, logits = clip
    listening = Listening(False, {"a": labels})
    listening.update(["a"], torch.ones(1, dtype=torch.bool), logits[:1], frame_scores(logits[:1], mask[:1]))
    assert listening.compute().keys() == {"J_not_empty", "sel"}  # one second has no other to be compared with
    dataset = AVSBench(mini_data, "ms3", "test", frames=1)
    assert heard_objects(dataset, read_labels(mini_data, dataset)).metrics["J"] > 0
