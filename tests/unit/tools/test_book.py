"""The book: lessons, pages and annotated modules with search, words for every picture, links that lead somewhere."""

import base64
import re

import nbformat
import pytest

from avslib.core.errors import AvsError
from tests.helpers.book_files import broken_links
from tests.helpers.notebook_files import notebook
from tools.book import PICTURE, build_book

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
MODULE = '''"""Of a term."""


def term(x):
    """Twice `x` [N]; see :func:`term` of *nobody*.

        term(x) = sum_n 2 x_n where x_n = mu / sigma

    Args:
        x: a number
            or two.

    >>> term(1)
    2
    """
    # doubled
    return 2 * x
'''


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    for folder in ("notebooks", "docs", "avslib/losses", "results/demo"):
        (root / folder).mkdir(parents=True)
    lesson = notebook(root / "notebooks" / "01_a.ipynb", "1")
    content = nbformat.read(lesson, as_version=4)
    content.cells[1].outputs = [
        nbformat.v4.new_output("display_data", {"image/png": PIXEL}, metadata={"image/png": {"alt": alt}})
        for alt in ("one pixel", "the same pixel")
    ]
    table = "| a | b |\n| --- | --- |\n| 1 | --no |\n"
    content.cells[1].outputs.append(nbformat.v4.new_output("display_data", {"text/markdown": table}))
    content.cells.insert(0, nbformat.v4.new_markdown_cell("# A lesson\n\n$x^2$, [a page](../docs/faq.md#a-question)"))
    nbformat.write(content, lesson)
    (root / "README.md").write_text("# Package\n", encoding="utf-8")
    (root / PICTURE).write_bytes(base64.b64decode(PIXEL))
    page = "# FAQ\n\n## A question\n\n[t](../avslib/losses/term.py), [study](../results/README.md), [log](../run.py)\n"
    (root / "docs" / "faq.md").write_text(page, encoding="utf-8")
    (root / "results" / "README.md").write_text("# A study\n", encoding="utf-8")
    (root / "run.py").write_text("print()\n", encoding="utf-8")
    (root / "avslib" / "losses" / "term.py").write_text(MODULE, encoding="utf-8")
    return root


def test_the_book_has_pages_search_and_picture_texts(checkout, tmp_path):
    page = build_book(tmp_path / "book", checkout)
    first = page.read_text(encoding="utf-8")
    assert all(title in first for title in ("A lesson", "FAQ", "losses/term.py")) and "A study" in first
    assert (page.parent / "search.html").is_file()
    text = (page.parent / "notebooks/01_a.html").read_text(encoding="utf-8")
    assert 'alt="one pixel"' in text and 'alt="the same pixel"' in text and "_static/mathjax" in text
    assert re.search(r"<td>(<p>)?--no", text)  # a table in an output, and no dash made of two hyphens
    # the first page of a real book names pages that this checkout does not have
    assert [link for link in broken_links(page.parent) if not link.startswith("index.html")] == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(AvsError, match="holds no book"):
        build_book(tmp_path / "mine", checkout)


def test_a_module_stands_beside_its_text(checkout, tmp_path):
    build_book(tmp_path / "book", checkout)
    text = (tmp_path / "book/avslib/losses/term.html").read_text(encoding="utf-8")
    shown = text.replace("&quot;", '"')
    assert '⟦"term"(x) = sum_n 2 x_n⟧' in shown and '⟦"where "x_n = mu / sigma⟧' in shown
    words, code = re.findall(r'<div class="(words|code) docutils container">(.*?)</div>\n</div>', text, re.DOTALL)[-2:]
    assert words[0] == "words" and "*nobody*" in words[1] and "a number or two." in words[1]
    assert code[0] == "code" and "doubled" in code[1] and "Twice" not in code[1]
    assert '"input/asciimath"' in text
