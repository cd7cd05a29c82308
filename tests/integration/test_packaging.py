"""run.py, environment.yml, constraints.txt and pyproject.toml agree, and nothing of one machine is committed."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normal(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


CORE = {normal(r) for r in PROJECT["dependencies"]}
EXTRAS = {normal(r) for group in PROJECT["optional-dependencies"].values() for r in group}


@pytest.fixture
def run(monkeypatch):
    """A fresh copy of run.py as a module, blind to the environment variables that steer it."""
    for name in ("AVS_VENV", "AVS_ENV", "AVS_PIP", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(run, monkeypatch, tmp_path):
    """run.py in a checkout of its own, in a folder with a space and letters beyond ASCII, with a mock installer."""
    root = tmp_path / "моя папка é"
    root.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (root / name).write_bytes((ROOT / name).read_bytes())

    def build(folder, python):
        run.builds.append(folder)
        subprocess.check_call([sys.executable, "-m", "venv", "--without-pip", folder])

    run.builds = []
    monkeypatch.setattr(run, "ROOT", root)
    monkeypatch.setattr(run, "build", build)
    return run


# ---- the files agree ------------------------------------------------------------------------------------------------


def test_conda_installs_what_run_installs(run):
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert pip == {"pip": [f"-c {run.CONSTRAINTS}", f"-e {run.REQUIREMENT}"]}
    assert [normal(name) for name in conda] == ["python", "pip"]
    version = tuple(int(part) for part in conda[0].removeprefix("python=").split("."))
    assert run.OLDEST <= version <= run.NEWEST


def test_run_and_pyproject_name_the_same_pythons(run):
    oldest, (major, minor) = ".".join(map(str, run.OLDEST)), run.NEWEST
    assert PROJECT["requires-python"] == f">={oldest},<{major}.{minor + 1}"


def test_all_means_every_extra():
    extras = PROJECT["optional-dependencies"]
    assert set(re.search(r"\[(.*)\]", extras["all"][0])[1].split(",")) == set(extras) - {"all"}


def test_constraints_pin_every_dependency_and_name_no_host():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {normal(line) for line in text.splitlines()}
    assert pinned >= (CORE | EXTRAS) - {"avslib"}
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; .+)?", line) for line in text.splitlines())
    assert "://" not in text and "@" not in text


def imports(tree: ast.AST, top: bool = True):
    """(distribution's import name, whether it stands at module level) for each absolute import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0], top
        yield from imports(node, top and not isinstance(node, ast.FunctionDef))


def test_every_import_is_declared():
    distributions = importlib.metadata.packages_distributions()
    known = set(sys.stdlib_module_names) | {"avslib", "benchmarks", "course", "google", "tools"}
    for path in sorted([*(ROOT / "avslib").rglob("*.py"), *(ROOT / "course").rglob("*.py")]):
        for name, top in imports(ast.parse(path.read_text(encoding="utf-8"))):
            declared = CORE if top else CORE | EXTRAS
            owners = {normal(owner) for owner in distributions.get(name, [name])}
            assert name in known or owners & declared, f"{path.relative_to(ROOT)} imports {name}: declare it"


def test_heavy_or_rare_packages_are_imported_late():
    drawing = {ROOT / "avslib/study/plots.py", *(ROOT / "course").rglob("*.py")}
    for path in sorted({*(ROOT / "avslib").rglob("*.py"), *drawing} - {ROOT / "avslib/study/plots.py"}):
        names = {name for name, top in imports(ast.parse(path.read_text(encoding="utf-8"))) if top}
        late = {"ipywidgets", "IPython"} if path in drawing else {"matplotlib", "soundfile", "ipywidgets", "IPython"}
        assert not names & late, path


def tracked_files() -> list[Path]:
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / os.fsdecode(name) for name in listing.split(b"\0") if name]


