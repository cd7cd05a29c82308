"""Notebooks of a few cells."""

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from tools.refresh_notebooks import KERNEL


def notebook(path, *sources, parameters="N = 1\nOUT_DIR = ''"):
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), *(new_code_cell(s) for s in sources)]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": dict(KERNEL)}), path)
    return path
