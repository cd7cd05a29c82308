"""The lessons, the pages of docs/ and the annotated source as an HTML site: Sphinx with MyST-NB, nothing is executed.

The site mirrors the repository, ``notebooks/05_elbo.html``, ``docs/faq.html``, ``avslib/losses/kl.html``, so that the
links of notebooks and pages lead to the right place without being changed.
"""

import io
import posixpath
import re
import shutil
import tempfile
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avslib.core.errors import InstallError, NotebookError, OutputError
from tools import beside

ROOT = Path(__file__).resolve().parents[1]
TITLE = "ECMVAE, term by term"
PICTURE = "results/demo/contact_sheet_s4.png"
STYLE = "book.css"
INDEX = """# {title}

Audio-visual segmentation with a conditional multimodal variational auto-encoder: from the first clip to the tables of
the paper, derived, run and checked. This is the course and the documentation of the Python package *avslib*.

| you want to | start here |
| --- | --- |
| learn the method | [lesson 00](notebooks/00_start_here.ipynb); each lesson is a notebook with its outputs |
| read the paper beside the code | [paper to code](docs/paper-to-code.md), the annotated [losses](avslib/losses/kl.md) |
| segment a video of yours | [your video](docs/video.md) |
| train on AVSBench | [AVSBench](docs/avsbench.md), then [training](docs/training.md) |
| know what was measured | [results](docs/results.md), [speed](docs/performance.md), [faults](docs/RELIABILITY.md) |
| solve a problem | [FAQ](docs/faq.md), [errors](docs/errors.md) |
| cite the paper or this package | [how to cite](docs/faq.md#how-do-i-cite-this) |

![Frames of Mini-AVS test clips: true outlines solid, predicted outlines dashed]({picture})
"""
TOCTREE = "\n```{{toctree}}\n:maxdepth: 1\n:caption: {}\n{}\n```\n"
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
SETTINGS: dict[str, Any] = {
    "project": TITLE,
    "author": "The avslib developers",
    "extensions": ["myst_nb", "sphinx-mathjax-offline"],
    "html_theme": "furo",
    "html_title": TITLE,
    "html_copy_source": False,
    "html_show_copyright": False,
    "html_css_files": [STYLE],
    "mathjax3_config": {"loader": {"load": ["input/asciimath"]}, "asciimath": {"delimiters": [["⟦", "⟧"]]}},
    "nb_execution_mode": "off",
    "nb_render_markdown_format": "gfm",  # tables in the outputs of cells
    "smartquotes": False,  # --options in prose
    "myst_enable_extensions": ["dollarmath", "amsmath", "colon_fence"],
    "myst_heading_anchors": 3,
    # pages link to folders of the repository, which are not pages of the book
    "suppress_warnings": ["myst.xref_missing", "mystnb.unknown_mime_type", "myst.header"],
}


