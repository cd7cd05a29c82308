"""No text that a user reads has a word in a sense that a native reader stumbles over: README, pages, lessons, help, errors.

`WORDS` lists the senses with what to write instead, `ALLOWED` the uses that are right as they are.
"""

import ast
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import avslib
from avslib.cli import app
from avslib.core.errors import KINDS

ROOT = Path(__file__).resolve().parents[2]
UNIT = (
    "clip|second|level|frame|step|batch|row|minute|class|task|split|seed|process|variant|run|code|pixel|megapixel|test batch|"
    "GPU|modality|node|hop|lesson|word"
)
COUNTED = (
    r"one|two|three|four|five|eight|ten|\d[\d.,]*|s|[GM]B|bits?|bytes|clips|coin|columns?|csv|frames?|masks?|metrics|notebook|numbers|"
    r"patch|pictures?|positions|rows?|runs?|samples?|seconds?|steps|values?|vectors?|windows?|codes?|operations|once"
)
WORDS = {
    "tell: report, raise, say, infer, distinguish": r"\b(?:told|tells?|telling)\b",
    "alone: only": r"\balone\b",
    "another: a different": r"\banother (?:\w+ )?than\b|\b(?:is|are|gives?|had|uses?|makes?) another\b",
    "is no X: is not an X": r"(?<!there )\b(?:is|are|was|were) no (?!longer|more|less|\w+er than|\w+er\b)",
    "figure: number, score": r"\b(?:published|same|these|such a|legitimate|no|single|test|keep the|change the|every|trust a|[jf]_legacy|"
    r"golden|released|its|their|between|above the|among test clips the) figures?\b(?! \d)"
    r"|\bfigures? (?:on|made|means?|mean nothing|are (?:means|not)|depends|that (?:came|the released)|of (?:prototypes|a paper|the frames))",
    "whatever: for any, regardless of": r"\bwhatever\b",
    "want of: lack of, no": r"\bwant of\b",
    "made again: rebuilt, computed again": r"\bmade (?:again|anew)\b",
    "a clip: per clip": rf"\b(?:{COUNTED}) an? (?:{UNIT})\b",
}
ALLOWED = [r"\b(?:leaves?|left)(?: \w+){0,3} alone\b"]
"""Uses in the right sense."""


def found(text: str) -> list[str]:
    """Each banned use, with the words around it."""
    text = re.sub("|".join(ALLOWED), lambda use: "-" * len(use[0]), " ".join(text.split()), flags=re.IGNORECASE)
    hits = []
    for advice, pattern in WORDS.items():
        for hit in re.finditer(pattern, text, re.IGNORECASE):
            hits.append(f"{advice}: ...{text[max(0, hit.start() - 60) : hit.end() + 40]}...")
    return hits
