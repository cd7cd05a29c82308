"""One table of text, the formats it is printed in, and the marks between which a Markdown page holds it."""

import csv
import html
import io
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from avslib.core.errors import RecordError

# Long columns: aligned left, and on a terminal moved below the table.
LONG = ("Source", "Runs")


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row. Notes stand below (not in CSV)."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def markdown(table: Table) -> str:
    """A GitHub table under its title in bold."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---" if i == 0 or name in LONG else "---:" for i, name in enumerate(table.columns)]
    lines = [f"**{table.title}**", "", line(table.columns), line(rule), *map(line, table.rows)]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def comma_separated(table: Table) -> str:
    """CSV with a header line."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([table.columns, *table.rows])
    return stream.getvalue()


def terminal(table: Table) -> Any:
    """A ``rich.table.Table`` for 80 columns: headers and spreads are stacked, long columns become numbered notes."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    made = RichTable(
        title=table.title,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption_justify="left",
        title_justify="left",
    )
    made.add_column(table.columns[0], min_width=16, overflow="fold")
    for name in table.columns[1:]:
        if name not in LONG:
            stacked = re.sub(r" (?!%)", "\n", name).replace("_unseen", "\nunseen")
            made.add_column(stacked, justify="right", no_wrap=True)
    marks: dict[str, int] = {}
    for row in table.rows:
        named = dict(zip(table.columns, row, strict=True))
        long = [f"{name}: {named.pop(name)}" for name in LONG if named.get(name)]
        first, *rest = (cell for name, cell in named.items() if name not in LONG)
        numbers = [f" [{marks.setdefault(text, len(marks) + 1)}]" for text in long]
        # the spread, the upper end of an interval and the last words of a verdict go to a second line
        rest = [cell if re.search(r"\d", cell) else textwrap.fill(cell, 9) for cell in rest]
        rest = [re.sub(r" (?=± )|(?<=^\[)(\S+,) ", r"\1\n", cell) for cell in rest]
        made.add_row(escape(first + "".join(numbers)), *map(escape, rest))
    made.caption = escape("\n".join([*table.notes, *(f"[{number}] {text}" for text, number in marks.items())]))
    return made


LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "²": r"\textsuperscript{2}",
    }
)


def _latex(text: str) -> str:
    text = text.translate(LATEX).replace("--", "-{}-")  # not a dash
    text = re.sub(r"(?<![\w-])-(?=\d)", "$-$", text)
    text = re.sub(r"`(.+?)`", r"\\texttt{\1}", text)
    return re.sub(r'"(.+?)"', r"``\1''", text)


def latex(table: Table) -> str:
    """A ``table`` float with rules of the package booktabs; nothing else is needed to compile it.

    >>> print(_latex("a_b: -0.5 ± 0.1, 95 %, `avs table --write`"))
    a\\_b: $-$0.5 $\\pm$ 0.1, 95 \\%, \\texttt{avs table -{}-write}
    """

    def line(cells: Iterable[str]) -> str:
        # a row's first "[" would be read as the option of the line break before it
        return "  {}" + " & ".join(map(_latex, cells)) + r" \\"

    kinds = "".join("p{4cm}" if n in LONG else "l" if i == 0 else "r" for i, n in enumerate(table.columns))
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering\small",
            rf"  \caption{{{_latex(table.title)}}}",
            rf"  \begin{{tabular}}{{@{{}}{kinds}@{{}}}}",
            r"  \toprule",
            line(table.columns),
            r"  \midrule",
            *map(line, table.rows),
            r"  \bottomrule",
            r"  \end{tabular}",
            *(rf"  \par\smallskip\footnotesize {_latex(note)}" for note in table.notes),
            r"\end{table}",
            "",
        ]
    )


def webpage(table: Table) -> str:
    """One ``<table>`` to paste into a page, in ASCII so that the page's encoding does not matter."""

    def text(value: str) -> str:
        return re.sub(r"`(.+?)`", r"<code>\1</code>", html.escape(value))

    def line(cells: Iterable[str], scope: str) -> str:
        made = []
        for i, (name, cell) in enumerate(zip(table.columns, cells, strict=True)):
            tag = f'th scope="{scope}"' if scope == "col" or i == 0 else "td"
            side = "left" if i == 0 or name in LONG else "right"
            one_line = ";white-space:nowrap" if tag == "td" and name not in LONG else ""
            style = f"text-align:{side};padding:.2em .6em{one_line}"
            made.append(f'<{tag} style="{style}">{text(cell)}</{tag.split()[0]}>')
        return f"<tr>{''.join(made)}</tr>"

    notes = "<br>\n".join(map(text, table.notes))
    foot = f'<tfoot><tr><td colspan="{len(table.columns)}">{notes}</td></tr></tfoot>\n' if notes else ""
    made = (
        f'<table style="border-collapse:collapse">\n<caption>{text(table.title)}</caption>\n'
        f"<thead>\n{line(table.columns, 'col')}\n</thead>\n"
        f"<tbody>\n{''.join(line(row, 'row') + chr(10) for row in table.rows)}</tbody>\n{foot}</table>\n"
    )
    return made.encode("ascii", "xmlcharrefreplace").decode()


FORMATS = {"md": markdown, "csv": comma_separated, "rich": terminal, "latex": latex, "html": webpage}
SUFFIXES = {"md": ".md", "csv": ".csv", "latex": ".tex", "html": ".html"}

MARK = re.compile(r"(<!-- table:([\w-]+) -->\n)(.*?)(<!-- /table:\2 -->)", re.DOTALL)


def mark_names(text: str, source: str) -> list[str]:
    """Names of the tables marked in a Markdown text, in order.

    Raises:
        AvsError: a mark without its end; `source` names the text.
    """
    names = [found[2] for found in MARK.finditer(text)]
    if len(names) != text.count("<!-- table:"):
        raise RecordError(f"{source}: each mark <!-- table:mini-s4 --> needs its <!-- /table:mini-s4 --> below it")
    return names


def fill_marks(text: str, tables: Mapping[str, Callable[[], str]], source: str) -> str:
    """The Markdown text with each of `tables` (by name) between its marks; other marks are left as they are.

    >>> fill_marks("<!-- table:a -->\\nold <!-- /table:a -->", {"a": lambda: "new "}, "README.md")
    '<!-- table:a -->\\nnew <!-- /table:a -->'

    Raises:
        AvsError: as :func:`mark_names`.
    """
    mark_names(text, source)
    return MARK.sub(lambda m: m[1] + (tables[m[2]]() if m[2] in tables else m[3]) + m[4], text)
