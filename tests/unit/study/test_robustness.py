"""Robustness: sounds have the level they should, off-screen sounds are, false light is counted right."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from avslib.core.errors import AvsError
from avslib.data.mini.sources import ClipLabels, read_labels
from avslib.models.ecmvae import ECMVAE
from avslib.study.plots import save_figure
from avslib.study.records import load_clips, load_records
from avslib.study.robustness import evaluate_robustness, falsely_lit_per_frame, robustness, robustness_table
from avslib.study.robustness_conditions import (
    ANOTHER,
    CONDITIONS,
    OFF_SCREEN,
    OWN,
    Stage,
    at_snr,
    left_out,
    off_screen,
    sounding_in_view,
    white_noise,
)
from avslib.training.evaluate import evaluate
from avslib.training.setup import open_split
from avslib.weights.checkpoints import save_checkpoint
from tests.helpers.avsbench_folder import write_avsbench
from tests.helpers.study_records import squeezed
from tools.robustness_figure import robustness_figure


@pytest.fixture
def model(tiny):
    torch.manual_seed(0)
    model = ECMVAE(tiny).eval()
    with torch.no_grad():  # an untrained decoder lights all pixels or none
        item = open_split(tiny, "test")[0]
        logits = model(model.normalize(item["image"]), item["audio"]).logits
        last = [p for n, p in model.prior.decoder.named_parameters() if n.endswith("bias")][-1]
        last -= logits.median()
    return model


@pytest.mark.parametrize("snr", [40, 20, 5, 0, -7.5])
@pytest.mark.parametrize("level", [1e-3, 0.08, 0.9])
def test_mixture_has_the_snr_asked_for(snr, level):
    sound = level * torch.sin(torch.arange(8000) * 0.07)
    noise = (sound + at_snr(white_noise(8000, 0, "a"), sound, snr) - sound).numpy().astype(np.float64)
    measured = 10 * math.log10(np.mean(sound.numpy().astype(np.float64) ** 2) / np.mean(noise**2))
    assert measured == pytest.approx(snr, abs=0.01)


def test_noise_alone_has_the_level_of_the_sound_and_a_flat_spectrum():
    sound = 0.08 * torch.sin(torch.arange(16000) * 0.3)
    noise = at_snr(white_noise(16000, 0, "a"), sound)
    assert noise.square().mean().item() == pytest.approx(sound.square().mean().item(), rel=1e-4)
    bands = torch.fft.rfft(noise).abs().square()[1:8001].view(4, 2000).mean(1)
    assert (bands / bands.mean()).sub(1).abs().max() < 0.15


def test_a_silent_clip_stays_silent():
    silence, noise = torch.zeros(100), white_noise(100, 0, "a")
    assert not at_snr(noise, silence).any()


def test_noise_depends_on_seed_and_name_alone():
    first = white_noise(50, 0, "a")
    others = [white_noise(50, 0, "b"), white_noise(50, 1, "a")]
    assert torch.equal(white_noise(50, 0, "a"), first) and not any(torch.equal(first, other) for other in others)


def test_off_screen_sounds_come_from_nothing_in_view():
    rng = np.random.default_rng(0)
    seen = {str(i): frozenset(rng.choice(8, 3, replace=False)) for i in range(60)}
    played = {name: frozenset(list(classes)[: int(rng.integers(3))]) for name, classes in seen.items()}
    labels = {name: ClipLabels((played[name],), seen[name]) for name in seen}
    chosen = off_screen(labels, seed=0)
    assert len(chosen) > 50 and len(set(chosen.values())) > 10
    assert all(played[other] and not played[other] & seen[name] for name, other in chosen.items())
    assert off_screen(dict(reversed(labels.items())), 0) == chosen


def test_share_falsely_lit_by_hand():
    logits = torch.tensor([[[[4.0, 4.0], [4.0, -4.0]]], [[[4.0, 0.0], [-4.0, -4.0]]]])
    sounding = torch.tensor([[[[1, 0], [0, 1]]], [[[0, 0], [0, 0]]]])
    assert falsely_lit_per_frame(logits, sounding).tolist() == [0.5, 0.25]


@pytest.mark.parametrize("task", ["s4", "ms3"])
def test_classes_and_outlines_of_own_sounds_are_the_masks(tiny, mini_data, task):
    dataset = open_split(tiny.replace({"data.task": task}), "test")
    labels = read_labels(mini_data, dataset)
    for i, clip in enumerate(dataset.clips):
        mask = dataset[i]["mask"]
        assert torch.equal(sounding_in_view(labels[clip.name], labels[clip.name], mask), mask.bool())


def test_false_light_follows_what_plays(tiny, mini_data):
    dataset = open_split(tiny.replace({"data.task": "ms3"}), "test")
    stage = Stage(dataset, read_labels(mini_data, dataset), None, seed=0)
    name, mask = dataset.clips[0].name, dataset[0]["mask"]
    stage.partners[ANOTHER] = {name: name}
    for condition in (OWN, "SNR 0 dB", "image missing", ANOTHER):
        assert torch.equal(stage.sounding(condition, [name], mask), mask.bool())
    assert mask.any() and not any(stage.sounding(c, [name], mask).any() for c in ("silence", "noise", OFF_SCREEN))


def test_own_sound_scores_as_evaluation_does_and_batches_change_nothing(tiny, model):
    scores = evaluate_robustness(model, tiny, "test", seed=3)
    one = evaluate_robustness(model, tiny.replace({"train.eval_batch_size": 1}), "test", seed=3)
    plain = evaluate(model, open_split(tiny, "test"))
    assert scores[OWN].clips == plain.clips and scores[OWN].metrics["F"] == plain.metrics["F"]
    assert set(scores) == set(CONDITIONS) == set(one)
    for name, found in scores.items():
        assert found.metrics == pytest.approx(one[name].metrics, abs=1e-3), name
    assert len({found.metrics["J"] for found in scores.values()}) > 4


def test_without_audio_every_sound_gives_the_same(tiny, model):
    deaf = tiny.replace({"model.use_audio": False})
    model.config = deaf
    scores = evaluate_robustness(model, deaf, "test")
    heard = [scores[name].clips for name in CONDITIONS if name != "image missing"]
    assert all(clips == heard[0] for clips in heard) and scores["image missing"].clips != heard[0]
    assert scores["silence"].metrics["falsely_lit"] > scores[OWN].metrics["falsely_lit"] > 0


def test_unknown_condition(tiny, model):
    with pytest.raises(AvsError, match="unknown condition 'thunder'; expected one of own sound"):
        evaluate_robustness(model, tiny, "test", ["thunder"])


def test_build_of_other_assets_is_refused(tiny, mini_data, model, tmp_path):
    shutil.copytree(mini_data, tmp_path / "data")
    path = tmp_path / "data/manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"version": 1', '"version": 0'), encoding="utf-8")
    with pytest.raises(AvsError, match=r"manifest\.json: this Mini-AVS was built by a different version"):
        evaluate_robustness(model, tiny.replace({"data.root": str(tmp_path / "data")}), "test", [OWN])


def test_avsbench_leaves_out_what_it_does_not_say(tiny, model, tmp_path):
    write_avsbench(tmp_path / "data", splits=("test",))
    record = robustness(save_checkpoint(tmp_path / "mine", model), tmp_path / "data", "ms3", tmp_path, progress=False)
    assert OFF_SCREEN not in record.baselines and "the data does not say what is in view" in record.notes
    assert record.baselines[ANOTHER]["test"]["falsely_lit"] is None and record.data == "avsbench"
    s4 = evaluate_robustness(model, tiny.replace({"data.root": str(tmp_path / "data")}), "test", [ANOTHER])
    assert s4[ANOTHER].metrics["falsely_lit"] >= 0  # of one category: against the mask
    with pytest.raises(AvsError, match="'off-screen' is left out: 2 of 2 clips show every class"):
        evaluate_robustness(model, tiny.replace({"data.root": str(tmp_path / "data")}), "test", [OFF_SCREEN])


def test_clips_without_wav_have_no_noise(tiny, mini_data):
    dataset = open_split(tiny, "test")
    labels = read_labels(mini_data, dataset)
    assert not left_out(CONDITIONS, dataset, labels)
    name = dataset.clips[1].name
    dataset.clips[1] = dataset.clips[1]._replace(wav_path=None, log_mel_path=Path("x.pkl"))
    found = left_out(CONDITIONS, dataset, labels)
    assert set(found) == {name for name in CONDITIONS if name.startswith(("SNR", "noise"))}
    assert f"clip {name!r} has no wav to add noise to, only x.pkl" in found["SNR 5 dB"]
    assert not left_out(CONDITIONS, dataset, labels, listens=False)


def test_record_table_and_figure(tiny, model, mini_data, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "run/best", model)
    record = robustness(checkpoint, mini_data, "s4", tmp_path / "out", progress=False)
    (loaded,) = load_records(tmp_path / "out")
    assert loaded == record and record.selection == "run" and set(record.baselines) == set(CONDITIONS) - {OWN}
    assert len(load_clips(loaded)) == 3 * len(CONDITIONS)
    text = squeezed(robustness_table([loaded]))
    assert f"| silence | {record.baselines['silence']['test']['J']:.3f} |" in text and "falsely lit: share" in text
    rows = robustness_table([loaded], "csv").splitlines()
    assert len(rows) == 1 + len(CONDITIONS)
    assert save_figure(robustness_figure([loaded]), tmp_path / "figure.png").stat().st_size > 10_000


def test_two_checkpoints_of_one_configuration_have_two_records(tiny, model, mini_data, tmp_path):
    for name in ("a", "b"):
        checkpoint = save_checkpoint(tmp_path / name, model)
        robustness(checkpoint, mini_data, "s4", tmp_path / "out", conditions=["silence"], progress=False)
        next(model.prior.decoder.parameters()).data.mul_(2)
    assert {record.selection for record in load_records(tmp_path / "out")} == {"a", "b"}
    text = squeezed(robustness_table(load_records(tmp_path / "out")))
    assert text.count("| own sound |") == 2 and ": a, S4**" in text and ": b, S4**" in text
