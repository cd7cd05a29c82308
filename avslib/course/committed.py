"""Results that the repository keeps for the lessons: run records, and the four short trainings of lesson 07."""

from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from avslib.core.errors import RecordError
from avslib.core.tensors import load_tensors
from avslib.course.lesson import in_checkout
from avslib.study.records import RunRecord, load_records

# lesson 07's variants: the weights (loss.orthogonality, loss.mi); tools/orthogonality_runs.py trains them
VARIANTS = {"base": (0.0, 0.0), "orth": (1.0, 0.0), "mi": (0.0, 0.1), "both": (1.0, 0.1)}
CODES = "codes.safetensors"


def committed_runs() -> Path:
    """The folder with the run records of the demo: the full model, and without sound."""
    return in_checkout("results/runs")


def committed_study() -> Path:
    """The folder with the run records of the committed ablation study (``configs/ablate-mini.yaml``)."""
    return in_checkout("results/ablation/runs")


def committed_variant(name: str) -> Path:
    """The folder with the committed run of one of lesson 07's `VARIANTS`."""
    return in_checkout(f"results/course/orthogonality/{name}")


class VariantRun(NamedTuple):
    """A variant of lesson 07: its record, the learning curve's file, and the prior's codes of the test clips.

    `codes` holds the prior's means "s_v", "s_a", "c" [clips * T, K], their standard deviations "s_v_sd", "s_a_sd",
    "c_sd", which sampling adds as noise, and "clip" [clips * T], the clip of each row.
    """

    record: RunRecord
    history: Path
    codes: dict[str, Tensor]


def load_variant(folder: str | Path) -> VariantRun:
    """Read what ``tools.orthogonality_runs.train_variant`` left in a folder; codes as float32.

    Raises AvsError where the folder or one of its files is missing or damaged.
    """
    folder = Path(folder)
    try:
        codes = load_tensors(folder / CODES)[0]
    except (OSError, SafetensorError) as error:
        remedy = "restore it from git, or set TRAIN = True in lesson 07"
        raise RecordError(f"{folder / CODES}: missing or damaged ({error}); {remedy}") from None
    (record,) = load_records(folder)
    codes = {name: z.float() if z.is_floating_point() else z for name, z in codes.items()}
    return VariantRun(record, folder / "history.csv", codes)
