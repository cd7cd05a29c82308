"""The notebooks as an HTML site: Sphinx with MyST-NB reads them with their stored outputs and executes nothing."""

import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from avslib.core.errors import InstallError, NotebookError, OutputError
from tools.notebooks import find

TITLE = "ECMVAE, term by term"
INDEX = """# {title}

The course of the package *avslib*: audio-visual segmentation with a conditional multimodal variational auto-encoder,
from the first clip to the tables of the paper, derived, run and checked. Each page is a notebook; its outputs are
those that the repository stores and its tests compare.

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
    # lessons link to files of the repository that are not pages of the book
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
    out, index = Path(out), Path(out) / "index.html"
    is_book = index.is_file() and TITLE in index.read_text(encoding="utf-8", errors="replace")
    if out.exists() and not is_book and any(out.iterdir()):
        raise OutputError(f"{out} exists and holds no book: give another folder, or remove it first")
    with tempfile.TemporaryDirectory() as folder:
        source, site, warnings = Path(folder) / "source", Path(folder) / "site", io.StringIO()
        pages = {path: path.stem for path in find()} | {path: f"solutions/{path.stem}" for path in find(solutions=True)}
        (source / "solutions").mkdir(parents=True)
        for path, page in pages.items():
            _copy(path, source / f"{page}.ipynb")
        lessons, solutions = ("\n".join(p for p in pages.values() if ("/" in p) is part) for part in (False, True))
        text = INDEX.format(title=TITLE, lessons=lessons, solutions=solutions)
        (source / "index.md").write_text(text, encoding="utf-8")
        try:
            trees, settings = Path(folder) / "trees", {"confoverrides": SETTINGS, "status": None, "freshenv": True}
            book = Sphinx(source, None, site, trees, "html", warning=warnings, **settings)
            book.build()
        except SphinxError as error:
            raise NotebookError(f"the book cannot be built: {error}") from None
        if book.statuscode or warnings.getvalue():
            first = warnings.getvalue().replace(str(source), "notebooks").strip().partition("\n")[0]
            raise NotebookError(f"the book cannot be built: {first or 'a page has an error'}")
        if out.exists():
            shutil.rmtree(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(site, out)
    return index


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
