"""Texts that a user reads hold no word in a sense that a native reader stumbles over: pages, lessons, helps, errors.

`WORDS`: the senses, with what to write instead. `ALLOWED`: the uses that are right as they are.
"""

import ast
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from avslib.cli import app
from avslib.cli.doors import DOORS
from avslib.core.errors import KINDS

ROOT = Path(__file__).resolve().parents[2]
UNIT = "clip|second|level|frame|step|(?:test )?batch|row|minute|class|task|split|seed|process|variant|run|code"
UNIT += "|(?:mega)?pixel|GPU|modality|node|hop|lesson|word"
COUNTED = (
    r"one|two|three|four|five|eight|ten|\d+(?:[.,]\d+)?|s|[GM]B|bits?|bytes|clips|codes?|coin|columns?|csv|frames?"
)
COUNTED += "|masks?|metrics|notebook|numbers|once|operations|patch|pictures?|positions|rows?|runs?|samples?|seconds?"
COUNTED += "|steps|values?|vectors?|windows?"
BEFORE = "published|same|these|such a|legitimate|no|single|test|keep the|change the|every|trust a|[jf]_legacy|golden"
BEFORE += "|released|its|their|between|above the|among test clips the"
AFTER = "on|made|means?|mean nothing|are (?:means|not)|depends|that (?:came|the released)"
AFTER += "|of (?:prototypes|a paper|the frames)"
WORDS = {
    "tell: report, raise, say, infer, distinguish": r"\b(?:told|tells?|telling)\b",
    "alone: only": r"\balone\b",
    "another: a different": r"\banother (?:\w+ )?than\b|\b(?:is|are|gives?|had|uses?|makes?) another\b",
    "is no X: is not an X": r"(?<!there )\b(?:is|are|was|were) no (?!longer|more|less|\w+er\b)",
    "figure: number, score": rf"\b(?:{BEFORE}) figures?\b(?! \d)|\bfigures? (?:{AFTER})",
    "whatever: for any, regardless of": r"\bwhatever\b",
    "want of: lack of, no": r"\bwant of\b",
    "made again: rebuilt, computed again": r"\bmade (?:again|anew)\b",
    "a clip: per clip": rf"\b(?:{COUNTED}) (?-i:an?) (?:{UNIT})\b",
}
# uses in the right sense; and what committed records hold, which nobody edits
ALLOWED = [
    r"\b(?:leaves?|left)(?: \w+){0,3} alone\b",
    r"draws the same figure",
    r"that noise alone, at the mean square",
    r"clip's own sound, whatever plays",
]


def found(text: str) -> list[str]:
    """Each banned use, with the words around it."""
    text = re.sub("|".join(ALLOWED), lambda use: "-" * len(use[0]), " ".join(text.split()), flags=re.IGNORECASE)
    hits = []
    for advice, pattern in WORDS.items():
        for hit in re.finditer(pattern, text, re.IGNORECASE):
            hits.append(f"{advice}: ...{text[max(0, hit.start() - 60) : hit.end() + 40]}...")
    return hits


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a module and their lines: docstrings, messages, helps, labels; values in f-strings are left out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
            yield node.lineno, "".join(map(str, parts))


def helps(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """The help of a command, its options and its commands."""
    yield name, command.help or ""
    for option in command.params:
        yield f"{name} {option.name}", getattr(option, "help", None) or ""
    for sub, below in getattr(command, "commands", {}).items():
        yield from helps(below, f"{name} {sub}")


def quiz_texts(source: str) -> list[str]:
    """The questions, choices and reasons of a lesson's quiz cell."""
    if not source.startswith("lesson.quiz("):
        return []
    return [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def markdown(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        texts = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        quizzes = [node for cell in cells for node in quiz_texts("".join(cell["source"]))]
        return "\n\n".join([*texts, *quizzes])
    return text


PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "avslib/assets/model_card.md")]
PAGES += [path for path in sorted((ROOT / "docs").glob("*.md")) if path.stem != "LICENSES"]
PAGES += [ROOT / "results" / name / "README.md" for name in ("ablation", "robustness")]
LESSONS = sorted((ROOT / "notebooks").rglob("[0-9][0-9]_*.ipynb"))


@pytest.mark.parametrize("page", PAGES + LESSONS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_and_lessons(page):
    assert found(markdown(page)) == []


@pytest.mark.parametrize(
    "path",
    [ROOT / "run.py", *sorted((ROOT / "avslib").rglob("*.py")), *sorted((ROOT / "course").rglob("*.py"))],
    ids=lambda path: path.stem,
)
def test_messages_docstrings_and_labels(path):
    assert [f"line {line}: {hit}" for line, text in literals(path) if " " in text for hit in found(text)] == []


def test_helps_and_explanations_of_errors():
    apps = {"avs": app} | {f"avs {name}": import_module(module).app for name, (module, _) in DOORS.items()}
    texts = dict(line for name, made in apps.items() for line in helps(typer.main.get_command(made), name))
    texts |= {kind.code: f"{kind.__doc__} {kind.remedy}" for kind in KINDS.values()}
    assert len(texts) > 100
    assert {name: hits for name, text in texts.items() if (hits := found(text))} == {}


@pytest.mark.parametrize(
    "text, banned",
    [
        ("the error is told in a sentence", 1),
        ("the first frame alone", 1),
        ("leave the weights alone", 0),
        ("larger than another", 0),
        ("this is another formula", 1),
        ("Zeros are no mask", 1),
        ("there is no mask, and it is no longer needed", 0),
        ("the published figures", 1),
        ("the figure shows two curves", 0),
        ("one frame a second", 1),
        ("Half of it gives 0.5. A second score follows", 0),
        ("whatever plays", 1),
        ("for want of disk", 1),
    ],
)
def test_the_rules_themselves(text, banned):
    assert len(found(text)) == banned
