"""What the notebooks share: a lesson's start, checks and end."""

import json
import math
import re

import numpy as np
import pytest
import torch

from avslib.core.errors import AvsError
from course import player, show, start


@pytest.fixture
def names(mini_data, tmp_path):
    return {"FAST": True, "SEED": 3, "DATA_ROOT": str(mini_data), "OUT_DIR": str(tmp_path / "out"), "DEVICE": "cpu"}


@pytest.fixture
def lesson(names):
    return start("99_test", names)


def test_a_lesson_offers_data_model_and_generators_by_its_parameters(lesson):
    assert lesson.is_mini and lesson.out.is_dir() and lesson.fast and lesson.seed == 3
    assert lesson.config(task="ms3").data.task == "ms3" and lesson.config().train.seed == 3
    item = lesson.dataset("val", clips=2)[1]
    assert item["image"].shape[0] == 5 and item["audio"].shape == (5, 128)
    assert torch.equal(torch.rand(2, generator=lesson.generator(1)), torch.rand(2, generator=lesson.generator(1)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"FASST": True}, "there is no parameter 'FASST'; the parameters are FAST, SEED"),
        ({"fast": False}, "there is no parameter 'fast'"),
        ({"SEED": "1"}, "SEED: expected a valid integer; got '1'"),
        ({"SEED": -1}, "SEED: expected greater than or equal to 0"),
        ({"FAST": 1}, "FAST: expected a valid boolean"),
        ({"DEVICE": "tpu"}, "device 'tpu': expected auto, cpu"),
        ({"DATA_ROOT": "nowhere"}, "DATA_ROOT: nowhere is not a folder"),
    ],
)
def test_wrong_parameters_are_refused(names, change, message):
    with pytest.raises(AvsError, match=message):
        start("99_test", names | change)


def test_a_missing_parameter_and_an_absent_gpu_are_named(names):
    with pytest.raises(AvsError, match="CLIPS is missing"):
        start("99_test", names, CLIPS=int)
    if not torch.cuda.is_available():
        with pytest.raises(AvsError, match="device 'cuda': expected auto"):
            start("99_test", names | {"DEVICE": "cuda"})


@pytest.mark.parametrize(
    "kind, right, wrong, expected",
    [
        (bool, False, "false", "a valid boolean"),
        (int, 8, True, "a valid integer"),
        (int, 8, 8.5, "a valid integer"),
        (float, 1, "0.5", "a valid number"),
        (float, 0.5, math.nan, "a finite number"),
        (str, "010", 10, "a valid string"),
        (list[int], [8, 37], [8, "37"], "a valid integer"),
        (list[str], [], "[]", "a valid list"),
    ],
)
def test_a_lessons_own_parameter_must_be_of_its_type(names, kind, right, wrong, expected):
    assert start("99_test", names | {"OWN": right}, OWN=kind).seed == 3
    with pytest.raises(AvsError, match=re.escape(f"OWN: expected {expected}; got {wrong!r}")):
        start("99_test", names | {"OWN": wrong}, OWN=kind)


def test_a_started_lesson_may_be_started_again_beside_the_readers_variables(names, lesson):
    assert start("99_test", names | {"lesson": lesson, "x": 3}).seed == 3


def test_check_tells_equal_from_different(lesson, capsys):
    lesson.check("sum", 0.1 + 0.2, 0.3)
    assert "[ok] sum" in capsys.readouterr().out
    with pytest.raises(AssertionError, match=r"(?s)sum: yours differs from the true: .*but got 0\.4"):
        lesson.check("sum", 0.4, 0.3)
    with pytest.raises(AssertionError, match="shape"):
        lesson.check("sum", torch.zeros(2), torch.zeros(3))
    assert lesson.checks == 1


def test_finish_writes_plain_finite_metrics(lesson):
    lesson.finish(j=torch.tensor(0.5), n=np.int64(3))
    written = json.loads((lesson.out / "metrics.json").read_text(encoding="utf-8"))
    assert written["metrics"] == {"j": 0.5, "n": 3} and written["notebook"] == "99_test"
    with pytest.raises(AvsError, match="metric 'j'"):
        lesson.finish(j=math.nan)


def test_pictures_need_a_text_and_stay_small():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3))
    figure.subplots().imshow(np.random.default_rng(0).random((100, 100, 3)))
    picture = show(figure, "noise")
    assert picture.alt == "noise" and len(picture.data) < 200_000
    with pytest.raises(AvsError, match="alt is empty"):
        show(figure, " ")


def test_player_holds_the_sound_and_its_label():
    html = player(torch.sin(torch.arange(16000) / 10), 'a "tone"').data
    assert "audio/ogg;base64," in html and 'aria-label="a &quot;tone&quot;"' in html
    with pytest.raises(AvsError, match="mono"):
        player(torch.zeros(2, 100), "stereo")


# ---- the runner -----------------------------------------------------------------------------------------------------
