#!/usr/bin/env python3
"""Set the project up on first use, then run one of its tasks in the project's own environment.

    python run.py demo             Mini-AVS from build to table: compose, train, score, draw
    python run.py test [ARGS]      checks and all tests (--long: slow ones too), or pytest on the files in ARGS
    python run.py lab [ARGS]       JupyterLab on notebooks/, at the first lesson
    python run.py book [ARGS]      the notebooks as an HTML site with search (build/book/index.html)
    python run.py avs [ARGS]       the command line of avslib (python run.py avs --help)

Needs Python 3.11 to 3.14 and nothing else: it builds the environment in .venv. Environment variables: AVS_VENV=DIR
builds it in DIR; AVS_ENV=current uses the running interpreter (the default on Colab); AVS_PIP=1 installs without uv.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST, NEWEST = (3, 11), (3, 14)
CONSTRAINTS, REQUIREMENT, STATE = "constraints.txt", ".[all]", "avslib-environment.txt"
CHECKS = [
    ["-m", "ruff", "check"],
    ["-m", "ruff", "format", "--check", "avslib", "benchmarks", "course", "tests", "tools", "run.py"],
    ["-c", "from importlinter.cli import lint_imports_command as check; check()"],
    ["-m", "mypy"],
    ["-m", "tools.budgets"],
]
VARYING = ("10", "12", "13", "14")  # lessons whose outputs differ from run to run: papermill runs them, nbval does not


class Stop(Exception):
    """A sentence for the user; run.py prints it and exits with code 2."""


def ensure_environment() -> str:
    """The environment's interpreter, after building the environment where it is missing, stale or incomplete."""
    folder = Path(os.environ.get("AVS_VENV") or ROOT / ".venv").expanduser().resolve()
    python, state = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"), folder / STATE
    files = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", CONSTRAINTS))
    wanted = hashlib.sha256(f"{sys.version_info[:2]} {REQUIREMENT} {ROOT}".encode() + files).hexdigest()
    try:
        if folder.exists() and not state.exists() and (folder.is_file() or any(folder.iterdir())):
            raise Stop(f"{folder} was not made by run.py: delete it, set AVS_VENV to another, or use AVS_ENV=current.")
        folder.mkdir(parents=True, exist_ok=True)
        if not python.exists() or not state.exists() or state.read_text() != wanted:
            with open(state, "a+") as stream:
                with contextlib.suppress(ImportError, OSError):  # Windows, or a file system without locks
                    import fcntl

                    fcntl.flock(stream, fcntl.LOCK_EX)  # released by the system when this process ends
                if not python.exists() or state.read_text() != wanted:  # else another run.py has just built it
                    stream.truncate(0)  # empty until all is done: an interrupted set-up starts over
                    build(folder, python)
                    stream.write(wanted)
    except OSError as error:
        raise Stop(f"cannot set up {folder} ({error}): set AVS_VENV to a folder with 8 GB free.") from None
    return str(python)


def build(folder: Path, python: Path) -> None:
    """Make the folder a virtual environment with the package, editable, and every extra, at the tested versions."""
    print(f"Setting up {folder} (about 2 minutes and 7 GB) ...", file=sys.stderr, flush=True)
    for path in folder.iterdir():
        if path.name != STATE:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if subprocess.call([sys.executable, "-m", "venv", str(folder)]):
        raise Stop("venv failed (its message is above). On Debian and Ubuntu: sudo apt install python3-venv.")
    what = ["-c", CONSTRAINTS, "-e", REQUIREMENT]
    uv = None if os.environ.get("AVS_PIP") else shutil.which("uv")
    by_uv = uv and not subprocess.call([uv, "pip", "install", "--python", str(python), *what], cwd=ROOT)
    if not by_uv and subprocess.call([str(python), "-m", "pip", "install", *what], cwd=ROOT):
        raise Stop("the installation failed (pip's message is above): fix the cause and start again.")


def task_commands(task: str, arguments: list[str]) -> list[list[str]]:
    """Arguments for the interpreter, one list for each command; a whole test run has several."""
    named = any(not argument.startswith("-") for argument in arguments)
    kept = [argument for argument in arguments if argument != "--long"]
    everything = ["-m", "not gpu"] if kept != arguments else []
    modules = {
        "demo": ["avslib.cli", "demo", *arguments],
        "test": ["pytest", *everything, *kept],
        "lab": ["jupyterlab", *([] if named else ["notebooks/00_start_here.ipynb"]), *arguments],
        "book": ["avslib.cli", "notebooks", "book", *arguments],
        "avs": ["avslib.cli", *arguments],
    }
    if task not in modules:
        raise Stop(f"unknown task {task!r}: choose one of {', '.join(modules)} (python run.py --help).")
    if task != "test" or named or {"-s", "--pdb", "--trace"} & {*arguments}:
        return [["-m", *modules[task]]]
    lessons = (path for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb") if not path.name.startswith(VARYING))
    compared = sorted(path.relative_to(ROOT).as_posix() for path in lessons)
    # one process more than cores, for tests that wait for disks, browsers or processes of their own
    pytest = ["-m", "pytest", "-n", str(min(4, (os.cpu_count() or 1) + 1)), "--dist", "loadscope"]
    pytest += ["--no-loadscope-reorder"]  # by folder, those with the long tests first
    pytest += everything or ["-m", "not gpu and not long"]
    pytest += ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=600", "--nbval-sanitize-with=tests/sanitize.cfg"]
    pytest += ["-p", "tests.helpers.lesson_metrics"]
    return [*CHECKS, [*pytest, *kept, "tests", "avslib", "course", *compared]]


def run(command: list[str], cwd: Path) -> int:
    """Run to the end and return the exit code; Ctrl-C reaches the task itself, SIGTERM is passed on to it."""
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])
    threads = {"OMP_NUM_THREADS": "1"} if "-n" in command else {}  # pytest's processes would compete for the cores
    env = {"PYTHONUTF8": "1", **threads, **os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    started: list[subprocess.Popen] = []
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in started])
    started.append(subprocess.Popen(command, cwd=cwd, env=env))
    code = started[0].wait()
    return code if code >= 0 else 128 - code


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__.strip())
        return 0 if arguments else 2
    try:
        if not OLDEST <= sys.version_info[:2] <= NEWEST:
            raise Stop(f"this is Python {sys.version.split()[0]}; start run.py with Python 3.11 to 3.14.")
        commands = task_commands(arguments[0], arguments[1:])
        current = os.environ.get("AVS_ENV") == "current" or "COLAB_RELEASE_TAG" in os.environ
        python = sys.executable if current else ensure_environment()
    except Stop as sentence:
        print(f"run.py: {sentence}", file=sys.stderr)
        return 2
    failed: dict[str, int] = {}
    for command in commands:
        if code := run([python, *command], Path.cwd() if arguments[0] == "avs" else ROOT):
            failed[" ".join(command)] = code
            if code >= 128:  # Ctrl-C or a signal ends everything, not only one part
                break
    if len(commands) > 1 and failed:
        print(*("failed: " + command for command in failed), sep="\n", file=sys.stderr)
    return next(iter(failed.values()), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
