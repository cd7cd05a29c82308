"""Tables and targets of bench records, for the terminal and as a page; made only from the records."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table

from benchmarks.record import BenchRecord, BenchSettings, Row, Spread


@dataclass(frozen=True)
class Target:
    """A bound on a number of a section's rows: ours, or the best of ours with an option. None matches any."""

    section: str
    measure: str
    bound: float
    options: bool = False
    device: str | None = "cpu"
    backbone: str | None = None
    batch: int | None = None

    @property
    def at_most(self) -> bool:
        return self.measure in ("error", "batch 8")

    @property
    def text(self) -> str:
        rows = "options" if self.options else "exact"
        return f"{self.section}: {_LABELS[self.measure]} {'<=' if self.at_most else '>='} {self.bound:g} ({rows})"


_LABELS = {
    "ratio": "times as fast",
    "peak_ratio": "times less peak memory",
    "error": "relative error",
    "line": "R^2 of time against T",
    "batch 8": "GB, training step, batch 8",
}
PVT, RESNET = "pvt_v2_b5", "resnet50"
TARGETS = (
    Target("fusion", "ratio", 60),
    Target("fusion", "peak_ratio", 12),
    Target("fusion", "error", 1e-5, device=None),
    Target("train", "ratio", 3, backbone=RESNET, batch=4),
    Target("train", "ratio", 2.5, backbone=PVT, batch=4),
    Target("train", "ratio", 3.5, options=True, backbone=PVT, batch=4),
    *(Target("train", "peak_ratio", 2, backbone=name, batch=4) for name in (RESNET, PVT)),
    *(Target("train", "peak_ratio", 4, options=True, backbone=name, batch=4) for name in (RESNET, PVT)),
    Target("inference", "ratio", 3, backbone=RESNET, batch=1),
    Target("inference", "ratio", 2.2, backbone=PVT, batch=1),
    Target("metrics", "ratio", 15),
    Target("metrics", "error", 1e-12, device=None),
    Target("growth", "line", 0.98, device=None),
    Target("growth", "batch 8", 16, options=True, device=None, backbone=PVT),
    Target("train", "ratio", 1.6, device="cuda", backbone=PVT),
    Target("train", "ratio", 6, options=True, device="cuda", backbone=PVT),
    Target("train", "peak_ratio", 6, options=True, device="cuda", backbone=PVT),
)


@dataclass(frozen=True)
class Verdict:
    """A target, the value measured, its row, and whether it is met."""

    target: Target
    value: float
    row: Row
    met: bool


def verdicts(settings: BenchSettings, sections: Mapping[str, list[Row]]) -> list[Verdict]:
    """Every target that the settings and sections have values for; none for a quick run, which measures nothing."""
    found = []
    for target in () if settings.quick else TARGETS:
        if target.device not in (None, settings.device) or target.backbone not in (None, settings.backbone):
            continue
        rows = [row for row in sections.get(target.section, ()) if target.batch in (None, row.batch)]
        rows = [row for row in rows if (row.name.startswith("ours, ") if target.options else row.name == "ours")]
        if values := [(value, row) for row in rows if (value := _measured(target.measure, row)) is not None]:
            value, row = (min if target.at_most else max)(values, key=lambda pair: pair[0])
            met = value <= target.bound if target.at_most else value >= target.bound
            found.append(Verdict(target, value, row, met))
    return found


def _measured(measure: str, row: Row) -> float | None:
    first = row.case == "training step against batch" and row.values.get("x") == 8 and row.peak_bytes
    return {
        "ratio": row.ratio.median if row.ratio else None,
        "peak_ratio": row.peak_ratio,
        "line": row.values.get("R2 of seconds") if row.values.get("axis") == "T" else None,
        "batch 8": row.peak_bytes / 1e9 if first else None,
        "error": max(row.errors.values()) if row.errors else None,
    }[measure]


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
}


