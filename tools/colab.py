"""Install avslib from this checkout into the running interpreter, and only what that interpreter lacks.

The first cell of each notebook runs this file on Colab, whose PyTorch stays: to replace it would take minutes.
It needs nothing that such a runtime lacks. ``plan`` says what would be done.
"""

import importlib.metadata
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRA = ["ipywidgets"]  # the widgets of the lessons; the rest of the extra "notebooks" runs notebooks from outside


def plan(requirements: list[str]) -> tuple[list[str], list[str]]:
    """(what to install, sentences about versions that stay although avslib was not tested with them)."""
    # comes with matplotlib; pip's own copy would keep setuptools from being imported later
    from packaging.requirements import Requirement

    install, notes = [], []
    for requirement in map(Requirement, requirements):
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            install.append(str(requirement))
            continue
        if requirement.specifier.contains(found, prereleases=True):
            continue
        if requirement.name.startswith("torch") and requirement.name != "torchmetrics":
            notes.append(f"this runtime has {requirement.name} {found}; avslib was tested with {requirement.specifier}")
        else:
            install.append(str(requirement))
    return install, notes


def main() -> None:
    """Install, and make the checkout importable at once: an editable install is seen from the next kernel on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    install, notes = plan(project["dependencies"] + EXTRA)
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    if install:
        subprocess.run([*pip, *install], check=True)
    subprocess.run([*pip, "--no-deps", "-e", str(ROOT)], check=True)
    sys.path.insert(0, str(ROOT))
    print(*notes, f"avslib {project['version']} from {ROOT}", sep="\n")


if __name__ == "__main__":
    main()
