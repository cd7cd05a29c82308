"""Find the notebooks of the checkout, check their parameters, and execute copies by papermill."""

import ast
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from avslib.core.errors import AvsError, NotebookError, OutputError, SweepError, UsageError
from avslib.core.parsing import LARGEST_YAML, parse_yaml, read_text
from avslib.study.records import RunRecord, load_records, portable, variant_hash
from avslib.study.results import flat_config
from avslib.study.sweep.grid import OWN_FIELDS, Job
from avslib.variants import variant
from course.lesson import METRICS, STANDARD, as_parameter, in_checkout

# a notebook runs in its own folder, but the user names paths from the current one
PATHS = ("DATA_ROOT", "OUT_DIR", "AUDIO_WEIGHTS", "VGGISH_WEIGHTS", "VIDEO")


def find(chosen: Sequence[str] = (), *, solutions: bool = False) -> list[Path]:
    """Notebooks by number ("07"), name or path; all of them, in order, when none is named.

    Raises AvsError for one that does not exist, with the list of those that do.
    """
    known = sorted(in_checkout("notebooks/solutions" if solutions else "notebooks").glob("[0-9][0-9]_*.ipynb"))
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


def check_parameters(path: Path, given: Mapping[str, Any], *, as_text: bool = False) -> dict[str, Any]:
    """`given`, whose names must be parameters of the notebook and whose values of the types of their defaults.

    With `as_text`, texts from a command line are read as that type: a text as typed, numbers decimal, a list as
    ``[a, b]``. Raises AvsError for a name that the notebook does not have, with all that it has, and for a wrong value.
    """
    known, values = parameters(path), {}
    for name, value in given.items():
        if name not in known:
            raise NotebookError(f"{path.name}: no parameter {name!r}; the parameters are {', '.join(known)}")
        kind = STANDARD.get(name, type(known[name]))
        if kind is list:
            kind = list[type(known[name][0]) if known[name] else str]
            value = _split(value) if as_text else value
        values[name] = as_parameter(name, kind, value, strict=not as_text)
    return values


def _split(text: str) -> Any:
    try:
        return yaml.BaseLoader(text).get_single_data()  # which makes only lists, mappings and texts
    except yaml.YAMLError:
        return text


def read_parameters(path: str | Path) -> dict[str, dict[str, Any]]:
    """Parameters by notebook number from a YAML file; ``all`` holds for every notebook that has the name.

    Raises AvsError where the file is missing or not a mapping of mappings.
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


def run_notebook(path: Path, out: Path, given: Mapping[str, Any] = {}, *, progress: bool = False) -> dict[str, Any]:
    """Execute a copy of a notebook in the folder `out` (also OUT_DIR, unless given) by papermill: its ``metrics.json``.

    Raises AvsError for wrong parameters, for an `out` with a copy that was run with other ones, and for a cell that
    fails (with its error and where the copy with the traceback is).
    """
    import papermill

    given = check_parameters(path, {"OUT_DIR": str(out), **given})
    copy, metrics = out / path.name, Path(given["OUT_DIR"]) / METRICS
    _require_same(copy, given)
    out.mkdir(parents=True, exist_ok=True)
    metrics.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(path, copy, given, kernel_name="python3", cwd=path.parent, progress_bar=progress)
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
            raise OutputError(f"{copy}: was run with a different {name}; name another folder with --out, or remove it")


def run_copies(
    chosen: Sequence[str],
    texts: Sequence[str],
    file: Path | None,
    out: Path,
    solutions: bool,
    *,
    progress: bool = False,
) -> Iterator[tuple[bool, str]]:
    """Execute copies of the `chosen` notebooks, each in a folder of its own in `out`; yields whether each succeeded,
    and a sentence with its metrics or its error.

    `texts` holds parameters as NAME=VALUE for all of them, `file` is one for `read_parameters`. Raises AvsError before
    the first notebook starts where a parameter does not fit.
    """
    by_number, own = read_parameters(file) if file else {}, dict(map(_name_and_value, texts))
    known = [(path.stem[:2], parameters(path)) for path in (*find(), *find(solutions=True)) if file]
    for number, name in ((number, name) for number, values in by_number.items() for name in values):
        if not any(number in (one, "all") and name in names for one, names in known):
            raise NotebookError(f"{file}: {number}: {name}: there is no such notebook, or it has no such parameter")
    given = {
        path: check_parameters(path, given_for(path, by_number) | check_parameters(path, own, as_text=True))
        for path in find(chosen, solutions=solutions)
    }
    if "OUT_DIR" in own and len(given) > 1:
        raise UsageError("OUT_DIR: several notebooks would share one folder; use --out DIR, which has one for each")
    folder = out.resolve() / ("solutions" if solutions else "")
    for path, values in given.items():
        try:
            result = run_notebook(path, folder / path.stem, values, progress=progress)
        except AvsError as error:
            yield False, f"{path.stem}: failed: {error}"
        else:
            metrics = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in result["metrics"].items()]
            yield True, ", ".join([f"{path.stem}: {result['checks']} checks, {result['seconds']:.0f} s", *metrics])


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"parameter {text!r}: expected NAME=VALUE or NAME VALUE, for example -p SEED=1")
    return name, str(Path(value).resolve()) if name in PATHS and value else value


def run_lesson(job: Job, folder: Path, number: int, fast: bool) -> RunRecord:
    """Execute a copy of a lesson with the job's parameters; returns the record of its run of this configuration.

    Raises AvsError when the lesson fails, or leaves no record of this run.
    """
    path, config, own = find([str(number)])[0], job.config.model_dump(mode="json"), variant(job.variant)
    # whatever the lesson sets by itself, the job's values stand; except those of the variant, since the lesson trains
    # the full model under the same overrides
    given = {name: value for name, value in flat_config(config).items() if own.get(name, ...) != value}
    overrides = [f"{name}={json.dumps(value)}" for name, value in given.items() if name not in OWN_FIELDS]
    (folder / path.name).unlink(missing_ok=True)  # other workers, with other paths, may have begun a copy
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # for the kernel
    parameters = {"VARIANT": job.variant, "SEED": job.seed, "TASK": job.task, "FAST": fast, "OVERRIDES": overrides}
    run_notebook(path, folder, parameters | {"DATA_ROOT": job.config.data.root})
    for record in load_records(folder / "runs"):
        if (record.seed, variant_hash(record.config)) == (job.seed, variant_hash(portable(config))):
            return record
    raise SweepError(f"{path.name}: left no record of {job.method}, seed {job.seed}, in {folder / 'runs'}")
