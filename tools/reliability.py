"""Reliability records: what the tests of ``python run.py test --long --record`` tried, counted by themselves.

A record is ``results/reliability/NAME.json``: numbers by name (its `figures`), with the versions, the machine and the
state of the code. The tables of docs/RELIABILITY.md are made from these files only.
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from avslib.core.errors import RecordError
from avslib.core.files import atomic_path
from avslib.study.records import GitState, config_hash, environment, git_state, portable

FOLDER = Path("results/reliability")
# what the summary says -> the number that it is summed from
SUMMARY = {
    "faults injected": "faults",
    "faults survived": "survived",
    "kill points of a training, resumed bit for bit": "kill_points",
    "damaged files tried": "damaged_files",
    "of them, reported or rebuilt": "recognised",
    "of them, read with identical values": "read_the_same",
    "hostile files tried": "hostile_files",
    "of them, rejected with a sentence": "refused",
    "minutes of fuzzing": "minutes",
    "fuzzed inputs": "inputs",
    "bugs found by fuzzing, each fixed and kept as a test": "finds",
    "bytes lost": "bytes_lost",
}
# names of older records that read better today
SHOWN = {"told": "reported", "made_again": "rebuilt"}


class ReliabilityRecord(BaseModel):
    """What one test counted; `write_reliability_record` fills in what can be read off the machine."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    created: str
    git: GitState
    environment: dict[str, Any]
    figures: Annotated[dict[str, Any], Field(min_length=1)]
    content_hash: str = ""

    @model_validator(mode="after")
    def _unedited(self) -> "ReliabilityRecord":
        if self.content_hash != self.expected_hash():
            raise ValueError("content_hash does not match the record: it was edited")
        return self

    def expected_hash(self) -> str:
        return config_hash(self.model_dump(mode="json", exclude={"content_hash"}))


def write_reliability_record(folder: str | Path, name: str, **numbers: Any) -> Path:
    """Write ``NAME.json`` into `folder`, in place of an older one; `numbers`: also what else JSON can hold.

    Raises:
        RecordError: a name with other characters than a-z, 0-9, _ and -, no number, or one that is not finite.
    """
    values = {
        "version": 1,
        "name": name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": git_state(),
        "environment": environment(),
        "figures": portable(numbers),
    }
    try:
        values = json.loads(json.dumps(values, allow_nan=False))
        record = ReliabilityRecord.model_validate(values | {"content_hash": config_hash(values)})
    except (ValueError, TypeError) as error:
        raise RecordError(f"reliability record {name}: {error}; give counts and finite numbers") from None
    path = Path(folder) / f"{name}.json"
    with atomic_path(path) as part:
        part.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")
    return path


def read_reliability_record(path: str | Path) -> ReliabilityRecord:
    """Read a record.

    Raises:
        RecordError: missing, not JSON, edited, with unknown fields or of another version.
    """
    try:
        return ReliabilityRecord.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (ValidationError, OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise RecordError(
            f"{path}: not a readable reliability record ({reason}); record it again with --record"
        ) from None


def summary_markdown(records: Sequence[ReliabilityRecord]) -> str:
    """What the records add up to: a number is summed over the records that hold its name."""
    lines = ["| | |", "| --- | ---: |"]
    for text, name in SUMMARY.items():
        found = [_sum(record.figures[name]) for record in records if name in record.figures]
        lines.append(f"| {text} | {f'{sum(found):,.0f}' if found else 'no record yet'} |")
    return "\n".join(lines) + "\n"


def records_markdown(records: Sequence[ReliabilityRecord]) -> str:
    """A row for each record: its numbers, versions, time and commit."""
    lines = ["| record | counts | Python, PyTorch | made | commit |", "| --- | --- | --- | --- | --- |"]
    for record in records:
        shown = {name: value for name, value in record.figures.items() if name != "packages"}
        counts = "; ".join(f"{SHOWN.get(name, name).replace('_', ' ')} {_text(value)}" for name, value in shown.items())
        versions = f"{record.environment['python']}, {record.environment['packages'].get('torch')}"
        commit = (record.git.commit or "?")[:8] + (" + changes" if record.git.dirty else "")
        lines.append(f"| {record.name} | {counts} | {versions} | {record.created[:10]} | {commit} |")
    return "\n".join(lines) + "\n"


def _sum(value: Any) -> float:
    return sum(map(_sum, value.values())) if isinstance(value, dict) else float(value)


def _text(value: Any) -> str:
    """
    >>> _text({"wav": 2.0, "png": {"bombs": 3}})
    '(wav 2, png (bombs 3))'
    """
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {_text(part)}' for name, part in value.items())})"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
