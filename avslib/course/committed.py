"""Where the lessons find the results that the repository keeps."""

from pathlib import Path

from avslib.core.errors import InstallError
from avslib.course.lesson import base_folder


def committed_results(*parts: str) -> Path:
    """``results/<parts>`` of the checkout.

    Raises:
        AvsError: the package is installed without a checkout.
    """
    folder = base_folder().joinpath("results", *parts)
    if not folder.is_dir():
        raise InstallError(
            f"{folder}: no such folder; committed results are in the repository, not in the installed package: "
            "git clone https://github.com/avslib/avslib, then pip install -e avslib"
        )
    return folder


def committed_runs() -> Path:
    """The folder with the run records of the demo: the full model, and without sound."""
    return committed_results("runs")


def committed_study() -> Path:
    """The folder with the run records of the committed ablation study (``configs/ablate-mini.yaml``)."""
    return committed_results("ablation", "runs")
