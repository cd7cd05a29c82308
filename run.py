#!/usr/bin/env python3
"""Set the project up on first use, then run one of its tasks inside its own environment.

    python run.py demo             the main job: build Mini-AVS, train, score, draw (results/demo/)
    python run.py test [ARGS]      the whole test suite; ARGS go to pytest; --long adds the tests that take minutes,
                                   --record keeps what they count in results/reliability
    python run.py lab [ARGS]       JupyterLab on notebooks/, at the first lesson
    python run.py book [ARGS]      the notebooks as an HTML site with search (build/book/index.html)
    python run.py avs [ARGS]       the command line of avslib (python run.py avs --help)

Needs Python 3.11 to 3.14 and nothing else: the environment is made in .venv. Environment variables:
    AVS_VENV=DIR      keep the environment in DIR instead (a read-only checkout, a larger disk)
    AVS_ENV=current   make none: use the interpreter that runs this file (the rule on Colab)
    AVS_PIP=1         install with pip even where uv is on the PATH
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = "constraints.txt"
REQUIREMENT = ".[all]"
OLDEST, NEWEST = (3, 11), (3, 14)
NEEDED_GB = 8
# lessons that train or sample at length: their stored outputs are run, not compared
LAX = ("10", "12", "13", "14")
STATE, LOCK = "avslib-environment.json", "avslib-environment.lock"


class Stop(Exception):
    """A sentence for the user; run.py prints it and exits with code 2."""


# ---- the environment ------------------------------------------------------------------------------------------------


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> None:
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        have, oldest, newest = (".".join(map(str, v)) for v in (version, OLDEST, NEWEST))
        raise Stop(f"This is Python {have}; avslib needs {oldest} to {newest}: start run.py with one of those.")


def uses_current_interpreter() -> bool:
    if os.environ.get("AVS_ENV", "") not in ("", "current"):
        raise Stop(f"AVS_ENV is {os.environ['AVS_ENV']!r}; the only value it takes is 'current'.")
    if os.environ.get("AVS_ENV") or os.environ.get("COLAB_RELEASE_TAG"):
        return True
    with contextlib.suppress(ModuleNotFoundError):  # raised where there is no package "google" at all
        return importlib.util.find_spec("google.colab") is not None
    return False


def environment_folder() -> Path:
    return Path(os.environ.get("AVS_VENV") or ROOT / ".venv").expanduser().resolve()


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def fingerprint() -> str:
    """Changes whenever what is installed may no longer be what should be: the editable install names ROOT too."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {REQUIREMENT} {ROOT}".encode())
    for name in ("pyproject.toml", CONSTRAINTS):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def read_state(folder: Path) -> dict:
    try:
        return json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_state(folder: Path, **state: object) -> None:
    part = folder / (STATE + ".part")
    part.write_text(json.dumps(state), encoding="utf-8")
    os.replace(part, folder / STATE)


