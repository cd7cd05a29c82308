"""tools/gpu/check.py: it keeps its time, writes after each step, is resumed, and its training is rehearsed here.

The whole rehearsal is in tests/slow.
"""

import itertools
import json
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from benchmarks.run import MORE, SECTIONS
from tools.gpu import check
from tools.gpu.check import OUT_OF_TIME, Step, main

ROOT = Path(__file__).resolve().parents[2]
# ends when it is asked to, as a training does, and is done at the second attempt
STOPS = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[1]).touch(), sys.exit(75)))
time.sleep(0 if pathlib.Path(sys.argv[1]).exists() else 60)
"""


@pytest.fixture(autouse=True)
def handler():
    """The check's own handler of SIGTERM ends with its process, which here is that of all tests."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def steps(monkeypatch, tmp_path):
    """Lets a check run the given steps, with a second of grace."""
    monkeypatch.setattr(check, "GRACE", 1)
    monkeypatch.setattr(check, "WORK", tmp_path / "work")

    def use(*found):
        commands = [Step(name, 1, until, [sys.executable, "-c", *code]) for name, until, *code in found]
        monkeypatch.setattr(check, "plan", lambda *_: commands)

    return use


def read(out):
    return {n: v["status"] for n, v in json.loads((out / "check.json").read_text("utf-8"))["steps"].items()}


def test_a_failure_ends_no_other_step_and_is_tried_again(steps, tmp_path):
    done = tmp_path / "done"
    steps(
        ("a", 840, "print('said a')"),
        ("b", 840, f"import pathlib, sys; sys.exit(0 if pathlib.Path({str(done)!r}).exists() else 3)"),
        ("c", 840, f"import pathlib; pathlib.Path({str(tmp_path / 'count')!r}).open('a').write('c')"),
    )
    assert main(["--rehearse", "--out", str(tmp_path / "out")]) == 1
    assert read(tmp_path / "out") == {"a": "ok", "b": "failed", "c": "ok"}
    page = (tmp_path / "out/check.md").read_text("utf-8")
    assert "said a" in page and "| b | 1 | failed |" in page
    done.touch()
    assert main(["--rehearse", "--out", str(tmp_path / "out")]) == 0
    assert set(read(tmp_path / "out").values()) == {"ok"} and (tmp_path / "count").read_text() == "c"


def test_the_budget_is_kept_and_a_training_is_continued(steps, tmp_path):
    steps(("long", 420, "import time; time.sleep(60)"), ("training", 840, STOPS, str(tmp_path / "saved")))
    began = time.monotonic()
    assert main(["--rehearse", "--out", str(tmp_path / "out"), "--minutes", "0.2"]) == OUT_OF_TIME
    assert time.monotonic() - began < 13 and (tmp_path / "saved").exists()
    assert read(tmp_path / "out") == {"long": "out of time", "training": "out of time"}
    assert main(["--rehearse", "--out", str(tmp_path / "out"), "--minutes", "0.2", "--skip", "long"]) == 0
    assert read(tmp_path / "out")["training"] == "ok"


def test_a_check_of_other_settings_is_not_continued(steps, tmp_path):
    steps(("a", 840, "pass"))
    main(["--rehearse", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"choose a different --out"):
        main(["--device", "cpu", "--out", str(tmp_path)])


@pytest.mark.parametrize("small", [True, False])
def test_the_plan_names_what_exists_and_leaves_training_nine_minutes(small, tmp_path):
    found = check.plan("cuda", small, tmp_path, tmp_path / "none")
    by = [step.until for step in found]
    assert by == sorted(by) and by[-1] == 60 * check.PLANNED_MINUTES
    assert max(step.until for step in found if step.part < 3) == 300
    bench = [step.command for step in found if "bench" in step.command]
    parts = {value for command in bench for flag, value in itertools.pairwise(command) if flag == "--part"}
    assert parts <= SECTIONS.keys() | MORE.keys() and {"train", "batches", "profile"} <= parts
    assert {step.name.removeprefix("train-") for step in found} >= {
        path.parent.name
        for path in (ROOT / "avslib/assets/checkpoints").glob("*/run.json")
        if json.loads(path.read_text(encoding="utf-8"))["task"] == "s4"
    }


def test_wheels_come_from_the_index_that_pip_is_set_to():
    text = (ROOT / "tools/gpu/wheels.sh").read_text("utf-8")
    assert "://" not in text and not re.search("--(extra-)?index.url|--find.links", text)


def test_training_is_rehearsed(monkeypatch, tmp_path):
    monkeypatch.setattr(check, "WORK", tmp_path / "work")
    left_out = [
        part for name in ("mini-s4-without-audio", "mini-ms3-without-audio") for part in ("--skip", f"train-{name}")
    ]
    assert main(["--rehearse", "--part", "3", "--minutes", "60", *left_out, "--out", str(tmp_path / "out")]) == 0
    steps = ["clips-s4", "clips-ms3", "train-mini-s4", "train-mini-ms3"]
    assert read(tmp_path / "out") == dict.fromkeys(steps, "ok")
    record = json.loads((tmp_path / "out/mini-ms3/run.json").read_text("utf-8"))
    assert record["metrics"]["test"]["J"] >= 0 and "run record" in (tmp_path / "out/check.md").read_text("utf-8")