def build_book(out: str | Path, root: Path = ROOT) -> Path:
    """Build the site of the checkout `root` into the folder `out` and return the path of its first page.

    Raises:
        AvsError: Sphinx is not installed, `out` holds something else, or a page cannot be built.
    """
    try:
        from sphinx.application import Sphinx
        from sphinx.errors import SphinxError
        from sphinx.util.docutils import docutils_namespace
    except ModuleNotFoundError:
        raise InstallError("the book needs Sphinx and its extensions: pip install 'avslib[book]'") from None
    out, index = Path(out), Path(out) / "index.html"
    is_book = index.is_file() and TITLE in index.read_text(encoding="utf-8", errors="replace")
    if out.exists() and not is_book and any(out.iterdir()):
        raise OutputError(f"{out} exists and holds no book: give another folder, or remove it first")
    with tempfile.TemporaryDirectory() as folder:
        source, site, warnings = Path(folder) / "source", Path(folder) / "site", io.StringIO()
        write_sources(root, source)
        try:
            paths = {"html_static_path": [str(source / "_static")]}
            trees, settings = (
                Path(folder) / "trees",
                {"confoverrides": SETTINGS | paths, "status": None, "freshenv": True},
            )
            with docutils_namespace():  # a second book in one process starts afresh
                book = Sphinx(source, None, site, trees, "html", warning=warnings, **settings)
                book.set_html_assets_policy("always")  # MathJax: Sphinx does not see the formulas beside the code
                book.build()
        except SphinxError as error:
            raise NotebookError(f"the book cannot be built: {error}") from None
        if book.statuscode or warnings.getvalue():
            first = warnings.getvalue().replace(f"{source}/", "").strip().partition("\n")[0]
            raise NotebookError(f"the book cannot be built: {first or 'a page has an error'}")
        if out.exists():
            shutil.rmtree(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(site, out)
    return index


def write_sources(root: Path, source: Path) -> None:
    """Fill `source` with what Sphinx reads: lessons, pages, annotated modules, what they link to, the first page."""
    lessons, solutions = (sorted(root.glob(f"notebooks/{part}[0-9][0-9]_*.ipynb")) for part in ("", "solutions/"))
    annotated = beside.pages(root)
    for place, text in annotated.items():
        _write(source / place, text)
    _write(source / "_static" / STYLE, beside.STYLE)
    # in the order in which the README links them
    readme = (root / "README.md").read_text(encoding="utf-8")
    pages = sorted(root.glob("docs/*.md"), key=lambda path: readme.find(f"docs/{path.name}") % (len(readme) + 1))
    waiting, more = [*lessons, *solutions, *pages], []
    seen = {*waiting}
    for path in waiting:
        place = path.relative_to(root).as_posix()
        links: set[str] = set()

        def follow(text: str, place: str = place, links: set[str] = links) -> str:
            return LINK.sub(lambda m: m[1] + _target(place, m[2], annotated, links) + m[3], text)

        _copy(path, source / place, follow)
        for target in (root / link for link in sorted(links)):
            if target.is_file() and target not in seen:
                seen.add(target)
                if target.suffix == ".md":
                    waiting.append(target)
                    more.append(target)
                elif target.suffix != ".ipynb":
                    _write(source / target.relative_to(root), target.read_bytes())
    _write(source / PICTURE, (root / PICTURE).read_bytes())
    sections = {"Lessons": lessons, "Pages": pages, "Text beside code": annotated, "More": more, "Solutions": solutions}
    text = INDEX.format(title=TITLE, picture=PICTURE)
    for caption, found in ((caption, found) for caption, found in sections.items() if found):
        places = (p if isinstance(p, str) else p.relative_to(root).as_posix() for p in found)
        text += TOCTREE.format(caption, "\n".join(place.rpartition(".")[0] for place in places))
    _write(source / "index.md", text)


def _target(place: str, link: str, annotated: dict[str, str], links: set[str]) -> str:
    """A link of the page at `place`, noted in `links`; to a module with an annotated page, it leads there."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(place), link))
    links.add(path)
    return link.removesuffix(".py") + ".md" if path.removesuffix(".py") + ".md" in annotated else link


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _by_picture(cell: Any) -> list[Any]:
    """The cell up to its second picture, and one without code for each further one: MyST-NB has one text per cell."""
    from nbformat.v4 import new_code_cell

    if cell.cell_type != "code":
        return [cell]
    parts, outputs, cell.outputs = [cell], cell.outputs, []
    for output in outputs:
        metadata = output.get("metadata", {})
        if alt := metadata.get("image/png", {}).get("alt") or metadata.get("alt"):
            if "mystnb" in parts[-1].metadata:
                parts.append(new_code_cell("...", metadata={"tags": ["remove-input"]}))
            parts[-1].metadata["mystnb"] = {"image": {"alt": alt}}
        parts[-1].outputs.append(output)
    return parts


def _copy(path: Path, target: Path, follow: Callable[[str], str]) -> None:
    """A page with its links followed; of a notebook, its language and its pictures' texts go where MyST-NB looks, and
    the cell for Colab is left out."""
    if path.suffix == ".md":
        return _write(target, follow(path.read_text(encoding="utf-8")))
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
    notebook.cells = [cell for cell in notebook.cells if "colab" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = follow(cell.source)
            for name, picture in cell.pop("attachments", {}).items():  # which MyST-NB does not know
                file = f"{target.stem}_{name}"
                _write(target.with_name(file), b64decode(picture["image/png"]))
                cell.source = cell.source.replace(f"attachment:{name}", file)
    notebook.cells = [part for cell in notebook.cells for part in _by_picture(cell)]
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
