"""Pages lead where they say: links, anchors, the code and tests that "Paper to code" names; and how long a page is."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS, *sorted((ROOT / "results").glob("*/README.md"))]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
TWO_SCREENS = 2 * 60  # lines of Markdown


def names(path: Path) -> set[str]:
    """Functions, classes and methods (``Class.method``) that a file defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    methods = {f"{n}.{m.name}" for n, c in found.items() for m in c.body if isinstance(m, ast.FunctionDef)}
    return set(found) | methods


def anchors(text: str) -> set[str]:
    """GitHub's anchors of the headings, and those written as ``<a id="name">``."""
    headings = re.findall(r"^#+ +(.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    named = set(re.findall(r'<a id="([\w-]+)"></a>', text))
    return named | {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def markdown(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")


@pytest.mark.parametrize("page", [*PAGES, *LESSONS], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    for link in LINK.findall(markdown(page)):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(markdown(target)), link


def test_the_diagram_is_readable_in_every_theme():
    """Text as text, of 10 pixels or more where it is shown 700 pixels wide (indices less), on a white background."""
    tags = re.findall(r"<(\w+)([^>]*)>", (ROOT / "docs/figures/network.svg").read_text(encoding="utf-8"))
    nodes = [(tag, dict(re.findall(r'([\w-]+)="([^"]*)"', values))) for tag, values in tags]
    svg, background = nodes[0][1], next(values for tag, values in nodes if tag == "rect")
    assert background["fill"] == "#ffffff" and all(background[side] == svg[side] for side in ("width", "height"))
    sizes = [float(values.get("font-size", svg["font-size"])) for tag, values in nodes if tag == "text"]
    assert len(sizes) > 60 and min(sizes) * 700 / float(svg["width"]) > 10
    assert "image" not in dict(nodes)


def rows_of_paper_to_code() -> list[list[str]]:
    lines = (ROOT / "docs" / "paper-to-code.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [row for row in rows if row[1] not in ("code", "---")]


@pytest.mark.parametrize("row", rows_of_paper_to_code(), ids=lambda row: row[0])
def test_paper_to_code_names_what_exists(row):
    _, code, file, lesson, test = row
    file, lesson = (ROOT / "docs" / LINK.search(cell)[1] for cell in (file, lesson))
    assert code.strip("`") in names(file)
    assert lesson in [ROOT / "docs/../notebooks" / path.name for path in LESSONS]
    assert test.split("`")[1] in names(ROOT / "docs" / LINK.search(test)[1])


def test_paper_to_code_has_every_loss_and_module_of_the_model():
    text = (ROOT / "docs" / "paper-to-code.md").read_text(encoding="utf-8")
    files = [*(ROOT / "avslib/losses").glob("*.py"), *(ROOT / "avslib/models").glob("*.py")]
    # what keeps numbers finite is not a part of the paper
    missing = {f"{f.parent.name}/{f.name}" for f in files if f"{f.parent.name}/{f.name}" not in text}
    assert missing == {"losses/__init__.py", "models/__init__.py"}


@pytest.mark.parametrize("page", [page for page in DOCS if page.stem != "LICENSES"], ids=lambda page: page.stem)
def test_a_page_has_at_most_two_screens_before_its_tables(page):
    before = re.split(r"^(?:\||<!-- table:)", page.read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)[0]
    assert len(before.splitlines()) <= TWO_SCREENS
    assert f"docs/{page.name}" in (ROOT / "README.md").read_text(encoding="utf-8"), "README links every page"
