"""avs doctor finds what is there, names what is not, and breaks on nothing."""

import pytest
import torch
from typer.testing import CliRunner

from avslib.audio.vggish import VGGish
from avslib.cli import app
from avslib.cli.doctor import examine


@pytest.fixture
def by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda **given: {finding.name: finding for finding in examine(**given)}


def test_a_bare_folder_gets_a_list_of_what_is_missing(by_name):
    found = by_name()
    assert not found["data folder"].found and "build-mini" in found["data folder"].enables
    assert not found["VGGish"].found and "--vggish" in found["VGGish"].enables
    assert "mini-s4" in found["shipped checkpoints"].found and found["torch"].found == torch.__version__.split("+")[0]


def test_data_and_weights_are_found(by_name, mini_data, tmp_path):
    torch.save(VGGish().state_dict(), tmp_path / "vggish.pth")
    found = by_name(data=[mini_data, tmp_path], vggish=tmp_path / "vggish.pth")
    assert found[f"{mini_data.name}, s4"].found.startswith("Mini-AVS: ")
    assert "not usable" in found[f"{tmp_path.name}, ms3"].found and "tensors" in found["VGGish"].found


def test_missing_programs_and_extras_say_what_they_enable(by_name, monkeypatch):
    monkeypatch.setattr("avslib.cli.doctor.shutil.which", lambda name: None)
    monkeypatch.setattr("avslib.cli.doctor.find_spec", lambda name: None)
    found = by_name()
    assert found["C++ compiler"].found == found["extra sweep"].found == ""
    assert "train.compile" in found["C++ compiler"].enables and "avs ablate" in found["extra sweep"].enables


def test_the_command_prints_a_table(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0 and "what it enables" in result.output
