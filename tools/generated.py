"""What is generated in a checkout, and from which records: tables in pages, tables as files, figures.

A page holds a table between marks, ``<!-- table:ablation-s4 -->`` and ``<!-- /table:ablation-s4 -->``:

    results/runs           mini (both tasks in short), mini-s4, mini-ms3, avsbench-s4, avsbench-ms3
    results/ms3_over_the_clip  ms3-over-the-clip, the MS3 half of the demo before the fusion saw single seconds
    results/ablation/runs  ablation-s4, ablation-ms3; table_TASK.{md,csv,tex,html} and differences_TASK.png beside them
    results/ablation-ms3/runs, results/ablation-ambiguity/runs  time-ms3, ambiguity-s4 and such files beside them; codes
    results/robustness     robustness; table.{md,csv,tex,html} and robustness_TASK.png there
    results/bench          bench-targets, bench-daily, bench; growth_DEVICE_BACKBONE.png there
    results/reliability    reliability-summary, reliability

The mark ``errors`` is the table of the error codes, from avslib/core/errors.py.
Nothing here is typed by hand; `stale` lists what no longer follows from the records. ``avs table --write|--check`` is
the command. Only a checkout has this module: it is not part of the wheel.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from avslib.core.errors import KINDS, RecordError, UsageError
from avslib.core.files import atomic_path
from avslib.study.ablation import SCORES, Comparison, ablation_table, compare, differences_figure
from avslib.study.plots import save_figure
from avslib.study.records import RunRecord, load_records
from avslib.study.representation import codes_table
from avslib.study.results import SPLITS, summarise, table
from avslib.study.robustness import robustness_table
from avslib.study.run import ALL_OBJECTS
from avslib.study.tables import SUFFIXES
from benchmarks.growth import growth_figure
from benchmarks.record import BenchRecord, read_bench_record
from benchmarks.report import daily_markdown, markdown_page, targets_markdown
from tools.reliability import FOLDER, ReliabilityRecord, read_reliability_record, records_markdown, summary_markdown
from tools.robustness_figure import robustness_figure

PAGES = (
    "README.md",
    "docs/avsbench.md",
    "docs/errors.md",
    "docs/performance.md",
    "docs/results.md",
    "results/ablation/README.md",
    "results/ablation-ambiguity/README.md",
    "results/ablation-ms3/README.md",
    "results/robustness/README.md",
    "results/bench/README.md",
    "docs/RELIABILITY.md",
)
BENCH_TABLES = {"bench-targets": targets_markdown, "bench-daily": daily_markdown, "bench": markdown_page}
RELIABILITY_TABLES = {"reliability-summary": summary_markdown, "reliability": records_markdown}
TASKS = ("s4", "ms3")
# a study's folder under results/, by the name of its tables in pages
STUDIES = {"ablation": "ablation", "time": "ablation-ms3", "ambiguity": "ablation-ambiguity"}
MARK = re.compile(r"(<!-- table:([\w-]+) -->\n)(.*?)(<!-- /table:\2 -->)", re.DOTALL)


def fill_marks(text: str, tables: Mapping[str, Callable[[], str]], source: str) -> str:
    """The Markdown text with each of `tables` (by name) between its marks.

    >>> fill_marks("<!-- table:a -->\\nold <!-- /table:a -->", {"a": lambda: "new "}, "README.md")
    '<!-- table:a -->\\nnew <!-- /table:a -->'

    Raises:
        AvsError: a mark without its end, or of a table that does not exist; `source` names the text.
    """
    names = [found[2] for found in MARK.finditer(text)]
    if len(names) != text.count("<!-- table:"):
        raise RecordError(f"{source}: each mark <!-- table:mini-s4 --> needs its <!-- /table:mini-s4 --> below it")
    for name in names:
        if name not in tables:
            raise RecordError(f"{source}: mark <!-- table:{name} -->: no such table; tables are {', '.join(tables)}")
    return MARK.sub(lambda m: m[1] + tables[m[2]]() + m[4], text)


def explained_errors() -> str:
    """The codes of errors: what happened and what to do. Each row has an anchor, ``errors.md#avs301``."""
    anchored = {code: f'<a id="{code.lower()}"></a>{code}' for code in KINDS}
    rows = [f"| {anchored[c]} | `{k.__name__}` | {k.__doc__} | {k.remedy} |" for c, k in KINDS.items()]
    return "\n".join(["| code | from Python | what happened | what to do |", "| --- | --- | --- | --- |", *rows, ""])


