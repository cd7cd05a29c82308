"""Store the outputs of the committed notebooks again: executed with their defaults, free of what differs by machine.

avs notebooks refresh [NN]... [--solutions]
"""

import os
import re
from pathlib import Path
from typing import Any

from avslib.core.errors import NotebookError
from avslib.core.files import atomic_path
from course.lesson import base_folder

MAX_BYTES = 700_000  # of a notebook with its outputs; larger ones load slowly on the web
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def refresh(path: Path, *, timeout: int = 600) -> None:
    """Execute a committed notebook with its defaults and store its outputs in place, free of timings and widget state.

    Raises:
        AvsError: a cell fails, or the result is larger than `MAX_BYTES`; the file stays as it was.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise NotebookError(f"{path.name}: a cell failed with {error.ename}: {error.evalue}") from None
    _tidy(notebook)
    _still(notebook)
    text = nbformat.writes(notebook) + "\n"
    if (size := len(text.encode())) > MAX_BYTES:
        raise NotebookError(f"{path.name}: {size} bytes with its outputs, more than {MAX_BYTES}; show less")
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def _tidy(notebook: Any) -> None:
    """Drop metadata that differs by machine, number the cells' ids, and take this machine's paths out of outputs."""
    notebook.metadata = {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in ("tags", "scrolled", "mystnb", "jupyter")}
        for output in cell.get("outputs", []):
            if "text" in output:
                text = output.text.replace(str(base_folder()) + os.sep, "").replace(str(Path.home()), "~")
                output.text = re.sub(r"(?<![\w.])/tmp/[\w./-]+", "<temporary folder>", text)


def _still(notebook: Any) -> None:
    """What shows where no kernel runs: a widget's picture or form in its place; the picture of the opening.

    The opening, the first cell, shows the first picture of the cell with the tag "opening" as its attachment.
    """
    for cell in notebook.cells:
        pictures = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if {"image/png", "text/html"} & data.keys():
                data.pop("application/vnd.jupyter.widget-view+json", None)
            pictures += [data["image/png"]] if "image/png" in data else []
        if "opening" in cell.metadata.get("tags", []):
            notebook.cells[0].attachments = {"opening.png": {"image/png": pictures[0]}}
