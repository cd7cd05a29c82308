"""Results that the repository keeps for the lessons: run records, and the four short trainings of lesson 07."""

from pathlib import Path

from avslib.study.records import RunRecord, load_records
from course.lesson import in_checkout


def committed_runs() -> Path:
    """The folder with the run records of the demo: the full model, and without sound."""
    return in_checkout("results/runs")


def committed_records() -> list[RunRecord]:
    """The records of `committed_runs` that docs/results.md names, without runs of your own that lie beside them."""
    page = (in_checkout("docs") / "results.md").read_text(encoding="utf-8")
    return [record for record in load_records(committed_runs()) if record.id in page]


def committed_study(name: str = "ablation") -> Path:
    """The folder with the run records of a committed study: ``ablation`` (``configs/ablate-mini.yaml``),
    ``ablation-ms3`` or ``ablation-ambiguity`` (the grids of these names)."""
    return in_checkout(f"results/{name}/runs")


def committed_samples() -> Path:
    """The file that ``tools.ambiguity_samples`` wrote for lesson 14."""
    return in_checkout("results/course") / "ambiguity/samples.safetensors"


def committed_variant(name: str) -> Path:
    """The folder with the committed run of one of lesson 07's ``tools.orthogonality_runs.VARIANTS``."""
    return in_checkout(f"results/course/orthogonality/{name}")
