"""The unit tests with other versions of the dependencies, and what is known against the tested ones.

    python tests/environments/check.py oldest [--python PYTHON] [PYTEST ARGS]   the lower bounds of pyproject.toml
    python tests/environments/check.py newest [--python PYTHON] [PYTEST ARGS]   what an installer finds today
    python tests/environments/check.py audit                                    constraints.txt through pip-audit

Each makes an environment in a temporary folder (up to 7 GB) and deletes it. PYTHON is the interpreter to test with,
else the one that runs this file. With --record the outcome is kept in results/reliability. Exit codes: 0 all well;
1 tests failed, or a package has a known vulnerability; 2 nothing can be said.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = "all"
UNITS = "not gpu and not notebook and not browser and not long"
KEEP = """
import json, sys
from tools.reliability import FOLDER, write_reliability_record
write_reliability_record(FOLDER, sys.argv[1], **json.loads(sys.stdin.read()))
"""


def direct_requirements() -> list[str]:
    """What pyproject.toml asks for by itself, all extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [line for group in project["optional-dependencies"].values() for line in group]
    return [line for line in wanted if not line.startswith("avslib[")]


def lower_bound(requirement: str) -> str:
    """The requirement pinned to its oldest version.

    >>> lower_bound("numpy>=1.26,<3")
    'numpy==1.26'
    """
    return re.fullmatch(r"([\w.-]+)[>=]=([\w.]+)(?:,<[\w.]+)?", requirement).expand(r"\1==\2")


@contextlib.contextmanager
def environment(python: str):
    """A fresh environment's interpreter; the folder goes when the block ends."""
    with tempfile.TemporaryDirectory(prefix="avs-environment-") as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        yield Path(folder) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(python: Path, *what: str) -> None:
    """Install by uv where there is one, else by pip."""
    uv = shutil.which("uv")
    pip = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    subprocess.run([*pip, "--quiet", *what], cwd=ROOT, check=True)


def keep(python: Path, name: str, numbers: dict) -> None:
    subprocess.run(
        [python, "-c", KEEP, name], cwd=ROOT, env=variables(python), input=json.dumps(numbers), text=True, check=True
    )


def variables(python: Path) -> dict[str, str]:
    path = os.pathsep.join((str(python.parent), os.environ.get("PATH", "")))
    return os.environ | {"PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}


def run_units(kind: str, python: str, arguments: list[str], record: bool) -> int:
    """The unit tests at the `oldest` or `newest` versions; pytest's exit code."""
    with environment(python) as own, tempfile.TemporaryDirectory() as folder:
        pins, report = Path(folder) / "pins.txt", Path(folder) / "report.xml"
        oldest = map(lower_bound, direct_requirements()) if kind == "oldest" else ()
        pins.write_text("\n".join(oldest), encoding="utf-8")
        install(own, "-c", str(pins), "-e", f".[{EXTRAS}]")
        workers = str(min(4, os.cpu_count() or 1))
        command = [own, "-m", "pytest", "-n", workers, "--dist", "loadscope", "-q", "-m", UNITS, *arguments]
        code = subprocess.call([*command, f"--junitxml={report}"], cwd=ROOT, env=variables(own))
        if record and report.is_file():
            keep(own, f"environment_{kind}", outcome(own, report))
    return code


def outcome(python: Path, report: Path) -> dict:
    """Counts of a JUnit report, with the versions of the direct dependencies."""
    suite = ElementTree.parse(report).getroot().find("testsuite").attrib
    counts = {name: int(suite[name]) for name in ("tests", "failures", "errors", "skipped")}
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    names = sorted({re.match(r"[\w.-]+", line)[0] for line in direct_requirements()})
    script = (
        "import importlib.metadata as m, json, platform, sys; have = {d.name.lower().replace('_', '-'): d.version "
        "for d in m.distributions()}; print(json.dumps([platform.python_version(), "
        "{n: have[n] for n in sys.argv[1:] if n in have}]))"
    )
    version, packages = json.loads(subprocess.check_output([python, "-c", script, *names], text=True))
    return {
        "python": version,
        "passed": passed,
        "failed": counts["failures"] + counts["errors"],
        "skipped": counts["skipped"],
        "date": datetime.date.today().isoformat(),
        "packages": packages,
    }


def audit(python: str, record: bool) -> int:
    """Ask pip-audit's service about every pin of this platform; what it does not know counts as not audited."""
    with environment(python) as own:
        install(own, "pip-audit")
        command = [own, "-m", "pip_audit", "-r", "constraints.txt", "--no-deps", "--disable-pip", "--format=json"]
        done = subprocess.run([*command, "--progress-spinner=off"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print("pip-audit gave no report (its message is above).", file=sys.stderr)
        return 2
    numbers, code = verdict(packages)
    numbers["behind"] = behind()
    print(f"{numbers['audited']} of {numbers['pins']} pins audited; vulnerable: {numbers['vulnerable'] or 'none'}")
    print(f"an installer finds newer ones today: {numbers['behind']}")
    if record:
        keep(Path(sys.executable), "audit", numbers | {"date": str(datetime.date.today())})
    return code


def behind() -> list[str] | None:
    """Newer releases that an installer finds today; None without uv, which alone resolves for all systems."""
    if (uv := shutil.which("uv")) is None:
        return None
    options = ["--universal", "--python-version", "3.11", "--all-extras", "--no-header", "--no-annotate", "--quiet"]
    newest = subprocess.check_output([uv, "pip", "compile", *options, "pyproject.toml"], cwd=ROOT, text=True)
    old = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return sorted(set(newest.splitlines()) - set(old))


def verdict(packages: list[dict]) -> tuple[dict, int]:
    """Figures and exit code of pip-audit's list: a pin that the service does not answer for is not a sound one."""
    known = [package for package in packages if "vulns" in package]
    bad = {p["name"]: {v["id"]: v["fix_versions"] for v in p["vulns"]} for p in known if p["vulns"]}
    code = 1 if bad else 0 if len(known) == len(packages) else 2
    return {"pins": len(packages), "audited": len(known), "vulnerable": bad}, code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("oldest", "newest", "audit"))
    parser.add_argument("--python", default=sys.executable, help="interpreter to make the environment with")
    parser.add_argument("--record", action="store_true", help="keep the outcome in results/reliability")
    given, rest = parser.parse_known_args()
    if given.what == "audit":
        return audit(given.python, given.record)
    return run_units(given.what, given.python, rest, given.record)


if __name__ == "__main__":
    sys.exit(main())