@contextlib.contextmanager
def locked(folder: Path):
    """Hold the folder against a second run.py; the system lets go of the lock when a process dies."""
    with open(folder / LOCK, "a+b") as stream:
        if os.name == "nt":
            import msvcrt

            while True:  # gives up with an OSError after ten seconds
                with contextlib.suppress(OSError):
                    msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def ensure_environment() -> Path:
    """The environment's interpreter, after making or mending the environment where that is due."""
    folder = environment_folder()
    if is_ready(folder):
        return python_of(folder)
    try:
        ours = (folder / STATE).exists() or (folder / LOCK).exists()
        if not ours and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Stop(
                f"{folder} exists and was not made by run.py: delete it, name another folder in AVS_VENV, "
                "or activate it and set AVS_ENV=current to use it as it is."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if not is_ready(folder):
                make(folder)
    except OSError as error:
        raise Stop(
            f"The environment cannot be written to {folder} ({error.strerror or error}): "
            "set AVS_VENV to a folder that can be written, with 8 GB free."
        ) from None
    return python_of(folder)


def is_ready(folder: Path) -> bool:
    return read_state(folder).get("installed") == fingerprint() and python_of(folder).exists()


def make(folder: Path) -> None:
    state = read_state(folder)
    whole = "installed" in state and state.get("python") == list(sys.version_info[:2]) and python_of(folder).exists()
    if not whole:
        if Path(sys.prefix).resolve() == folder:
            raise Stop(f"{folder} is incomplete and cannot be rebuilt from inside: deactivate it and start again.")
        free = shutil.disk_usage(folder).free / 2**30
        if free < NEEDED_GB:
            raise Stop(f"{folder} needs {NEEDED_GB} GB and {free:.1f} are free: make room, or set AVS_VENV elsewhere.")
        say(f"Setting up {folder} (once; about 2 minutes and 7 GB) ...")
        clear(folder)
        write_state(folder)
        create(folder)
    else:
        say(f"Bringing {folder} up to date ...")
        write_state(folder)
    install(python_of(folder))
    write_state(folder, installed=fingerprint(), python=list(sys.version_info[:2]))


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def create(folder: Path) -> None:
    if subprocess.call([sys.executable, "-m", "venv", str(folder)]):
        raise Stop(
            f"Python could not make a virtual environment in {folder} (its message is above). "
            "On Debian and Ubuntu: sudo apt install python3-venv, then start again."
        )


def install(python: Path) -> None:
    """Install the package, editable, with every extra, at the tested versions."""
    what = ["-c", CONSTRAINTS, "-e", REQUIREMENT]
    uv = None if os.environ.get("AVS_PIP") else shutil.which("uv")
    if uv and not subprocess.call([uv, "pip", "install", "--python", str(python), *what], cwd=ROOT):
        return
    if subprocess.call([str(python), "-m", "pip", "install", "--disable-pip-version-check", *what], cwd=ROOT):
        raise Stop("The installation failed (pip's message is above): mend that and start again; it begins anew.")


def check_current(extra: str | None) -> None:
    """Say what the running interpreter lacks; stop only where nothing can run without it."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
    missing = [requirement for requirement in wanted if not is_installed(re.match(r"[\w.-]+", requirement)[0])]
    if missing:
        packages = " ".join(f'"{requirement}"' for requirement in missing)
        say(f"Not installed here; what needs it will fail. To add it: {sys.executable} -m pip install {packages}")
    probe = subprocess.run(
        [sys.executable, "-c", "import avslib.cli, avslib.models.ecmvae"],
        cwd=ROOT,
        env=child_environment(None),
        capture_output=True,
        text=True,
    )
    if probe.returncode:
        reason = (probe.stderr.strip().splitlines() or ["no message"])[-1]
        raise Stop(f"avslib cannot be imported here ({reason}): install what is missing and start again.")


def is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


# ---- the tasks ------------------------------------------------------------------------------------------------------


def cpu_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def test_commands(arguments: list[str]) -> list[list[str]]:
    """The whole suite in its parts, on several cores; whoever names files or options with values gets plain pytest.

    The parts: unit tests and browser; every notebook by papermill; their stored outputs, strictly where the lesson
    is deterministic.
    """
    kept = [argument for argument in arguments if argument != "--long"]
    rest = [argument for argument in kept if argument != "--record"]  # an option of tests/conftest.py
    chosen = ["-m", "not gpu and not notebook"] if "--long" in arguments else []
    workers = min(4, cpu_count())
    pytest = ["-m", "pytest", *(["-n", str(workers)] if workers > 1 else [])]
    if {"-s", "--pdb", "--trace"} & set(rest) or not all(argument.startswith("-") for argument in rest):
        return [["-m", "pytest", *chosen, *kept]]
    notebooks = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    lax = [path for path in notebooks if path.split("/")[1][:2] in LAX]
    nbval = [*pytest, "--dist", "loadscope", "--nbval-current-env", "--nbval-cell-timeout=600"]
    strict = [path for path in notebooks if path not in lax]
    return [
        [*pytest, "--dist", "loadscope", *chosen, *kept],
        [*pytest, "--dist", "load", "-m", "notebook", "tests/notebooks/test_notebooks.py", *rest],
        [*nbval, "--nbval", "--nbval-sanitize-with=tests/sanitize.cfg", *rest, *strict],
        [*nbval, "--nbval-lax", *rest, *lax],
    ]


def task_commands(task: str, arguments: list[str]) -> tuple[list[list[str]], Path]:
    """Arguments for the interpreter, one list a command, and the folder to run them in."""
    if task == "demo":
        return [["-m", "avslib.cli", "demo", *arguments]], ROOT
    if task == "test":
        return test_commands(arguments), ROOT
    if task == "lab":
        named = any(not argument.startswith("-") for argument in arguments)
        return [["-m", "jupyterlab", *([] if named else ["notebooks/00_start_here.ipynb"]), *arguments]], ROOT
    if task == "book":
        return [["-m", "avslib.cli", "notebooks", "book", *arguments]], ROOT
    if task == "avs":
        return [["-m", "avslib.cli", *arguments]], Path.cwd()
    raise Stop(f"There is no task {task!r}: choose one of demo, test, lab, book, avs (python run.py --help).")


def child_environment(folder: Path | None) -> dict[str, str]:
    env = dict(os.environ)
    env.pop("PYTHONHOME", None)
    # the checkout comes first even where a .pth file with a non-ASCII path is not read (Windows before 3.13)
    env["PYTHONPATH"] = str(ROOT)
    env.setdefault("PYTHONUTF8", "1")
    if folder:
        env["VIRTUAL_ENV"] = str(folder)
        env["PATH"] = str(python_of(folder).parent) + os.pathsep + env.get("PATH", "")
    return env


def run(command: list[str], cwd: Path, env: dict[str, str]) -> int:
    """Run to the end and give the exit code; Ctrl-C reaches the task itself, SIGTERM is passed on to it."""
    started: list[subprocess.Popen] = []
    # set before the task starts: a SIGTERM right after it would end this process alone
    previous = signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in started])
    try:
        process = subprocess.Popen(command, cwd=cwd, env=env)
        started.append(process)
        while True:
            try:
                code = process.wait()
                return code if code >= 0 else 128 - code
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGTERM, previous)


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__.strip())
        return 0 if arguments else 2
    try:
        check_python()
        commands, cwd = task_commands(arguments[0], arguments[1:])
        if uses_current_interpreter():
            check_current({"test": "test", "lab": "notebooks", "book": "book"}.get(arguments[0]))
            python, environment = Path(sys.executable), child_environment(None)
        else:
            python, environment = ensure_environment(), child_environment(environment_folder())
        if len(commands) > 1:
            # the parts run several processes at once, which would fight over the cores
            environment.setdefault("OMP_NUM_THREADS", "1")
        first = 0
        for command in commands:
            code = run([str(python), *command], cwd, environment)
            first = first or code
            if code >= 128:  # Ctrl-C or a signal ends the whole, not one part
                break
        return first
    except Stop as sentence:
        say(f"run.py: {sentence}")
        return 2
    except KeyboardInterrupt:
        say("run.py: stopped; a set-up that was cut short is begun anew next time.")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
