"""The jobs of tests/environments: what they pin, how they judge, and the page of licences."""

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/environments"))

import check  # noqa: E402
import licences  # noqa: E402


def listed():
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (.+?) \| (.+?) \| (.+?) \| (.*)\|$", licences.PAGE.read_text("utf-8"), re.M)
    return {name: rest for name, *rest in rows if name != "package"}


def test_every_direct_requirement_has_a_lower_bound():
    pins = [check.lower_bound(line) for line in check.direct_requirements()]
    assert "torch==2.11" in pins and len(pins) == len(set(pins)) > 30


def test_every_pin_is_listed_with_its_licence():
    page, pins = listed(), licences.pins()
    assert {name: row[0].split(", ") for name, row in page.items()} == pins
    assert not [name for name, row in page.items() if "UNKNOWN" in row[1] or "other systems" in row[2]]


def test_licences_are_those_of_the_installed_packages():
    page = listed()
    for found in importlib.metadata.distributions():
        name = licences.canonical(found.metadata["Name"])
        if name in page and page[name][0] == found.version and name not in licences.READ_BY_HAND:
            assert page[name][1] == licences.licence(found.metadata)


def test_copyleft_and_proprietary_licences_carry_a_note():
    marked = {name: row[3] for name, row in listed().items() if re.search("GPL|General Public|roprietary", row[1])}
    assert "docutils" in marked and all(marked.values())


@pytest.mark.parametrize(
    ("packages", "code"),
    [
        ([{"name": "a", "vulns": []}], 0),
        ([{"name": "a", "vulns": []}, {"name": "b", "skip_reason": "not found"}], 2),
        ([{"name": "a", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}, {"name": "b", "skip_reason": "?"}], 1),
    ],
)
def test_a_pin_without_an_answer_is_not_called_sound(packages, code):
    assert check.verdict(packages)[1] == code


def test_counts_come_from_the_report(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text('<testsuites><testsuite tests="9" failures="1" errors="2" skipped="3"/></testsuites>', "utf-8")
    counts = check.outcome(Path(sys.executable), report)
    assert (counts["passed"], counts["failed"], counts["skipped"]) == (3, 3, 3) and "torch" in counts["packages"]
