"""Text beside code: a page for each module of the model and the losses, docstrings on the left, source on the right.

An indented paragraph of a docstring is a formula in AsciiMath, which reads as plain text and which MathJax renders.
"""

import ast
import html
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

# words that AsciiMath knows; others of two letters or more are set upright, as names
KNOWN = re.compile("alpha|beta|gamma|delta|epsilon|theta|lambda|mu|pi|rho|sigma|tau|phi|sum|sqrt|log|exp|bar|hat|xx|in")
STYLE = """
.content:has(.beside) { width: 100%; max-width: 92em; }
.beside { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 4fr); gap: 0 2em; }
.beside .highlight { font-size: 0.8em; }
.beside pre { white-space: pre-wrap; }
.beside p:first-child, .beside div[class*="highlight-"]:first-child { margin-top: 0; }
div.math.asciimath { overflow-x: auto; overflow-y: hidden; padding: 0.2em 0 0.2em 1em; }
div.math.asciimath { text-align: left; font-size: 0.9em; }
.content:has(.beside) h2 { font-size: 1.3em; margin-bottom: 0.4em; }
td:last-child code { overflow-wrap: anywhere; }
td:first-child { min-width: 9em; }
.content:has(th:nth-child(7)) table { font-size: 0.75em; }
@media (min-width: 82em) { .content:has(th:nth-child(5)) { width: min(80em, 100vw - 24em); } }
.content:has(th:nth-child(5)) ~ .toc-drawer { display: none; }
@media (max-width: 70em) { .beside { grid-template-columns: minmax(0, 1fr); } }
"""


class Row(NamedTuple):
    """A part of a module: a name ("" for the module itself), its docstring, and the source up to the next part."""

    name: str
    text: str
    code: str


def rows(source: str) -> list[Row]:
    """The parts of a module: itself, then each function, class and method that has a docstring.

    >>> [tuple(row) for row in rows('"Head."\\nA = 1\\ndef f():\\n    "What f does."\\n    return A')]
    [('', 'Head.', 'A = 1'), ('f', 'What f does.', 'def f():\\n    return A')]
    """
    lines, tree = source.splitlines(), ast.parse(source)
    owners: list[tuple[str, int, ast.AST]] = [("", 1, tree)]
    for node in tree.body:
        inner = node.body if isinstance(node, ast.ClassDef) else []
        for name, part in [("", node), *((f"{getattr(node, 'name', '')}.", method) for method in inner)]:
            if isinstance(part, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(part):
                start = min([part.lineno, *(decorator.lineno for decorator in part.decorator_list)])
                while lines[start - 2].lstrip().startswith("#"):
                    start -= 1
                owners.append((name + part.name, start, part))
    found, ends = [], [start - 1 for _, start, _ in owners[1:]] + [len(lines)]
    for (name, start, node), end in zip(owners, ends, strict=True):
        text, hidden = ast.get_docstring(node, clean=False) or "", range(0)
        if text:  # its own indentation goes, that of its formulas stays
            first = node.body[0]
            text = re.sub(rf"^ {{{first.col_offset}}}", "", text, flags=re.MULTILINE).strip()
            hidden = range(first.lineno, first.end_lineno + 1)
        code = "\n".join(line for number, line in enumerate(lines[start - 1 : end], start) if number not in hidden)
        found.append(Row(name, text, textwrap.dedent(code).strip("\n")))
    return found


def formulas(paragraph: str) -> list[str]:
    """An indented paragraph as AsciiMath: a line for each formula, names of several letters upright.

    >>> formulas("KL(q || p) = sum_k d_k where d_k = log(sigma_p / sigma_q)")
    ['"KL"(q || p) = sum_k d_k', '"where "d_k = log(sigma_p / sigma_q)']
    """
    # a line that is indented further goes on with the one above
    lines = re.sub(r"\n\s+", " ", textwrap.dedent(paragraph))
    lines = re.sub(r"[A-Za-z]{2,}", lambda word: word[0] if KNOWN.fullmatch(word[0]) else f'"{word[0]}"', lines)
    lines = re.sub(r"(?<=\w)'", "^prime", lines).replace('"where" ', '"where "')
    return re.split(r'\n| (?="where ")|, (?=[^,()]* = )', lines)


def _prose(text: str) -> str:
    """A paragraph in Markdown: roles and double backticks as code, and no accidental emphasis."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text.replace("``", "`"))
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_$<\[\]])", r"\\\1", part) for part in parts)


def _block(block: str) -> str:
    if block.startswith(">>>"):
        return f"```pycon\n{block}\n```"
    if block.startswith(" "):
        shown = (f'<div class="math asciimath">⟦{html.escape(text)}⟧</div>' for text in formulas(block))
        return "```{raw} html\n" + "\n".join(shown) + "\n```"
    head, _, rest = block.partition("\n")
    if head in ("Args:", "Raises:"):
        entries = re.sub(r"\n\s+", " ", textwrap.dedent(rest)).splitlines()
        return "\n".join(
            [f"**{head}**", "", *(f"- `{n}`:{_prose(t)}" for n, _, t in (e.partition(":") for e in entries))]
        )
    return _prose(block)


def page(source: str, title: str, note: str = "") -> str:
    """The module as a page in Markdown (MyST)."""
    parts = [f"---\nhide-toc: true\n---\n\n# {title}\n\n{note}"]
    for name, text, code in rows(source):
        left = "\n\n".join(_block(block) for block in re.split(r"\n\s*\n", text))
        right = f"\n\n:::{{container}} code\n```python\n{code}\n```\n:::" if code else ""
        heading = f"## {_prose(name)}\n\n" if name else ""
        beside = f":::{{container}} words\n{left}\n:::{right}"
        parts.append(f"{heading}::::{{container}} beside\n{beside}\n::::")
    return "\n\n".join(parts) + "\n"


def pages(root: Path) -> dict[str, str]:
    """Every such page of a checkout by its path, such as ``avslib/losses/kl.md``."""
    guide = root / "docs" / "paper-to-code.md"
    lines = guide.read_text(encoding="utf-8").splitlines() if guide.is_file() else []
    made = {}
    for path in sorted(p for folder in ("models", "losses") for p in (root / "avslib" / folder).glob("[a-z]*.py")):
        place = path.relative_to(root).as_posix()
        lessons = sorted(
            {n for line in lines if f"({'../' + place})" in line for n in re.findall(r"notebooks/([\w]+)", line)}
        )
        links = [f"[lesson {name[:2]}](../../notebooks/{name}.ipynb)" for name in lessons]
        note = f"Source: `{place}`." + (f" Derived in {', '.join(links)}." if links else "")
        made[place.removesuffix(".py") + ".md"] = page(
            path.read_text(encoding="utf-8"), path.parent.name + "/" + path.name, note
        )
    return made
