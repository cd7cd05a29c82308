"""What the command line reports of its work and of its failures."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from avslib import cli
from avslib.cli.last_resort import as_avs_error
from avslib.core.errors import DataError, DiskFullError, InstallError, InternalError, MemoryLimitError, OutputError


def avs(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["avs", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_an_error_carries_its_code(monkeypatch, capsys, tmp_path):
    assert avs(monkeypatch, "train", "--data", tmp_path / "none") == 2
    err = capsys.readouterr().err
    assert err.startswith("avs: ") and err.rstrip().endswith("[AVS201]") and len(err.splitlines()) == 1


def test_verbose_says_what_is_read_and_where_an_error_came_from(monkeypatch, capsys, mini_data):
    command = ["eval", "--data", mini_data, "--checkpoint", "mini-s4", "--split", "nowhere", "-q"]
    assert avs(monkeypatch, *command) == 2
    assert "INFO" not in capsys.readouterr().err
    assert avs(monkeypatch, "-v", *command) == 2
    err = capsys.readouterr().err
    assert (
        re.search(r"^[\d:]+ INFO avslib\.weights\.checkpoints: weights .*mini-s4", err, re.MULTILINE)
        and "Traceback" in err
    )


@pytest.mark.parametrize(
    "error,kind",
    [
        (DataError("a clip is missing"), DataError),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError),
        (PermissionError(errno.EACCES, "Permission denied", "out/run.json"), OutputError),
        (MemoryError(), MemoryLimitError),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryLimitError),
        (ModuleNotFoundError("No module named 'pandas'", name="pandas"), InstallError),
        (ImportError("cannot import name 'x' from 'avslib.config'", name="avslib.config"), InternalError),
        (KeyError("epoch"), InternalError),
    ],
)
def test_every_error_becomes_a_sentence(error, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert type(as_avs_error(error)) is kind
    assert len(list(tmp_path.iterdir())) == (kind is InternalError)


def test_a_bug_leaves_its_traceback_in_a_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("avslib.config.load_config", lambda *_: [][1])
    assert avs(monkeypatch, "config", "mini") == 70
    report = Path(re.search(r"report it with (.*\.txt) \[AVS900\]", capsys.readouterr().err)[1]).read_text()
    assert '"config",' in report and "IndexError: list index out of range" in report and '"torch"' in report


def test_the_last_resort_and_help_do_without_torch(tmp_path):
    script = "import sys; sys.modules['torch'] = sys.modules['numpy'] = None; from avslib.cli import main; main()"
    environment = os.environ | {"TMPDIR": str(tmp_path)}

    def run(*arguments):
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert "Usage: avs" in run("--help").stdout
    for command in (["weights", "list"], ["table"], ["doctor"]):
        done = run(*command)
        assert done.returncode == 2 and re.fullmatch(
            r"avs: the package (torch|numpy|pandas) .* \[AVS103\]\n", done.stderr
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "fault",
    [
        "raise ImportError('libtorch_cpu.so: undefined symbol: _ZN3c10')",
        "raise OSError('libcudart.so.12: cannot open shared object file: No such file or directory')",
        "raise RuntimeError('operator torchvision::nms does not exist')",
        "raise AttributeError('_ARRAY_API not found')",
        "import os; os.stat('/no/such/library.so')",
    ],
)
def test_a_broken_package_is_named(tmp_path, monkeypatch, fault):
    (tmp_path / "brokenpackage").mkdir()
    (tmp_path / "brokenpackage/__init__.py").write_text("from brokenpackage import inner\n", encoding="utf-8")
    (tmp_path / "brokenpackage/inner.py").write_text(fault, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "outerpackage.py").write_text("import brokenpackage\n", encoding="utf-8")
    with pytest.raises(Exception, match=r"\w") as caught:
        __import__("outerpackage")
    found = as_avs_error(caught.value)
    assert type(found) is InstallError and "the package brokenpackage cannot be imported" in str(found)
