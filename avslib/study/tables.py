"""A table of text as Markdown, CSV, LaTeX, HTML and on a terminal."""

import html
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

# Long columns: aligned left, and moved below the table on a terminal.
LONG = ("Source", "Runs")
LATEX = {character: f"\\{character}" for character in "{}&%$#_"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "²": r"\textsuperscript{2}",
}


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row. Notes are printed below (not in CSV)."""

    title: str
    cells: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def signed(value: float) -> str:
    """Three decimals with a sign, which a value that rounds to zero keeps: [+0.000, +0.003] does exclude zero."""
    return f"{value:+.3f}" if value else "0.000"


def markdown(table: Table) -> str:
    """A GitHub table below its title in bold; unlike `DataFrame.to_markdown`, cells are not padded."""
    names = list(table.cells)
    rule = ["---" if i == 0 or name in LONG else "---:" for i, name in enumerate(names)]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in [names, *table.cells.values.tolist()]]
    lines = [f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]]]
    return "\n".join([f"**{table.title}**", "", *lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def comma_separated(table: Table) -> str:
    """CSV with a header line."""
    return table.cells.to_csv(index=False, lineterminator="\n")


def terminal(table: Table) -> Any:
    """A ``rich.table.Table`` for 80 columns: headers and spreads are stacked, long columns become numbered notes."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    look = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
    made = RichTable(title=table.title, caption_justify="left", title_justify="left", **look)
    label, *names = [name for name in table.cells if name not in LONG]
    made.add_column(label, min_width=16, overflow="fold")
    for name in names:
        made.add_column(re.sub(r" (?!%)", "\n", name).replace("_unseen", "\nunseen"), justify="right", no_wrap=True)
    marks: dict[str, int] = {}
    for row in table.cells.to_dict("records"):
        long = [f"{name}: {row[name]}" for name in LONG if row.get(name)]
        numbers = [f" [{marks.setdefault(text, len(marks) + 1)}]" for text in long]
        # the spread, the upper end of an interval and the last words of a verdict go to a second line
        cells = [row[n] if re.search(r"\d", row[n]) else textwrap.fill(row[n], 9) for n in names]
        cells = [re.sub(r" (?=± )|(?<=^\[)(\S+,) ", r"\1\n", cell) for cell in cells]
        made.add_row(escape(row[label] + "".join(numbers)), *map(escape, cells))
    made.caption = escape("\n".join([*table.notes, *(f"[{number}] {text}" for text, number in marks.items())]))
    return made


def _latex(text: str) -> str:
    text = text.translate(str.maketrans(LATEX)).replace("--", "-{}-")  # not a dash
    text = re.sub(r"(?<![\w-])-(?=\d)", "$-$", text)
    text = re.sub(r"`(.+?)`", r"\\texttt{\1}", text)
    text = re.sub(r'"(.+?)"', r"``\1''", text)
    return "{}" + text if text.startswith("[") else text  # else an option of the line break before it


def latex(table: Table) -> str:
    """A ``table`` float with rules of the package booktabs; nothing else is needed to compile it.

    >>> print(_latex("a_b: -0.5 ± 0.1, 95 %, `avs table --write`"))
    a\\_b: $-$0.5 $\\pm$ 0.1, 95 \\%, \\texttt{avs table -{}-write}
    """
    kinds = "".join("p{4cm}" if n in LONG else "l" if i == 0 else "r" for i, n in enumerate(table.cells))
    text = _styled(table, _latex).to_latex(hrules=True, column_format=f"@{{}}{kinds}@{{}}", position_float="centering")
    notes = "".join(rf"\par\smallskip\footnotesize {_latex(note)}" + "\n" for note in table.notes)
    text = text.replace(r"\centering", r"\centering\small").replace(r"\end{table}", notes + r"\end{table}")
    return "% needs \\usepackage{booktabs}\n" + text


def _html(text: str) -> str:
    return re.sub(r"`(.+?)`", r"<code>\1</code>", html.escape(text))


def webpage(table: Table) -> str:
    """One ``<table>`` to paste into a page, in ASCII so that the page's encoding does not matter."""
    text = _styled(table, _html).to_html(exclude_styles=True)
    text = text.replace("<table>", '<table style="text-align:right;border-spacing:1em .2em">', 1)
    text = text.replace("<th >", '<th scope="col">').replace("<td >", "<td>")
    text = re.sub(r"(<tr>\s*)<td>(.*?)</td>", r'\1<th scope="row" style="text-align:left">\2</th>', text)
    notes = "<br>\n".join(map(_html, table.notes))
    foot = f'  <tfoot><tr><td colspan="{table.cells.shape[1]}" style="text-align:left">{notes}</td></tr></tfoot>\n'
    text = text.replace("</table>", (foot if notes else "") + "</table>")
    return text.encode("ascii", "xmlcharrefreplace").decode()


def _styled(table: Table, text: Callable[[str], str]) -> Any:
    return table.cells.style.hide(axis="index").format(text).format_index(text, axis=1).set_caption(text(table.title))


def render(tables: list[Table], fmt: str) -> Any:
    """The tables one below the other in one of `FORMATS`: text, or a ``rich.console.Group`` for "rich"."""
    made = [FORMATS[fmt](table) for table in tables]
    if fmt != "rich":
        return "\n".join(made)
    from rich.console import Group

    return Group(*made)


FORMATS = {"md": markdown, "csv": comma_separated, "rich": terminal, "latex": latex, "html": webpage}
SUFFIXES = {"md": ".md", "csv": ".csv", "latex": ".tex", "html": ".html"}
