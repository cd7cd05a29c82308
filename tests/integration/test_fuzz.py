"""The readers under damaged files: what fuzzing found stays refused, and a few seconds of it are in every run."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avslib.config import field_types
from tests.fuzz.mutations import damaged
from tests.fuzz.seeds import SEEDS, seeds
from tests.fuzz.targets import TARGETS

FOLDER = Path(__file__).parents[1] / "fuzz"
FINDS = sorted((FOLDER / "finds").glob("*/*.bin"))
EXAMPLES = {"index": 10, "manifest": 15, "shard": 15, "video": 8, "wav": 15, "weights": 15, "yaml": 15}  # else 25

few = settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("path", FINDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_find_stays_mended(path):
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("reader", SEEDS)
def test_whole_files_and_damaged_ones(reader):
    for data in seeds(reader):
        TARGETS[reader](data)

    @settings(few, max_examples=EXAMPLES.get(reader, 25))
    @given(damaged(reader))
    def check(data):
        TARGETS[reader](data)

    check()


cells = st.one_of(st.text(max_size=12), st.sampled_from(("..", "a/b", "CON", "C:x", "a\\b", "x", "train", "dog", "")))


@settings(few, max_examples=60)
@given(
    st.lists(st.lists(cells, min_size=1, max_size=5), max_size=6),
    st.sampled_from(("name,category,split", "split,video_id")),
)
def test_tables_of_any_cells(rows, header):
    lines = [header, *(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)]
    TARGETS["csv"]("\n".join(lines).encode("utf-8", "surrogatepass"))


values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(("mini", "s4"))
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)


@settings(few, max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from((*field_types(), "model", "train", "variants", "all", "07", "extends")), values, max_size=4
    )
)
def test_configurations_of_any_values(fields):
    import yaml

    TARGETS["yaml"](yaml.safe_dump(fields, allow_unicode=True).encode("utf-8", "surrogatepass"))


@pytest.mark.long
@pytest.mark.parametrize("reader", SEEDS)
def test_half_a_minute_of_fuzzing(reader, tmp_path):
    """By atheris where it is installed, else by hypothesis; in processes with a limit of time and memory."""
    command = [sys.executable, str(FOLDER / "run.py"), "--target", reader, "--seconds", "30", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    reports = [path.read_text(errors="replace") for path in tmp_path.glob("*/find-*.txt")]
    assert done.returncode == 0 and not reports, "\n\n".join([done.stderr, *reports])


@pytest.mark.skipif(importlib.util.find_spec("atheris") is not None, reason="atheris is installed")
def test_without_atheris_the_script_says_so():
    command = [sys.executable, str(FOLDER / "run.py"), "--engine", "atheris", "--target", "skip"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "atheris is not installed: pip install atheris" in done.stderr
