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
