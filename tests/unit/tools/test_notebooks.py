"""The runner of the notebooks: it finds them, checks their parameters and executes copies."""

import pytest

from avslib.core.errors import AvsError
from tests.helpers.notebook_files import notebook
from tools import notebooks
from tools.notebooks_command import join_pairs

FINISH = 'import json, pathlib; pathlib.Path(OUT_DIR, "metrics.json").write_text(json.dumps({"metrics": {"n": N}}))'


def test_papermill_runs_a_copy_with_other_parameters(tmp_path):
    path = notebook(tmp_path / "01_a.ipynb", FINISH)
    before = path.read_bytes()
    assert notebooks.run_notebook(path, tmp_path / "out", {"N": 5})["metrics"] == {"n": 5}
    assert path.read_bytes() == before and (tmp_path / "out" / "01_a.ipynb").is_file()
    with pytest.raises(AvsError, match=r"no parameter 'M'; .*the parameters are N, OUT_DIR"):
        notebooks.run_notebook(path, tmp_path / "out", {"M": 5})


@pytest.mark.parametrize("source, message", [("1 / 0", "failed with ZeroDivisionError"), ("1", "lesson.finish")])
def test_a_failing_notebook_is_named(tmp_path, source, message):
    with pytest.raises(AvsError, match=message):
        notebooks.run_notebook(notebook(tmp_path / "01_a.ipynb", source), tmp_path / "out")


def test_parameter_files_are_checked(tmp_path):
    path, note = tmp_path / "p.yaml", notebook(tmp_path / "07_a.ipynb")
    path.write_text("all: {N: 2, FAST: true}\n07: {N: 3}\n", encoding="utf-8")
    assert notebooks.given_for(note, notebooks.read_parameters(path)) == {"N": 3}
    path.write_text("- N\n", encoding="utf-8")
    with pytest.raises(AvsError, match="expected sections"):
        notebooks.read_parameters(path)


def test_notebooks_are_found_by_number_and_name():
    assert [p.stem for p in notebooks.find(["7", "00_start_here"])] == ["07_orthogonality", "00_start_here"]
    with pytest.raises(AvsError, match="there are 00_start_here"):
        notebooks.find(["77"])


def test_papermills_form_of_parameters_is_understood():
    words = ["run", "-p", "A", "1", "03", "-p", "B=2", "--parameter", "C", "x=y"]
    joined = ["run", "-p", "A=1", "03", "-p", "B=2", "--parameter", "C=x=y"]
    assert join_pairs(words) == joined


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
    found = notebooks.check_parameters(path, {"N": text}, as_text=True)["N"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text, default", [("0x10", 0), ("", 0), ("perhaps", True), ("nan", 0.5), ("a", []), ("[", [])])
def test_a_text_that_does_not_fit_is_refused(tmp_path, text, default):
    path = notebook(tmp_path / "01_a.ipynb", parameters=f"N = {default!r}")
    with pytest.raises(AvsError, match="N: expected a "):
        notebooks.check_parameters(path, {"N": text}, as_text=True)


def test_device_and_fast_are_short_for_parameters(monkeypatch):
    from tools import notebooks_command

    given = []

    def run_copies(chosen, texts, *_, **__):
        given.append((chosen, texts))
        return iter([(True, "done")])

    monkeypatch.setattr(notebooks_command, "run_copies", run_copies)
    with pytest.raises(SystemExit) as end:
        notebooks_command.main(["run", "02", "--full", "--device", "cuda:1", "-p", "SEED", "3"])
    assert not end.value.code and given == [(["02"], ["FAST=False", "DEVICE=cuda:1", "SEED=3"])]
