"""Every error has a code that stays, and docs/errors.md explains it."""

import ast
import pickle
from pathlib import Path

import pytest

from avslib.core.errors import KINDS, AvsError, DataError, SoundError

ROOT = Path(__file__).resolve().parents[3]


def test_codes_are_distinct():
    codes = [kind.code for kind in KINDS.values()]
    assert len(set(codes)) == len(codes) > 20 and all(kind.remedy and kind.__doc__ for kind in KINDS.values())


def test_no_error_is_raised_without_a_code():
    bare = []
    for path in sorted((ROOT / "avslib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "AvsError":
                bare.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not bare


@pytest.mark.parametrize("kind", KINDS.values())
def test_an_error_survives_a_process_boundary(kind):
    back = pickle.loads(pickle.dumps(kind("clip 3: lost")))
    assert type(back) is kind and str(back) == "clip 3: lost" and isinstance(back, AvsError)


def test_the_sentence_of_a_loader_worker_is_its_last_line():
    text = "Caught SoundError in DataLoader worker process 0.\nTraceback ...\navslib.errors.SoundError: a.wav: empty\n"
    assert str(SoundError(text)) == "a.wav: empty" and str(DataError("Caught in the act")) == "Caught in the act"
