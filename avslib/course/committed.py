"""Where lessons 12 and 13 find the run records that the repository keeps."""

from pathlib import Path

from avslib.course.lesson import base_folder
from avslib.errors import AvsError

__all__ = ["committed_runs"]

CLONE = "avslib-repository"


def committed_runs() -> Path:
    """``results/runs`` of the checkout; where the package is installed without one, of a clone in the current folder.

    Raises:
        AvsError: there is neither; the sentence holds the command that makes the clone.
    """
    places = [base_folder() / "results" / "runs", Path.cwd() / CLONE / "results" / "runs"]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise AvsError(
            "the run records are in the repository, not in the installed package; fetch it into the current folder: "
            f"git clone --depth 1 https://github.com/avslib/avslib {CLONE}"
        )
    return found
