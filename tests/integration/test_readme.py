"""The README's training step runs as it stands, and its commands and those of the pages are understood."""

import doctest
import re
from pathlib import Path

import pytest

from tests.helpers.command_lines import understood

ROOT = Path(__file__).resolve().parents[2]


def test_training_step_of_the_readme_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("```", "\n")
    (step,) = [block for block in text.split("\n\n") if block.lstrip("\n").startswith("python\n>>>")]
    test = doctest.DocTestParser().get_doctest(step, {}, "README.md", "README.md", 0)
    failed, tried = doctest.DocTestRunner().run(test)
    assert failed == 0 and tried >= 10


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("[a-z]*.md")), ids=lambda page: page.stem)
def test_commands_of_a_page_are_understood(page):
    for line in re.findall(r"^avs .*", page.read_text(encoding="utf-8"), re.MULTILINE):
        assert understood(line), line