def test_no_path_of_one_machine_and_no_registry_is_committed():
    # put together here, so that this file does not hold what it looks for
    folders = "|".join(("work", "root", "home/[a-z]\\w+", "Users/[A-Za-z]\\w+", "farm", "var/folders"))
    hosts = "|".join(("pypi" + r"\.org", "python" + "hosted", "/simp" + "le/", r"\.wh" + r"l\b", "index" + "-url"))
    paths = rf"(?:^|[^\w.~$}}-])/(?:{folders})/|[A-Z]:\\\\?Users\\"
    pattern = re.compile(rf"{paths}|https?://\S*(?:{hosts})|--\S*index" + "-url")
    for bad in ("see /ro" + "ot/x", 'open("/ho' + 'me/ann/x")', "C:\\Use" + "rs\\ann", "https://pypi" + ".org/x"):
        assert pattern.search(bad)
    found = []
    for path in tracked_files():
        data = path.read_bytes() if path.is_file() else b""
        if b"\0" not in data[:8000] and path.suffix != ".svg":
            text = data.decode("utf-8", errors="replace")
            found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert not found


def test_links_of_the_pages_lead_somewhere():
    pages = [path for path in tracked_files() if path.suffix == ".md"]
    texts = [(page, page.read_text(encoding="utf-8")) for page in pages]
    links = [(page, link) for page, text in texts for link in re.findall(r"\]\((?!https?:)([^)#:\s]+)", text)]
    # results/demo is written by the demo
    dead = [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]
    assert [link for link in dead if "results/demo/" not in link] == []


def test_commands_of_the_pages_and_tables_are_understood():
    from avslib.study.results import table
    from tests.helpers.command_lines import understood

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = {line.split("#")[0].strip() for line in re.findall(r"^avs .*", text, re.MULTILINE)}
    commands |= set(re.findall(r"`(avs .+?)`", table([], "ms3", "avsbench") + table([], "s4")))
    assert len(commands) >= 8
    for line in commands:
        assert understood(line), line


def test_citation_names_the_version_and_the_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


# ---- run.py: the environment ----------------------------------------------------------------------------------------


def test_an_old_or_new_python_gets_a_sentence(run, monkeypatch, capsys):
    monkeypatch.setattr(run, "OLDEST", (3, 99))
    assert run.main(["test"]) == 2 and "start run.py with Python 3.11 to 3.14" in capsys.readouterr().err


def test_builds_once_then_only_after_a_change(checkout):
    python = checkout.ensure_environment()
    assert Path(python).exists() and checkout.ensure_environment() == python
    assert len(checkout.builds) == 1
    (checkout.ROOT / "constraints.txt").write_text("numpy==2.0\n", encoding="utf-8")
    checkout.ensure_environment()
    checkout.ensure_environment()
    assert len(checkout.builds) == 2


