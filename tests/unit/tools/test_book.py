"""The book: pages with search, and words for every picture."""

import nbformat
import pytest

from avslib.core.errors import AvsError
from tests.helpers.notebook_files import notebook
from tools import book


def test_the_book_has_pages_search_and_picture_texts(tmp_path, monkeypatch):
    lesson = notebook(tmp_path / "01_a.ipynb", "1")
    content = nbformat.read(lesson, as_version=4)
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    content.cells[1].outputs = [
        nbformat.v4.new_output("display_data", {"image/png": pixel}, metadata={"image/png": {"alt": "one pixel"}})
    ]
    content.cells.insert(0, nbformat.v4.new_markdown_cell("# A lesson\n\n$x^2$"))
    nbformat.write(content, lesson)
    monkeypatch.setattr(book, "find", lambda solutions=False: [] if solutions else [lesson])
    page = book.build_book(tmp_path / "book")
    assert "A lesson" in page.read_text(encoding="utf-8") and (page.parent / "search.html").is_file()
    text = (page.parent / "01_a.html").read_text(encoding="utf-8")
    assert 'alt="one pixel"' in text and "_static/mathjax" in text
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(AvsError, match="holds no book"):
        book.build_book(tmp_path / "mine")
