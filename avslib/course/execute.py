"""Execute the committed notebooks: copies with other parameters by papermill, or their stored outputs anew."""

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avslib.core.errors import InstallError, NotebookError, OutputError
from avslib.core.files import atomic_path
from avslib.core.parsing import LARGEST_YAML, parse_yaml, read_text
from avslib.course.lesson import METRICS, base_folder

# a notebook with its stored outputs; larger ones load slowly on the web
MAX_BYTES = 300_000
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebooks_folder() -> Path:
    """``notebooks/`` of the checkout.

    Raises:
        AvsError: the package is installed without a checkout.
    """
    folder = base_folder() / "notebooks"
    if not folder.is_dir():
        raise InstallError(
            f"{folder}: no such folder; the notebooks are in the repository, not in the installed package"
        )
    return folder


def find(chosen: Sequence[str] = (), *, solutions: bool = False) -> list[Path]:
    """Notebooks by number ("07"), name or path; all of them, in order, when none is named.

    Raises:
        AvsError: one that does not exist, with the list of those that do.
    """
    folder = notebooks_folder() / ("solutions" if solutions else "")
    known = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not chosen:
        return known
    found = []
    for text in chosen:
        name = Path(text).name.removesuffix(".ipynb")
        match = [p for p in known if p.stem == name or p.stem.split("_")[0] == name.zfill(2)]
        if not match:
            raise NotebookError(f"notebook {text!r}: not found; there are {', '.join(p.stem for p in known)}")
        found += match
    return found


def parameters(path: Path) -> dict[str, Any]:
    """The parameters of a notebook and their defaults, from its cell tagged ``parameters``."""
    import ast

    import nbformat

    cells = nbformat.read(path, as_version=4).cells
    source = next((cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), "")
    try:
        statements = [s for s in ast.parse(source).body if isinstance(s, ast.Assign)]
        return {s.targets[0].id: ast.literal_eval(s.value) for s in statements}
    except (SyntaxError, ValueError, AttributeError):
        raise NotebookError(f"{path.name}: its parameters cell must hold lines NAME = literal alone") from None


def check_parameters(path: Path, given: Mapping[str, Any]) -> None:
    """Refuse names that the notebook does not have (papermill only warns).

    Raises:
        AvsError: a name that is not a parameter, with the nearest one and the whole list.
    """
    known = parameters(path)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise NotebookError(
                f"{path.name}: there is no parameter {name!r}; {hint}the parameters are {', '.join(known)}"
            )


def read_parameters(path: str | Path) -> dict[str, dict[str, Any]]:
    """Parameters by notebook number from a YAML file; ``all`` holds for every notebook that has the name.

    Raises:
        AvsError: no such file, or not a mapping of mappings.
    """
    text = read_text(path, LARGEST_YAML, NotebookError, "a YAML file of parameters")
    values = parse_yaml(text, str(path), NotebookError) or {}
    if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values()):
        raise NotebookError(f"{path}: expected sections such as 'all:' or '07:', each with NAME: value lines")
    return {str(k).zfill(2) if str(k) != "all" else "all": v for k, v in values.items()}


def given_for(path: Path, by_number: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `read_parameters` gives for one notebook: those of ``all`` that it has, then those under its number."""
    known = parameters(path)
    everywhere = {name: value for name, value in by_number.get("all", {}).items() if name in known}
    return everywhere | dict(by_number.get(path.stem.split("_")[0], {}))


def run_notebook(
    path: Path, out: Path, given: Mapping[str, Any] | None = None, *, progress: bool = False
) -> dict[str, Any]:
    """Execute a copy of a notebook by papermill.

    Args:
        path: the notebook; it is not changed.
        out: folder for the executed copy and, unless OUT_DIR is given, for what the notebook writes.
        given: parameters by name.

    Returns:
        the notebook's ``metrics.json``.

    Raises:
        AvsError: unknown parameters; `out` holds a copy that was run with other ones; a cell that fails (its error and
            where the copy with the traceback is).
    """
    import papermill

    given = {"OUT_DIR": str(out), **(given or {})}
    check_parameters(path, given)
    out.mkdir(parents=True, exist_ok=True)
    copy, metrics = out / path.name, Path(given["OUT_DIR"]) / METRICS
    _require_same(copy, given)
    metrics.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            str(path), str(copy), parameters=given, kernel_name="python3", cwd=str(path.parent), progress_bar=progress
        )
    except papermill.PapermillExecutionError as error:
        raise NotebookError(
            f"{path.name}: cell {error.exec_count} failed with {error.ename}: {error.evalue}; executed copy: {copy}"
        ) from None
    if not metrics.is_file():
        raise NotebookError(f"{path.name} ended without writing {METRICS}; its last cell must call lesson.finish(...)")
    return json.loads(metrics.read_text(encoding="utf-8"))


def _require_same(copy: Path, given: Mapping[str, Any]) -> None:
    """Raise where `copy` is an earlier run with other parameters: hours of it may be there."""
    try:
        earlier = json.loads(copy.read_text(encoding="utf-8"))["metadata"]["papermill"]["parameters"]
    except (OSError, ValueError, KeyError, TypeError):  # none, or none that was begun
        return
    for name in sorted({*earlier, *given} - {"OUT_DIR"}):
        if earlier.get(name) != given.get(name):
            raise OutputError(f"{copy}: was run with another {name}; name another folder by --out, or remove it first")


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
    text = nbformat.writes(notebook) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise NotebookError(
            f"{path.name}: {len(text.encode())} bytes with its outputs, more than {MAX_BYTES}; show less"
        )
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def _tidy(notebook: Any) -> None:
    """Metadata that differs by machine goes; cell ids are numbered; what only this machine prints is taken out."""
    notebook.metadata = {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in ("tags", "scrolled", "mystnb")}
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = _without_paths(output.text)


def _without_paths(text: str) -> str:
    text = text.replace(str(base_folder()) + os.sep, "").replace(str(Path.home()), "~")
    return re.sub(r"(?<![\w.])/tmp/[\w./-]+", "<temporary folder>", text)
