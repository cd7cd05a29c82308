"""The notebooks as an HTML site: Sphinx with MyST-NB reads them with their stored outputs and executes nothing."""

import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from avslib.core.errors import InstallError, NotebookError, OutputError
from avslib.course.execute import find

TITLE = "ECMVAE, term by term"
INDEX = """# {title}

The course of the package *avslib*: audio-visual segmentation with a conditional multimodal variational auto-encoder,
from the first clip to the tables of the paper, derived, run and checked. Each page is a notebook; the outputs are the
ones that the repository stores and its tests compare.

```{{toctree}}
:maxdepth: 1
:caption: Lessons
{lessons}
```

```{{toctree}}
:maxdepth: 1
:caption: Solutions
{solutions}
```
"""
SETTINGS: dict[str, Any] = {
    "project": TITLE,
    "author": "The avslib developers",
    "extensions": ["myst_nb", "sphinx-mathjax-offline"],
    "html_theme": "furo",
    "html_title": TITLE,
    "html_copy_source": False,
    "nb_execution_mode": "off",
    "myst_enable_extensions": ["dollarmath", "amsmath"],
    # lessons link to files of the repository that are no pages of the book
    "suppress_warnings": ["myst.xref_missing", "mystnb.unknown_mime_type", "myst.header"],
}


def build_book(out: str | Path) -> Path:
    """Build the site into the folder `out` and return the path of its first page.

    Raises:
        AvsError: Sphinx is not installed, `out` holds something else, or a page cannot be built.
    """
    try:
        from sphinx.application import Sphinx
        from sphinx.errors import SphinxError
    except ModuleNotFoundError:
        raise InstallError("the book needs Sphinx and its extensions: pip install 'avslib[book]'") from None
    out = Path(out)
    if out.exists() and not _is_book(out) and any(out.iterdir()):
        raise OutputError(f"{out} exists and holds no book: give another folder, or remove it first")
    lessons, solutions = find(), find(solutions=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        (source / "solutions").mkdir(parents=True)
        for path in lessons:
            _copy(path, source / path.name)
        for path in solutions:
            _copy(path, source / "solutions" / path.name)
        index = INDEX.format(
            title=TITLE,
            lessons="\n".join(path.stem for path in lessons),
            solutions="\n".join(f"solutions/{path.stem}" for path in solutions),
        )
        (source / "index.md").write_text(index, encoding="utf-8")
        site, trees, warnings = Path(folder) / "site", Path(folder) / "trees", io.StringIO()
        try:
            application = Sphinx(
                source, None, site, trees, "html", confoverrides=SETTINGS, status=None, warning=warnings, freshenv=True
            )
            application.build()
        except SphinxError as error:
            raise NotebookError(f"the book cannot be built: {error}") from None
        if application.statuscode or warnings.getvalue():
            first = warnings.getvalue().replace(str(source), "notebooks").strip().splitlines()
            raise NotebookError(f"the book cannot be built: {first[0] if first else 'a page has an error'}")
        if out.exists():
            shutil.rmtree(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(site, out)
    return out / "index.html"


def _is_book(folder: Path) -> bool:
    """Whether it is the site that is made here, and not another one of Sphinx's."""
    index = folder / "index.html"
    return index.is_file() and TITLE in index.read_text(encoding="utf-8", errors="replace")


def _copy(path: Path, target: Path) -> None:
    """The notebook with the alternative text of its pictures and its language where MyST-NB looks for them."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt") or output.get("metadata", {}).get("alt")
            if alt:
                cell.metadata["mystnb"] = {"image": {"alt": alt}}
    nbformat.write(notebook, target)
