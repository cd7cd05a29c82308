"""What the notebooks share: a lesson's start, checks and end; the runner's rules."""

import json
import math
import re

import numpy as np
import pytest
import torch

from avslib.cli.notebooks import join_pairs
from avslib.core.errors import AvsError
from avslib.course import execute, player, show, start
from tests.helpers.notebook_files import notebook


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

FINISH = 'import json, pathlib; pathlib.Path(OUT_DIR, "metrics.json").write_text(json.dumps({"metrics": {"n": N}}))'


def test_papermill_runs_a_copy_with_other_parameters(tmp_path):
    path = notebook(tmp_path / "01_a.ipynb", FINISH)
    before = path.read_bytes()
    assert execute.run_notebook(path, tmp_path / "out", {"N": 5})["metrics"] == {"n": 5}
    assert path.read_bytes() == before and (tmp_path / "out" / "01_a.ipynb").is_file()
    with pytest.raises(AvsError, match=r"no parameter 'M'; .*the parameters are N, OUT_DIR"):
        execute.run_notebook(path, tmp_path / "out", {"M": 5})


@pytest.mark.parametrize("source, message", [("1 / 0", "failed with ZeroDivisionError"), ("1", "lesson.finish")])
def test_a_failing_notebook_is_named(tmp_path, source, message):
    with pytest.raises(AvsError, match=message):
        execute.run_notebook(notebook(tmp_path / "01_a.ipynb", source), tmp_path / "out")


def test_parameter_files_are_checked(tmp_path):
    path, note = tmp_path / "p.yaml", notebook(tmp_path / "07_a.ipynb")
    path.write_text("all: {N: 2, FAST: true}\n07: {N: 3}\n", encoding="utf-8")
    assert execute.given_for(note, execute.read_parameters(path)) == {"N": 3}
    path.write_text("- N\n", encoding="utf-8")
    with pytest.raises(AvsError, match="expected sections"):
        execute.read_parameters(path)


def test_notebooks_are_found_by_number_and_name():
    assert [p.stem for p in execute.find(["7", "00_start_here"])] == ["07_orthogonality", "00_start_here"]
    with pytest.raises(AvsError, match="there are 00_start_here"):
        execute.find(["77"])


def test_papermills_form_of_parameters_is_understood():
    words = ["notebooks", "run", "-p", "A", "1", "03", "-p", "B=2", "--parameter", "C", "x=y"]
    joined = ["notebooks", "run", "-p", "A=1", "03", "-p", "B=2", "--parameter", "C=x=y"]
    assert join_pairs(words) == joined and join_pairs(["data", "-p", "A", "1"]) == ["data", "-p", "A", "1"]


@pytest.mark.parametrize(
    "text, default, value",
    [
        ("010", 0, 10),
        ("010", "", "010"),
        ("/data/mini #2", "", "/data/mini #2"),
        ("no", "", "no"),
        ("null", "", "null"),
        ("[a]", "", "[a]"),
        ("false", True, False),
        ("1e-3", 0.5, 0.001),
        ("010", 0.5, 10.0),
        ("[8, 010]", [8, 37], [8, 10]),
        ('[no, "a, b", 010]', [], ["no", "a, b", "010"]),
    ],
)
def test_a_text_is_read_as_the_type_of_its_parameter(tmp_path, text, default, value):
    path = notebook(tmp_path / "01_a.ipynb", parameters=f"N = {default!r}")
    found = execute.check_parameters(path, {"N": text}, as_text=True)["N"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text, default", [("0x10", 0), ("", 0), ("perhaps", True), ("nan", 0.5), ("a", []), ("[", [])])
def test_a_text_that_does_not_fit_is_refused(tmp_path, text, default):
    path = notebook(tmp_path / "01_a.ipynb", parameters=f"N = {default!r}")
    with pytest.raises(AvsError, match="N: expected a "):
        execute.check_parameters(path, {"N": text}, as_text=True)
