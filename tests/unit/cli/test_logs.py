"""What the command line tells of its work and of its failures."""

import errno
import re
import sys
from pathlib import Path

import pytest

from avslib import cli
from avslib.cli.last_resort import told
from avslib.core.errors import DataError, DiskFullError, InternalError, MemoryLimitError, OutputError


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
    assert re.search(r"^[\d:]+ INFO avslib\.checkpoints: weights .*mini-s4", err, re.MULTILINE) and "Traceback" in err


@pytest.mark.parametrize(
    "error,kind",
    [
        (DataError("a clip is missing"), DataError),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError),
        (PermissionError(errno.EACCES, "Permission denied", "out/run.json"), OutputError),
        (MemoryError(), MemoryLimitError),
        (KeyError("epoch"), InternalError),
    ],
)
def test_whatever_happens_is_told_in_a_sentence(error, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert type(told(error)) is kind
    assert len(list(tmp_path.iterdir())) == (kind is InternalError)


def test_a_bug_leaves_its_traceback_in_a_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("avslib.config.load_config", lambda *_: [][1])
    assert avs(monkeypatch, "config", "mini") == 70
    report = Path(re.search(r"report it with (.*\.txt) \[AVS900\]", capsys.readouterr().err)[1]).read_text()
    assert '"config",' in report and "IndexError: list index out of range" in report and '"torch"' in report
