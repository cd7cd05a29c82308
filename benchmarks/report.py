"""Tables of bench records, for the terminal and as a page; made from the records alone."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from rich.box import SIMPLE
from rich.table import Table

from benchmarks.record import BenchRecord, Row
from benchmarks.targets import Verdict, verdicts
from benchmarks.timing import Spread

# heading -> what a row has there; columns that no row of a section fills are left out
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "case": lambda r: r.case,
    "candidate": lambda r: r.name,
    "time": lambda r: _with_spread(r.seconds, _seconds) if r.seconds else "",
    "clips/s": lambda r: f"{r.clips_per_second:.3g}" if r.clips_per_second else "",
    "reference / it": lambda r: _with_spread(r.ratio, lambda x: f"{x:.3g}") if r.ratio else "",
    "peak memory": lambda r: _bytes(r.peak_bytes) if r.peak_bytes is not None else "",
    "reference / it, memory": lambda r: f"{r.peak_ratio:.3g}" if r.peak_ratio else "",
    "of matmul ceiling": lambda r: f"{r.matmul_share:.0%}" if r.matmul_share else "",
    "of memory ceiling": lambda r: f"{r.memory_share:.0%}" if r.memory_share else "",
    "relative error": lambda r: ", ".join(f"{name} {x:.1e}" for name, x in r.errors.items()),
    "more": lambda r: "; ".join(_notes(r)),
}


# the same in few letters, for a terminal
_TERMINAL: dict[str, Callable[[Row], str]] = {
    "": lambda r: r.case,
    "candidate": lambda r: r.name,
    "time": lambda r: _seconds(r.seconds.median) if r.seconds else "",
    "clips/s": _COLUMNS["clips/s"],
    "times as fast": lambda r: _with_spread(r.ratio, lambda x: f"{x:.3g}", "-") if r.ratio else "",
    "peak": _COLUMNS["peak memory"],
    "times less": _COLUMNS["reference / it, memory"],
    "of matmul": _COLUMNS["of matmul ceiling"],
    "of memory": _COLUMNS["of memory ceiling"],
    "error": lambda r: f"{max(r.errors.values()):.0e}" if r.errors else "",
    "more": _COLUMNS["more"],
}


def columns(rows: list[Row], kinds: Mapping[str, Callable[[Row], str]] = _COLUMNS) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a section; values that half of its rows or more have get columns of their own."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    own = [name for name in names if 2 * sum(name in row.values for row in rows) >= len(rows)]
    rest = [row.model_copy(update={"values": {k: v for k, v in row.values.items() if k not in own}}) for row in rows]
    cells = {name: [make(row) for row in rest] for name, make in kinds.items()}
    more = cells.pop("more")
    cells |= {name: [_value(row.values[name]) if name in row.values else "" for row in rows] for name in own}
    cells["more"] = more
    kept = [name for name, column in cells.items() if any(column)]
    return kept, [list(line) for line in zip(*(cells[name] for name in kept), strict=True)]


def section_table(name: str, rows: list[Row]) -> Table:
    """A section for the terminal, in short; a case that goes on is named once, and the only one in the title."""
    headings, cells = columns(rows, _TERMINAL)
    cases = dict.fromkeys(row.case for row in rows)
    if len(cases) == 1:
        name, headings, cells = f"{name}: {next(iter(cases))}", headings[1:], [line[1:] for line in cells]
    table = Table(title=name, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", min_width=0 if number else len("reference"))
    before = None
    for first, *line in cells:
        table.add_row("" if first == before and len(cases) > 1 else first, *line)
        before = first
    return table


def target_table(found: list[Verdict]) -> Table:
    """Targets and whether they are met, for the terminal."""
    table = Table("target", "measured", "row", "", title="targets", title_justify="left")
    for verdict in found:
        table.add_row(*verdict_cells(verdict))
    return table


def verdict_cells(verdict: Verdict) -> list[str]:
    row = f"{verdict.row.name}, {verdict.row.case}"
    return [verdict.target.text, f"{verdict.value:.3g}", row, "met" if verdict.met else "not met"]


def targets_markdown(records: Iterable[BenchRecord]) -> str:
    """The targets of all records in one table."""
    cells = [
        [r.settings.device, r.settings.backbone, *verdict_cells(v)]
        for r in records
        for v in verdicts(r.settings, r.sections)
    ]
    headings = ["device", "backbone", "target", "measured", "row", ""]
    return "\n".join(_markdown_table(headings, cells)) + "\n"


def markdown_page(records: Iterable[BenchRecord]) -> str:
    """One page of all records: machine, tables, targets."""
    return "\n".join(line for record in records for line in _markdown(record)) + "\n"


def _markdown(record: BenchRecord) -> Iterator[str]:
    s, e = record.settings, record.environment
    machine = ", ".join(e["gpus"]) if s.device == "cuda" and e["gpus"] else e["cpu"]
    yield f"## {s.device}, {s.backbone}, batch {s.batch}\n"
    changed = " with changes" if record.git.dirty else ""
    yield (
        f"{machine}, {e['cores']} cores, {e['threads']} threads; torch {e['packages'].get('torch')}; "
        f"{record.created[:10]}, commit {(record.git.commit or 'none')[:10]}{changed}; `{record.command}`\n"
    )
    for name, rows in record.sections.items():
        headings, cells = columns(rows)
        yield f"### {name}\n"
        yield from _markdown_table(headings, cells)
    if found := verdicts(s, record.sections):
        yield "### targets\n"
        yield from _markdown_table(["target", "measured", "row", ""], [verdict_cells(v) for v in found])


def _markdown_table(headings: list[str], cells: list[list[str]]) -> Iterator[str]:
    for line in (headings, ["---"] * len(headings), *cells):
        yield "| " + " | ".join(line) + " |"
    yield ""


def _notes(row: Row) -> Iterator[str]:
    if row.extrapolated_from:
        yield f"extrapolated from batches {', '.join(map(str, row.extrapolated_from))}"
    for name, value in row.values.items():
        yield f"{name} {_value(value)}"
    if row.notes:
        yield row.notes


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else format(value, ".4g")


def _with_spread(s: Spread, text: Callable[[float], str], to: str = " to ") -> str:
    """Median, and smallest to largest."""
    return text(s.median) if s.count == 1 else f"{text(s.median)} ({text(s.smallest)}{to}{text(s.largest)})"


def _seconds(x: float) -> str:
    """
    >>> _seconds(0.0123), _seconds(12.3), _seconds(2e-5)
    ('12.3 ms', '12.3 s', '0.02 ms')
    """
    return f"{x:.3g} s" if x >= 1 else f"{x * 1000:.3g} ms"


def _bytes(x: int) -> str:
    """
    >>> _bytes(1_500_000_000), _bytes(2_000_000)
    ('1.50 GB', '2 MB')
    """
    return f"{x / 1e9:.2f} GB" if x >= 1e9 else f"{x / 1e6:.0f} MB"
