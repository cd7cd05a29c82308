"""Bench records: named sections of rows, with the machine, the versions and the state of the code."""

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from avslib.core.errors import RecordError
from avslib.core.files import atomic_path
from avslib.study.records import GitState, config_hash, environment, git_state, portable


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Spread(_Part):
    """Median, quartiles and extremes of `count` numbers."""

    median: float
    lower: float
    upper: float
    smallest: float
    largest: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Statistics over the rounds; quartiles are interpolated.

    >>> spread([3.0, 1.0, 2.0]).lower
    1.5
    """
    smallest, lower, median, upper, largest = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()
    return Spread(median=median, lower=lower, upper=upper, smallest=smallest, largest=largest, count=len(values))


class BenchSettings(_Part):
    """What is measured, and for how long."""

    device: Literal["cpu", "cuda"] = "cpu"
    backbone: Annotated[str, Field(description="timm name in preset paper; mini: all of preset mini")] = "resnet50"
    batch: Annotated[int, Field(ge=1, description="clips per training step")] = 4
    rounds: Annotated[int, Field(ge=1, description="of whole steps; small parts take three times as many")] = 3
    quick: Annotated[bool, Field(description="a tiny network and 64 pixels: tries the command only")] = False
    compile: Annotated[bool, Field(description="torch.compile among the options")] = False
    frames: Annotated[int, Field(ge=1, description="T, frames per clip")] = 5
    size: Annotated[int | None, Field(ge=32, multiple_of=32, description="pixels; default: 224, or 64 if quick")] = None
    data: Annotated[str | None, Field(description="folder in AVSBench layout that part feeding reads")] = None
    task: Annotated[Literal["s4", "ms3"], Field(description="of that folder")] = "s4"
    seed: int = 0

    @property
    def image_size(self) -> int:
        return self.size or (64 if self.quick else 128 if self.backbone == "mini" else 224)


class Row(_Part):
    """One candidate in one case. Times are seconds per run; ratios are reference / candidate, so above 1 is better."""

    case: Annotated[str, Field(description="what runs: training step, inference, or a part")]
    name: Annotated[str, Field(description="candidate: reference, ours, or ours with an option")]
    batch: Annotated[int | None, Field(ge=1, description="clips per run")] = None
    seconds: Spread | None = None
    clips_per_second: float | None = None
    ratio: Spread | None = None
    peak_bytes: Annotated[int | None, Field(ge=0)] = None
    peak_ratio: float | None = None
    flops: float | None = None
    traffic_bytes: float | None = None
    matmul_share: Annotated[float | None, Field(description="FLOP/s over the measured ones of a matmul")] = None
    memory_share: Annotated[float | None, Field(description="bytes/s over the measured bandwidth")] = None
    errors: Annotated[dict[str, float], Field(description="relative: ours to the reference, options to ours")] = {}
    extrapolated_from: Annotated[list[int], Field(description="batches of the straight line; empty: measured")] = []
    values: Annotated[dict[str, float | str], Field(description="what only this section has")] = {}
    notes: str = ""


class BenchRecord(_Part):
    """One run of `avs bench`; `new_bench_record` fills in what can be read off the machine."""

    version: Literal[1] = 1
    created: str
    command: str
    git: GitState
    environment: dict[str, Any]
    settings: BenchSettings
    sections: dict[str, list[Row]]
    wall_seconds: Annotated[float, Field(ge=0)]
    content_hash: str = ""

    @model_validator(mode="after")
    def _unedited(self) -> "BenchRecord":
        if self.content_hash != config_hash(self.model_dump(mode="json", exclude={"content_hash"})):
            raise ValueError("content_hash does not match: the record was edited")
        return self


def new_bench_record(settings: BenchSettings, sections: Mapping[str, list[Row]], wall_seconds: float) -> BenchRecord:
    """A record of this machine and this code."""
    record = BenchRecord.model_construct(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=" ".join(["avs", *portable(sys.argv[1:])]),
        git=GitState(**git_state()),
        environment=environment(),
        settings=BenchSettings(**portable(settings.model_dump())),
        sections=dict(sections),
        wall_seconds=round(wall_seconds, 1),
    )
    # through JSON: the hash is of what the file holds
    values = json.loads(record.model_dump_json(exclude={"content_hash"}))
    return BenchRecord.model_validate(values | {"content_hash": config_hash(values)})


def write_bench_record(path: str | Path, record: BenchRecord) -> Path:
    """Write the record as JSON, to a temporary file that is then renamed."""
    with atomic_path(path) as part:
        part.write_text(record.model_dump_json(indent=1, exclude_defaults=False) + "\n", encoding="utf-8")
    return Path(path)


def read_bench_record(path: str | Path) -> BenchRecord:
    """Read a record.

    Raises:
        AvsError: missing, not JSON, edited, with unknown fields or of another version.
    """
    try:
        return BenchRecord.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "the record"
        raise RecordError(f"{path}: {name}: {first['msg']}; expected a record of avs bench, run it again") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: unreadable bench record ({error}); create it with avs bench") from None
