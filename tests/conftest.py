"""What every test relies on: checked shapes, no display, and one thread per process (two workers share two cores)."""

import os
from pathlib import Path

import jaxtyping
import pytest

# before anything imports them: every call checks the shapes that the signatures state
jaxtyping.install_import_hook(["avslib.models", "avslib.losses", "avslib.metrics"], "beartype.beartype")

from tests.helpers.tiny import TINY  # noqa: E402

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def mini_data(tmp_path_factory):
    """A Mini-AVS build of a few small clips."""
    from avslib.data.mini import build_mini

    splits = {"train": 8, "val": 3, "test": 3, "test_unseen": 2}
    out = tmp_path_factory.mktemp("mini") / "data"
    build_mini(out, counts={"s4": splits, "ms3": splits}, image_size=64, workers=1, progress=False)
    return out


@pytest.fixture
def tiny(mini_data):
    """A configuration that trains in seconds, of preset mini's own classes."""
    from avslib.config import load_config

    return load_config("mini", TINY | {"data.root": str(mini_data)})


@pytest.fixture
def unchecked_shapes(monkeypatch):
    """Shapes as a user has them: wrong ones reach the code, which must name them itself."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of a module run in one process, which prepares once what they share; notebooks share nothing."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return nodeid if "test_runs_by_papermill" in nodeid else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.getoption("dist") == "loadscope" else None


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true", help="keep what tests count in results/reliability")
    parser.addoption("--device", choices=("cuda", "cpu"), default="cuda", help="of the GPU tests; cpu rehearses them")


@pytest.fixture
def reliability_record(request):
    """Keeps the numbers of a test, ``reliability_record("resume", kill_points=20)``, where --record asks for it."""
    from tools.reliability import FOLDER, write_reliability_record

    def keep(name, **numbers):
        if request.config.getoption("--record"):
            write_reliability_record(Path(__file__).resolve().parent.parent / FOLDER, name, **numbers)

    return keep