def test_an_interrupted_set_up_starts_over(checkout, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkout, "build", lambda folder, python: (folder / "half").touch() or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            checkout.ensure_environment()
    checkout.ensure_environment()
    assert len(checkout.builds) == 1


@pytest.mark.skipif(os.name == "nt", reason="a mock of uv as a shell script")
def test_uv_or_pip_fill_an_emptied_folder(run, monkeypatch, tmp_path):
    folder, calls = tmp_path / "venv", []
    monkeypatch.setattr(run.shutil, "which", lambda name: "uv")
    monkeypatch.setattr(run.subprocess, "call", lambda command, **_: calls.append(command[:3]) or command[0] == "uv")
    (folder / "old").mkdir(parents=True)
    (folder / run.STATE).touch()
    run.build(folder, folder / "bin/python")
    assert [path.name for path in folder.iterdir()] == [run.STATE]
    assert calls[1:] == [["uv", "pip", "install"], [str(folder / "bin/python"), "-m", "pip"]]
    monkeypatch.setenv("AVS_PIP", "1")
    run.build(folder, folder / "bin/python")
    assert calls[-2:] == [[sys.executable, "-m", "venv"], [str(folder / "bin/python"), "-m", "pip"]]


def test_a_folder_of_someone_else_is_left_alone(checkout, monkeypatch, tmp_path):
    monkeypatch.setenv("AVS_VENV", str(tmp_path))
    with pytest.raises(checkout.Stop, match="was not made by run"):
        checkout.ensure_environment()
    assert checkout.ROOT.exists() and not checkout.builds


def test_a_folder_that_cannot_be_written_names_avs_venv(checkout, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("AVS_VENV", str(tmp_path / "file" / "venv"))
    with pytest.raises(checkout.Stop, match="AVS_VENV"):
        checkout.ensure_environment()


@pytest.mark.parametrize("name, value", [("AVS_ENV", "current"), ("COLAB_RELEASE_TAG", "release-colab")])
def test_current_interpreter_is_used_as_it_is(checkout, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(checkout, "run", lambda command, cwd: 0 if command[0] == sys.executable else 1)
    assert checkout.main(["lab"]) == 0 and not checkout.builds


# ---- run.py: the tasks ----------------------------------------------------------------------------------------------

RUN = "import run, sys, pathlib; sys.exit(run.run([sys.executable, '-c', *sys.argv[2:]], pathlib.Path(sys.argv[1])))"


def test_exit_code_arguments_and_folder_are_passed_on(tmp_path):
    folder = tmp_path / "a b é"
    folder.mkdir()
    script = "import sys, os; print([*sys.argv[1:], os.path.basename(os.getcwd())]); sys.exit(7)"
    command = [sys.executable, "-c", RUN, folder, script, "x y", "ü"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 7 and done.stdout.strip() == str(["x y", "ü", folder.name])


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_and_sigterm_leave_the_end_to_the_task(name):
    child = "signal.signal(signal.{0}, lambda *_: sys.exit(9)); print('up', flush=True); time.sleep(60)"
    child = "import signal, sys, time; " + child
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, ".", child.format(name)], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline() == b"up\n"
    number = getattr(signal, name)
    os.killpg(process.pid, number) if name == "SIGINT" else process.send_signal(number)
    assert process.wait(timeout=20) == 9


def test_suite_is_checks_and_one_parallel_session_unless_files_are_named(run, monkeypatch):
    monkeypatch.setattr(run.os, "cpu_count", lambda: 2)
    *checks, tests = run.task_commands("test", [])
    assert checks == run.CHECKS and {"ruff", "mypy"} <= {check[1] for check in checks}
    assert tests[:7] == ["-m", "pytest", "-n", "3", "--dist", "loadscope", "--no-loadscope-reorder"]
    assert "not gpu and not long" in tests and {"tests", "avslib", "course"} <= set(tests)
    compared = [word for word in tests if word.endswith(".ipynb")]
    assert "--nbval" in tests and "notebooks/00_start_here.ipynb" in compared and len(compared) == 11
    long = run.task_commands("test", ["--long", "-x", "--record"])[-1]
    assert "not gpu" in long and "--long" not in long and {"-x", "--record"} <= set(long)
    assert run.task_commands("test", ["tests/unit/test_metrics.py", "-k", "J"]) == [
        ["-m", "pytest", "tests/unit/test_metrics.py", "-k", "J"]
    ]


def test_every_part_is_run_and_the_first_failure_is_the_exit_code(run, monkeypatch, capsys):
    monkeypatch.setenv("AVS_ENV", "current")
    codes, done = {"a": 0, "b": 5, "c": 1}, []
    monkeypatch.setattr(run, "task_commands", lambda task, arguments: [["a"], ["b"], ["c"]])
    monkeypatch.setattr(run, "run", lambda command, cwd: done.append(command[1]) or codes[command[1]])
    assert run.main(["test"]) == 5 and done == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines() == ["failed: b", "failed: c"]
    codes["a"], done[:] = 130, []
    assert run.main(["test"]) == 130 and done == ["a"]


def test_lab_opens_the_first_lesson_unless_another_is_named(run):
    first = ["-m", "jupyterlab", "notebooks/00_start_here.ipynb", "--no-browser"]
    assert run.task_commands("lab", ["--no-browser"]) == [first]
    assert run.task_commands("lab", ["notebooks"]) == [["-m", "jupyterlab", "notebooks"]]


@pytest.mark.parametrize("arguments", [[], ["fly"]])
def test_wrong_task_is_answered_with_the_right_ones(run, arguments, capsys):
    assert run.main(arguments) == 2
    assert "lab" in "".join(capsys.readouterr())