class _Study:
    """The records of a checkout; each folder is read once, and compared once, however many tables show it."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if not (self.root / "README.md").is_file() or not (self.root / "results").is_dir():
            raise UsageError(
                f"{self.root.resolve()}: no README.md and results/ here; run this in the folder of a checkout"
            )
        self.records = cache(self._records)
        self.comparisons = cache(self._comparisons)
        self.benches = cache(self._benches)
        self.ablation = cache(self._ablation)
        self.robustness = cache(self._robustness)

    def _records(self, folder: str) -> list[RunRecord]:
        path = self.root / "results" / folder
        return load_records(path) if path.is_dir() else []

    def _comparisons(self, study: str, task: str, score: str = "J") -> dict[str, list[Comparison]]:
        return compare(self.records(f"{STUDIES[study]}/runs"), task, score=score)

    def bench(self, make: Callable[[list[BenchRecord]], str]) -> str:
        return make(self.benches())

    def _benches(self) -> list[BenchRecord]:
        return [read_bench_record(path) for path in sorted((self.root / "results/bench").glob("*.json"))]

    def tried(self, make: Callable[[list[ReliabilityRecord]], str]) -> str:
        return make([read_reliability_record(path) for path in sorted((self.root / FOLDER).glob("*.json"))])

    def _ablation(self, study: str, task: str, fmt: str) -> str:
        found = {score: self.comparisons(study, task, score) for score in SCORES}
        return ablation_table(self.records(f"{STUDIES[study]}/runs"), task, fmt, found=found)

    def results(self, task: str, data: str) -> str:
        return table(self.records("runs"), task, data)

    def both_tasks(self) -> str:
        """J of every method on both tasks, in a few columns."""
        rows = [
            {"task": task.upper(), "method": row.label}
            | {f"J {split}": row.cell(split, "J") for split in SPLITS["mini"]}
            for task in TASKS
            for row in summarise(self.records("runs"), task, "mini")
            if (task, row.baseline) != ("ms3", ALL_OBJECTS)  # those that sound somewhere are the stronger rival
        ]
        return pd.DataFrame(rows).to_markdown(index=False) + "\n"

    def _robustness(self, fmt: str = "md") -> str:
        return robustness_table(self.records("robustness"), fmt)

    def marks(self) -> dict[str, Callable[[], str]]:
        made = {f"{data}-{task}": partial(self.results, task, data) for data in SPLITS for task in TASKS}
        made |= {f"{study}-{task}": partial(self.ablation, study, task, "md") for study in STUDIES for task in TASKS}
        made["codes"] = lambda: codes_table(self.records("ablation-ambiguity/runs"), "s4")
        made |= {name: partial(self.bench, make) for name, make in BENCH_TABLES.items()}
        made |= {name: partial(self.tried, make) for name, make in RELIABILITY_TABLES.items()}
        made["ms3-over-the-clip"] = lambda: table(self.records("ms3_over_the_clip"), "ms3")
        return made | {"mini": self.both_tasks, "robustness": self.robustness, "errors": explained_errors}

    def texts(self) -> dict[Path, str]:
        """Every generated file of text as it should be."""
        found = {}
        for page in (self.root / name for name in PAGES):
            if page.is_file():
                found[page] = fill_marks(page.read_text(encoding="utf-8"), self.marks(), str(page))
        for study, task in self._studied():
            for fmt, suffix in SUFFIXES.items():
                path = self.root / f"results/{STUDIES[study]}/table_{task}{suffix}"
                found[path] = self.ablation(study, task, fmt)
        for fmt, suffix in SUFFIXES.items() if self.records("robustness") else ():
            found[self.root / f"results/robustness/table{suffix}"] = self.robustness(fmt)
        return found

    def figures(self) -> dict[Path, tuple[str, Callable[[], Any]]]:
        """Every figure by what it shows (a hash of its numbers, kept in the PNG) and how it is drawn."""
        found = {}
        for study, task in self._studied():
            numbers = _hash(self.ablation(study, task, "csv"))
            for score in SCORES:
                made = self.comparisons(study, task, score)
                if any(row.difference for rows in made.values() for row in rows):
                    draw = partial(differences_figure, made, title=f"Mini-AVS, {task.upper()}")
                    name = "_".join(["differences", task, *([] if score == "J" else [score])])
                    found[self.root / f"results/{STUDIES[study]}/{name}.png"] = (numbers, draw)
        robust = self.records("robustness")
        for task in TASKS:
            if any(record.task == task for record in robust):
                draw = partial(robustness_figure, robust, task)
                found[self.root / f"results/robustness/robustness_{task}.png"] = (_hash(self.robustness("csv")), draw)
        for record in self.benches():
            if "growth" in record.sections:
                path = self.root / f"results/bench/growth_{record.settings.device}_{record.settings.backbone}.png"
                found[path] = (record.content_hash, partial(growth_figure, record))
        return found

    def _studied(self) -> list[tuple[str, str]]:
        return [(study, task) for study in STUDIES for task in TASKS if self.comparisons(study, task)]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write(root: str | Path = ".") -> list[Path]:
    """Rewrite every table and redraw every figure of the checkout; returns the files whose content changed.

    Raises:
        AvsError: `root` is not a checkout, a page marks a table that does not exist, or as
            :func:`avslib.study.ablation.compare`.
    """
    study, changed = _Study(root), []
    for path, text in study.texts().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with atomic_path(path) as part:
                part.write_text(text, encoding="utf-8", newline="\n")
            changed.append(path)
    for path, (numbers, draw) in study.figures().items():
        before = path.read_bytes() if path.is_file() else b""
        changed += [path] if save_figure(draw(), path, comment=numbers).read_bytes() != before else []
    return changed


def stale(root: str | Path = ".") -> list[Path]:
    """Generated files that are missing or are not what the records give. Writes nothing.

    Text is compared letter by letter. A picture's bytes depend on fonts and versions, so a figure is compared by the
    numbers it was drawn from. Raises AvsError as :func:`write`.
    """
    study = _Study(root)
    texts = [p for p, text in study.texts().items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
    return texts + [path for path, (numbers, _) in study.figures().items() if _drawn_from(path) != numbers]


def _drawn_from(path: Path) -> str | None:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.text.get("Comment")
    except OSError:  # missing or damaged
        return None
