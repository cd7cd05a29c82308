"""Find the notebooks of the checkout, check their parameters, and execute copies by papermill."""

import ast
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avslib.core.errors import InstallError, NotebookError, OutputError
from avslib.core.parsing import LARGEST_YAML, parse_yaml, read_text
from avslib.course.lesson import METRICS, base_folder


def notebooks_folder() -> Path:
    """``notebooks/`` of the checkout.

    Raises:
        AvsError: the package is installed without a checkout.
    """
    folder = base_folder() / "notebooks"
    if not folder.is_dir():
        raise InstallError(f"{folder}: no such folder; the notebooks are only in the repository: run from a checkout")
    return folder


def find(chosen: Sequence[str] = (), *, solutions: bool = False) -> list[Path]:
    """Notebooks by number ("07"), name or path; all of them, in order, when none is named.

    Raises:
        AvsError: one that does not exist, with the list of those that do.
    """
    known = sorted((notebooks_folder() / ("solutions" if solutions else "")).glob("[0-9][0-9]_*.ipynb"))
    found = [] if chosen else known
    for text in chosen:
        name = Path(text).name.removesuffix(".ipynb")
        match = [p for p in known if name == p.stem or name.zfill(2) == p.stem[:2]]
        if not match:
            raise NotebookError(f"notebook {text!r}: not found; there are {', '.join(p.stem for p in known)}")
        found += match
    return found


def parameters(path: Path) -> dict[str, Any]:
    """The parameters of a notebook and their defaults, from its cell tagged ``parameters``."""
    import nbformat

    cells = nbformat.read(path, as_version=4).cells
    source = next((cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), "")
    try:  # papermill.inspect_notebook loses a parameter whose comment holds a bracket
        statements = [s for s in ast.parse(source).body if isinstance(s, ast.Assign)]
        return {s.targets[0].id: ast.literal_eval(s.value) for s in statements}
    except (SyntaxError, ValueError, AttributeError):
        raise NotebookError(f"{path.name}: its parameters cell must hold only lines NAME = literal") from None


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
            raise NotebookError(f"{path.name}: no parameter {name!r}; {hint}the parameters are {', '.join(known)}")


def read_parameters(path: str | Path) -> dict[str, dict[str, Any]]:
    """Parameters by notebook number from a YAML file; ``all`` holds for every notebook that has the name.

    Raises:
        AvsError: no such file, or not a mapping of mappings.
    """
    text = read_text(path, LARGEST_YAML, NotebookError, "a YAML file of parameters")
    values = parse_yaml(text, str(path), NotebookError) or {}
    if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values()):
        raise NotebookError(f"{path}: expected sections such as 'all:' or '07:', each with NAME: value lines")
    return {str(k).zfill(2): v for k, v in values.items()}


def given_for(path: Path, by_number: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `read_parameters` gives for one notebook: those of ``all`` that it has, then those under its number."""
    known = parameters(path)
    everywhere = {name: value for name, value in by_number.get("all", {}).items() if name in known}
    return everywhere | dict(by_number.get(path.stem[:2], {}))


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
    """Raise where `copy` is an earlier run with other parameters, which may have taken hours."""
    try:
        earlier = json.loads(copy.read_text(encoding="utf-8"))["metadata"]["papermill"]["parameters"]
    except (OSError, ValueError, KeyError, TypeError):  # no copy, or one that papermill did not finish writing
        return
    for name in sorted({*earlier, *given} - {"OUT_DIR"}):
        if earlier.get(name) != given.get(name):
            raise OutputError(f"{copy}: was run with another {name}; name another folder by --out, or remove it first")
