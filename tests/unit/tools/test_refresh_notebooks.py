"""Stored outputs are renewed in place, or the notebook stays as it was."""

import nbformat
import pytest

from avslib.core.errors import AvsError
from tests.helpers.notebook_files import notebook
from tools import refresh_notebooks
from tools.refresh_notebooks import refresh


def test_refresh_stores_outputs_or_leaves_the_file_alone(tmp_path, monkeypatch):
    path = notebook(tmp_path / "01_a.ipynb", "import os; print(os.path.expanduser('~/x'))")
    refresh(path)
    done = nbformat.read(path, as_version=4)
    assert done.cells[1].outputs[0].text.strip().endswith("x") and "execution" not in done.cells[1].metadata
    before = path.read_bytes()
    monkeypatch.setattr(refresh_notebooks, "MAX_BYTES", 100)
    with pytest.raises(AvsError, match="show less"):
        refresh(path)
    assert path.read_bytes() == before


FORM = "from course.quiz import quiz; quiz(('Which?', ['a', 'b'], 0, 'It is.'))"
PICTURE = "import matplotlib.pyplot as plt; from course import show; show(plt.figure(figsize=(1, 1)), 'A blank')"


def test_what_shows_without_a_kernel_is_stored_and_the_opening_gets_its_picture(tmp_path):
    pytest.importorskip("ipywidgets")
    path = notebook(tmp_path / "01_a.ipynb", FORM)
    source = nbformat.read(path, as_version=4)
    source.cells.insert(0, nbformat.v4.new_markdown_cell("# A"))
    source.cells.append(nbformat.v4.new_code_cell(PICTURE, metadata={"tags": ["opening"]}))
    nbformat.write(source, path)
    refresh(path)
    first, _, form, picture = nbformat.read(path, as_version=4).cells
    assert set(form.outputs[0].data) == {"text/plain", "text/html"}
    assert first.attachments["opening.png"] == {"image/png": picture.outputs[0].data["image/png"]}
