"""The wheel alone, in an empty environment and an empty folder: no file of the checkout is needed."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = "import sys, hatchling.build as b; print(b.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run([sys.executable, "-c", BUILD, folder], cwd=ROOT, check=True, capture_output=True, text=True)
    return folder / built.stdout.split()[-1]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Run Python in an environment that holds the wheel and, by a path file, this one's dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # path files inside that folder are not read, so this checkout's editable install stays out
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    empty = folder / "empty"
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def run(*arguments: str) -> str:
        done = subprocess.run([python, *arguments], cwd=empty, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_wheel_holds_the_package_and_its_data_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"avslib"}
    assert {"avslib/py.typed", "avslib/presets/mini.yaml", "avslib/data/mini/bank/assets.csv"} <= set(names)


def test_installed_wheel_prints_configurations_and_tables(installed):
    assert "site-packages" in installed("-c", "import avslib; print(avslib.__file__)")
    assert "robustness" in installed("-m", "avslib.cli", "--help")
    assert "latent" in installed("-m", "avslib.cli", "config", "mini")
    assert "Paper" in installed("-m", "avslib.cli", "table", "--data", "avsbench")


def test_installed_wheel_builds_a_model(installed):
    code = "import avslib; m = avslib.ECMVAE(avslib.load_config('mini')); print(sum(p.numel() for p in m.parameters()))"
    assert int(installed("-c", code)) > 1_000_000
