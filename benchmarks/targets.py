"""The targets that a release is held to, and which of them a record meets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.record import BenchSettings, Row

EXACT, OPTIONS = "exact", "options"


@dataclass(frozen=True)
class Target:
    """A figure of a section's rows that is to reach `at_least` (or `at_most`).

    `rows`: exact is ours alone; options is the best of ours with an option. None in backbone, batch or device: any.
    """

    section: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None
    rows: str = EXACT
    device: str | None = "cpu"
    backbone: str | None = None
    batch: int | None = None

    @property
    def text(self) -> str:
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return f"{self.section}: {_LABELS[self.figure]} {bound} ({self.rows})"


_LABELS = {
    "ratio": "times as fast",
    "peak_ratio": "times less peak memory",
    "error": "relative error",
    "line": "R^2 of time against T",
    "batch 8": "GB, training step, batch 8",
}

TARGETS = (
    Target("fusion", "ratio", 60),
    Target("fusion", "peak_ratio", 12),
    Target("fusion", "error", at_most=1e-5, device=None),
    Target("train", "ratio", 3, backbone="resnet50", batch=4),
    Target("train", "ratio", 2.5, backbone="pvt_v2_b5", batch=4),
    Target("train", "ratio", 3.5, rows=OPTIONS, backbone="pvt_v2_b5", batch=4),
    *(Target("train", "peak_ratio", 2, backbone=name, batch=4) for name in ("resnet50", "pvt_v2_b5")),
    *(Target("train", "peak_ratio", 4, rows=OPTIONS, backbone=name, batch=4) for name in ("resnet50", "pvt_v2_b5")),
    Target("inference", "ratio", 3, backbone="resnet50", batch=1),
    Target("inference", "ratio", 2.2, backbone="pvt_v2_b5", batch=1),
    Target("metrics", "ratio", 15),
    Target("metrics", "error", at_most=1e-12, device=None),
    Target("growth", "line", 0.98, device=None),
    Target("growth", "batch 8", at_most=16, rows=OPTIONS, device=None, backbone="pvt_v2_b5"),
    Target("train", "ratio", 1.6, device="cuda", backbone="pvt_v2_b5"),
    Target("train", "ratio", 6, rows=OPTIONS, device="cuda", backbone="pvt_v2_b5"),
    Target("train", "peak_ratio", 6, rows=OPTIONS, device="cuda", backbone="pvt_v2_b5"),
)


@dataclass(frozen=True)
class Verdict:
    """A target, the figure that was measured, the row it is of, and whether it is met."""

    target: Target
    value: float
    row: Row
    met: bool


def verdicts(settings: BenchSettings, sections: Mapping[str, list[Row]]) -> list[Verdict]:
    """Every target that the settings and sections have figures for; none for a quick run, which measures nothing."""
    found = []
    for target in () if settings.quick else TARGETS:
        if target.device not in (None, settings.device) or target.backbone not in (None, settings.backbone):
            continue
        rows = [(v, r) for r in _rows(target, sections.get(target.section, ())) if (v := _value(target, r)) is not None]
        if rows:
            best = max if target.at_least is not None else min
            value, row = best(rows, key=lambda pair: pair[0])
            met = value >= target.at_least if target.at_least is not None else value <= target.at_most
            found.append(Verdict(target, value, row, met))
    return found


def _rows(target: Target, rows: Iterable[Row]) -> list[Row]:
    rows = [row for row in rows if target.batch in (None, row.batch)]
    return [r for r in rows if (r.name == "ours" if target.rows == EXACT else r.name.startswith("ours, "))]


def _value(target: Target, row: Row) -> float | None:
    if target.figure == "ratio":
        return row.ratio.median if row.ratio else None
    if target.figure == "peak_ratio":
        return row.peak_ratio
    if target.figure == "line":
        return row.values.get("R2 of seconds") if row.values.get("axis") == "T" else None
    if target.figure == "batch 8":
        found = row.case == "training step against batch" and row.values.get("x") == 8
        return row.peak_bytes / 1e9 if found and row.peak_bytes else None
    return max(row.errors.values()) if row.errors else None