def columns(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a section; values that at least half of its rows have get columns of their own."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    own = [name for name in names if 2 * sum(name in row.values for row in rows) >= len(rows)]
    cells = {heading: [make(row) for row in rows] for heading, make in _COLUMNS.items()}
    cells |= {name: [_value(row.values[name]) if name in row.values else "" for row in rows] for name in own}
    cells["more"] = ["; ".join(_notes(row, own)) for row in rows]
    kept = [heading for heading, column in cells.items() if any(column)]
    return kept, [list(line) for line in zip(*(cells[heading] for heading in kept), strict=True)]


def section_table(name: str, rows: list[Row]) -> Table:
    """A section for the terminal."""
    headings, cells = columns(rows)
    table = Table(*headings, title=name, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for line in cells:
        table.add_row(*line)
    return table


def target_table(found: list[Verdict]) -> Table:
    """Targets and whether they are met, for the terminal."""
    table = Table("target", "measured", "row", "", title="targets", title_justify="left")
    for verdict in found:
        table.add_row(*_verdict_cells(verdict))
    return table


def targets_markdown(records: Iterable[BenchRecord]) -> str:
    """The targets of all records in one table.

    Where several records of a backbone on one machine measured the same target, it is taken from the one with the most
    rounds, and of equally many from the latest.
    """
    found: dict[tuple[str, str, str, str], tuple[BenchRecord, Verdict]] = {}
    for record in records:
        s = record.settings
        for verdict in verdicts(s, record.sections):
            key = (s.device, _machine(record), s.backbone, verdict.target.text)
            if key not in found or _trust(record) > _trust(found[key][0]):
                found.pop(key, None)  # so that it stands among those of its own record
                found[key] = record, verdict
    cells = [[device, backbone, *_verdict_cells(v)] for (device, _, backbone, _), (_, v) in found.items()]
    return "\n".join(_markdown_table(["device", "backbone", "target", "measured", "row", ""], cells)) + "\n"


def daily_markdown(records: Iterable[BenchRecord]) -> str:
    """The tables of part daily."""
    found = [line for r in records if (rows := r.sections.get("daily")) for line in _markdown_table(*columns(rows))]
    return "\n".join(found or ["There is no record of this part yet."]) + "\n"


def markdown_page(records: Iterable[BenchRecord]) -> str:
    """One page of all records: machine, tables, targets."""
    return "\n".join(line for record in records for line in _markdown(record)) + "\n"


def _trust(record: BenchRecord) -> tuple[int, str]:
    return record.settings.rounds, record.created


def _machine(record: BenchRecord) -> str:
    e = record.environment
    return ", ".join(e["gpus"]) if record.settings.device == "cuda" and e["gpus"] else e["cpu"]


def _markdown(record: BenchRecord) -> Iterator[str]:
    s, e = record.settings, record.environment
    yield f"## {s.device}, {s.backbone}, batch {s.batch}\n"
    changed = " with changes" if record.git.dirty else ""
    yield (
        f"{_machine(record)}, {e['cores']} cores, {e['threads']} threads; torch {e['packages'].get('torch')}; "
        f"{record.created[:10]}, commit {(record.git.commit or 'none')[:10]}{changed}; `{record.command}`\n"
    )
    for name, rows in record.sections.items():
        yield f"### {name}\n"
        yield from _markdown_table(*columns(rows))
    if found := verdicts(s, record.sections):
        yield "### targets\n"
        yield from _markdown_table(["target", "measured", "row", ""], [_verdict_cells(v) for v in found])


def _markdown_table(headings: list[str], cells: list[list[str]]) -> Iterator[str]:
    for line in (headings, ["---"] * len(headings), *cells):
        yield "| " + " | ".join(line) + " |"
    yield ""


def _verdict_cells(verdict: Verdict) -> list[str]:
    row = f"{verdict.row.name}, {verdict.row.case}"
    return [verdict.target.text, f"{verdict.value:.3g}", row, "met" if verdict.met else "not met"]


def _notes(row: Row, own: list[str]) -> Iterator[str]:
    if row.extrapolated_from:
        yield f"extrapolated from batches {', '.join(map(str, row.extrapolated_from))}"
    yield from (f"{name} {_value(value)}" for name, value in row.values.items() if name not in own)
    if row.notes:
        yield row.notes


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else format(value, ".4g")


def _with_spread(s: Spread, text: Callable[[float], str]) -> str:
    """Median, and smallest to largest."""
    return text(s.median) if s.count == 1 else f"{text(s.median)} ({text(s.smallest)} to {text(s.largest)})"


def _seconds(x: float) -> str:
    """
    >>> _seconds(0.0123), _seconds(12.3)
    ('12.3 ms', '12.3 s')
    """
    return f"{x:.3g} s" if x >= 1 else f"{x * 1000:.3g} ms"


def _bytes(x: int) -> str:
    return f"{x / 1e9:.2f} GB" if x >= 1e9 else f"{x / 1e6:.0f} MB"
