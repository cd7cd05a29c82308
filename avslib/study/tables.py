"""A table of text as Markdown, CSV, LaTeX, HTML (all by pandas) and on a terminal (by rich)."""

import html
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
from rich import box, console, markup
from rich import table as rich_table

from avslib.core.errors import UsageError

Format = Literal["md", "csv", "rich", "latex", "html"]
Data = Literal["mini", "avsbench"]
SUFFIXES = {"md": ".md", "csv": ".csv", "latex": ".tex", "html": ".html"}
LONG = ("Source", "Runs")  # columns that are aligned left, and moved below the table on a terminal
LATEX = {c: f"\\{c}" for c in "{}&%$#_"} | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "²": "$^2$"}


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row. Notes are printed below (not in CSV)."""

    title: str
    cells: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def render(tables: list[Table], fmt: str) -> Any:
    """The tables one below the other as "md", "csv", "latex", "html", or a ``rich.console.Group`` for "rich"."""
    if fmt == "rich":
        return console.Group(*map(_terminal, tables))
    if fmt not in SUFFIXES:
        raise UsageError(f"unknown table format {fmt!r}; expected {', '.join(SUFFIXES)} or rich")
    if fmt == "csv":
        return "\n".join(table.cells.to_csv(index=False, lineterminator="\n") for table in tables)
    return "\n".join(map({"md": _markdown, "latex": _latex, "html": _html}[fmt], tables))


def _markdown(table: Table) -> str:
    align = ["left" if i == 0 or name in LONG else "right" for i, name in enumerate(table.cells)]
    cells = table.cells.replace(r"\|", r"\\|", regex=True)
    text = cells.to_markdown(index=False, colalign=align if len(cells) else None, disable_numparse=True)
    return "\n".join([f"**{table.title}**", "", text, *(f"\n{note}" for note in table.notes)]) + "\n"


def _escape(text: str) -> str:
    text = re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(str.maketrans(LATEX)))
    return re.sub(r"`(.+?)`", r"\\texttt{\1}", text)


def _latex(table: Table) -> str:
    kinds = "".join("p{4cm}" if n in LONG else "l" if i == 0 else "r" for i, n in enumerate(table.cells))
    cells, title = table.cells.map(_escape).rename(columns=_escape), _escape(table.title)
    notes = "".join(rf"\par\smallskip\footnotesize {_escape(note)}" + "\n" for note in table.notes)
    text = cells.to_latex(index=False, column_format=kinds, caption=title).replace(r"\end{table}", notes)
    return "% needs \\usepackage{booktabs}\n" + text.rstrip("\n") + "\n\\end{table}\n"


def _html(table: Table) -> str:
    with pd.option_context("display.max_colwidth", None):
        text = table.cells.to_html(index=False, border=0, justify="left")
    text = text.replace("<thead>", f"<caption>{html.escape(table.title)}</caption>\n  <thead>")
    return text + "\n" + "".join(f"<p>{html.escape(note)}</p>\n" for note in table.notes)


def _terminal(table: Table) -> rich_table.Table:
    look = {"box": box.SIMPLE_HEAD, "padding": 0, "title_justify": "left", "caption_justify": "left"}
    made, (label, *names) = rich_table.Table(title=table.title, **look), [n for n in table.cells if n not in LONG]
    made.add_column(label, overflow="fold", width=14)
    for name in names:
        words = [word for cell in table.cells[name] for word in cell.split()]
        width = max(map(len, words)) if words and all(map(str.isalpha, words)) else None  # whole words
        made.add_column(name.replace("_", " "), overflow="fold", justify="right", width=width)
    for row in table.cells[[label, *names]].itertuples(index=False):
        made.add_row(*map(markup.escape, row))
    below = [table.cells.groupby(name, sort=False)[label] for name in LONG if name in table.cells]
    texts = [f"{', '.join(rows)}: {text}" for groups in below for text, rows in groups if text]
    made.caption = markup.escape("\n".join([*table.notes, *texts]))
    return made
