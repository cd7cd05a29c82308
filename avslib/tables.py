"""One table of text, and the formats it is printed in."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FORMATS", "Table"]

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

    made = RichTable(title=table.title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
                     caption_justify="left", title_justify="left")  # fmt: skip
    made.add_column(table.columns[0], min_width=16, overflow="fold")
    for name in table.columns[1:]:
        if name not in LONG:
            made.add_column(name.replace(" ", "\n").replace("_unseen", "\nunseen"), justify="right", no_wrap=True)
    marks: dict[str, int] = {}
    for row in table.rows:
        named = dict(zip(table.columns, row, strict=True))
        long = [f"{name}: {named.pop(name)}" for name in LONG if named.get(name)]
        first, *rest = (cell for name, cell in named.items() if name not in LONG)
        numbers = [f" [{marks.setdefault(text, len(marks) + 1)}]" for text in long]
        made.add_row(escape(first + "".join(numbers)), *(escape(cell.replace(" ± ", "\n± ")) for cell in rest))
    made.caption = escape("\n".join([*table.notes, *(f"[{number}] {text}" for text, number in marks.items())]))
    return made


FORMATS = {"md": markdown, "csv": comma_separated, "rich": terminal}
