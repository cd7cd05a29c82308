"""Run records: one ``run.json`` per run, which says what ran, where, on which data, and what came out.

Tables and figures are made from these files only. Records are meant to be committed, so absolute paths in commands and
configurations are cut to their last part: they name one machine, and no score depends on them.
"""

import csv
import datetime
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import psutil
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from avslib.config import Config
from avslib.core.errors import RecordError
from avslib.core.files import atomic_path, files_below
from avslib.core.parsing import LARGEST_JSON, first_fault, parse_json, read_text

DEFINITIONS = {
    "J": "mean over frames of IoU at sigmoid > 0.5; a frame with an empty mask scores the share of pixels left out",
    "F": "max over 255 thresholds of the mean F curve (beta^2 = 0.3) over all frames whose mask is not empty",
    "F_legacy@N": "the same maximum per batch of N test clips, averaged over the batches (as released evaluations do)",
}
RECORD, CLIPS = "run.json", "clips.csv"
# What may differ between two runs of one variant: no score depends on it, or it is the seed itself.
NOT_THE_VARIANT = (
    *(f"train.{name}" for name in ("seed", "checkpoint_every", "channels_last", "checkpointing", "compile")),
    *(f"train.{name}" for name in ("tensorboard", "deterministic")),
    *(f"data.{name}" for name in ("root", "workers", "timeout", "max_corrupt", "cache")),
)
PACKAGES = ("accelerate", "timm", "torch", "torchaudio", "torchmetrics", "torchvision")
PACKAGES += ("numpy", "pillow", "safetensors", "scipy", "soundfile")

# of scores other than from 0 to 1, by the first part of their names; unbiased estimates may lie below 0
RANGES = {"ged2": (-1, 2), "cka": (-1, 1), "x": (-math.inf, 1), "kl": (0, math.inf), "active": (0, math.inf)}
CLIP_COLUMNS = ["name", "split", "baseline", "J"]


def _in_range(metrics: dict[str, float | None]) -> dict[str, float | None]:
    for name, value in metrics.items():
        low, high = RANGES.get(name.split("_")[0], (0, 1))
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} should lie between {low} and {high}, found {value}")
    return metrics


Number = Annotated[float | None, BeforeValidator(lambda v: None if v != v else v)]  # noqa: PLR0124
Metrics = Annotated[dict[str, Number], AfterValidator(_in_range)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GitState(_Part):
    commit: str | None
    dirty: bool | None


class DatasetInfo(_Part):
    id: str = Field(description="names the data to the byte, for example mini-small-seed0-<hash of the manifest>")
    clips: dict[str, int] = Field(description="clips by split")


class RunRecord(_Part):
    """Everything about one run; `new_record` fills in what can be read off the machine.

    `metrics` maps split -> metric -> value from 0 to 1 (None where undefined); `baselines` maps a baseline's name to
    the same, for evaluations made in this run beside the model's own ("audio shuffled", "all objects in view").
    """

    version: Literal[1] = 1
    id: Annotated[str, Field(pattern=r"^[\w.@+-]+$")]
    task: Literal["s4", "ms3"]
    data: Literal["mini", "avsbench"]
    method: Annotated[str, Field(min_length=1)]
    created: str
    command: str
    git: GitState
    config: dict[str, Any]
    config_hash: str
    seed: int
    environment: dict[str, Any]
    wall_seconds: Annotated[float, Field(ge=0)]
    peak_memory_bytes: int | None
    peak_gpu_memory_bytes: int | None = None
    dataset: DatasetInfo
    selection: str
    metrics: dict[str, Metrics]
    baselines: dict[str, dict[str, Metrics]] = {}
    definitions: dict[str, str]
    notes: str = ""
    clips_sha256: Annotated[str, Field(description="of clips.csv beside it; empty: an old record")] = ""
    content_hash: Annotated[str, Field(description="of all the rest, as the file holds it; empty: an old record")] = ""
    _path: Path | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _unedited(self) -> Self:
        if self.config_hash != config_hash(self.config):
            raise ValueError("config_hash does not match config: the record was edited")
        return self

    @property
    def path(self) -> Path | None:
        """The run.json this record was read from or written to."""
        return self._path


def environment() -> dict[str, Any]:
    """Versions and hardware: what a score or a duration may depend on. Neither host nor user name."""
    import torch

    from avslib.training.distributed import world_size

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    packages = {}
    for name in sorted(PACKAGES):
        with suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    cpu = platform.processor() or platform.machine()
    with suppress(OSError, AttributeError):
        cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8", "replace"))[1]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu.strip(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "packages": packages,
    }


def git_state() -> dict[str, Any]:
    """Commit of the checkout this package runs from, and whether its code differs from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    commands = ("rev-parse --show-toplevel", "rev-parse HEAD", "status --porcelain -- avslib")
    with suppress(OSError, subprocess.CalledProcessError):
        done = [subprocess.run(["git", *c.split()], cwd=root, capture_output=True, check=True) for c in commands]
        top, commit, changes = (os.fsdecode(process.stdout).strip() for process in done)
        if Path(top).resolve() == root:
            return {"commit": commit, "dirty": bool(changes)}
    return {"commit": None, "dirty": None}


def config_hash(config: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the configuration as canonical JSON.

    >>> config_hash({"b": 1, "a": [2.0]}) == config_hash({"a": [2.0], "b": 1})
    True
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def variant_hash(config: Mapping[str, Any]) -> str:
    """The configuration's hash without `NOT_THE_VARIANT`: equal for the seeds of one variant.

    Fields at their default are left out: an option that a later version adds makes no new variant until it is used.

    >>> variant_hash({"data": {"root": "a", "skip": None, "frames": 5}}) == variant_hash({"data": {"root": "b"}})
    True
    """
    defaults, kept = Config().model_dump(mode="json"), dict(config)
    for key, section in config.items():
        if isinstance(section, Mapping):
            own = {n: v for n, v in section.items() if v != defaults.get(key, {}).get(n)}
            kept[key] = {n: v for n, v in own.items() if f"{key}.{n}" not in NOT_THE_VARIANT}
    return config_hash(kept)


def portable(value: Any) -> Any:
    """A copy with every absolute path in it cut to its last part.

    >>> portable({"root": "/data/avsbench", "more": [0, "C:\\\\runs\\\\a", "data.root=/x/y"], "note": "a/b"})
    {'root': 'avsbench', 'more': [0, 'a', 'data.root=y'], 'note': 'a/b'}
    """
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, str | Path):
        absolute = r"(?s)^([\w.-]+=)?(?=[/~]|[A-Za-z]:[\\/]|\\\\).*?([^\\/]*)[\\/]*$"
        return re.sub(absolute, r"\1\2", str(value))
    return value


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def run_id(data: str, task: str, method: str, seed: int, config: Mapping[str, Any]) -> str:
    """A name for the run that the same configuration always gets, so that a finished run can be found again."""
    return f"{data}-{task}-{re.sub(r'[^A-Za-z0-9_]+', '_', method)}-s{seed}-{config_hash(portable(config))[:8]}"


def new_record(*, data: str, task: str, method: str, seed: int, config: Mapping[str, Any], **fields: Any) -> RunRecord:
    """A record of the run that ends now: id, time, command, commit, environment and peak memory are filled in.

    `fields`: `dataset`, `selection`, `metrics`, `wall_seconds`, and any others of `RunRecord`, which replace what would
    be filled in. Raises AvsError when a field does not fit.
    """
    config = portable(config)
    run = {"data": data, "task": task, "method": method, "seed": seed, "config": config}
    filled = {
        "id": run_id(**run),
        "config_hash": config_hash(config),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(portable([Path(sys.argv[0]).stem.replace("cli", "avs"), *sys.argv[1:]])),
        "git": git_state(),
        "environment": environment(),
        "peak_memory_bytes": peak_memory(),
        "definitions": DEFINITIONS,
    }
    return _validated(filled | run | fields, "run record")


def _validated(values: Any, source: str) -> RunRecord:
    try:
        return RunRecord.model_validate(values)
    except ValidationError as error:
        advice = "write records with new_record of avslib.study"
        raise RecordError(f"{source}: {first_fault(error)}; {advice}") from None


def write_record(folder: str | Path, record: RunRecord, clips: Iterable[Mapping[str, Any]] | None = None) -> Path:
    """Write ``run.json`` into `folder`, and the clips' scores as ``clips.csv`` beside it; returns the former's path.

    `clips`: one mapping per clip with name, split, J, other scores, and baseline ("" or absent: the model itself).
    """
    folder = Path(folder)
    if clips is not None:
        rows = [{"baseline": ""} | dict(clip) for clip in clips]
        others = dict.fromkeys(key for row in rows for key in row if key not in CLIP_COLUMNS)
        import pandas as pd  # takes long to import, and a training writes no table before its end

        table = pd.DataFrame(rows, columns=[*CLIP_COLUMNS, *others])
        with atomic_path(folder / CLIPS) as part:
            table.astype({"J": float}).to_csv(part, index=False, float_format="%.6f", lineterminator="\n")
        record.clips_sha256 = _text_sha256(folder / CLIPS)
    record.content_hash = _content_hash(record.model_dump(mode="json"))
    text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_path(folder / RECORD) as part:
        part.write_text(text + "\n", encoding="utf-8")
    record._path = folder / RECORD
    return record.path


def _content_hash(values: Mapping[str, Any]) -> str:
    return config_hash({key: value for key, value in values.items() if key != "content_hash"})


def _text_sha256(path: Path) -> str:
    # of the lines: a checkout on Windows may end them differently
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def load_records(root: str | Path) -> list[RunRecord]:
    """Every run.json under `root`, ordered by id; `avslib.study.results.frame` makes a data frame of them.

    Raises AvsError when the folder is missing, a record is damaged or of another version, or two have the same id.
    """
    if not Path(root).is_dir():
        raise RecordError(f"{root}: no such folder of run records; runs are kept in results/runs")
    records: dict[str, RunRecord] = {}
    for path in (path for path in files_below(root) if path.name == RECORD):
        text = read_text(path, LARGEST_JSON, RecordError, "a run record")
        values = parse_json(text, path, RecordError, "a run record")
        record = _validated(values, str(path))
        record._path = path
        if record.content_hash not in ("", _content_hash(values)):
            raise RecordError(f"{path}: content_hash does not match: damaged or edited; restore it or delete it")
        if other := records.get(record.id):
            raise RecordError(f"{path} and {other.path}: two run records with the id {record.id}; delete one")
        records[record.id] = record
    return [records[key] for key in sorted(records)]


@lru_cache(maxsize=256)  # a study's tables ask for each run's clips once per score and split
def _parsed_clips(text: str) -> list[dict[str, Any]]:
    rows = [{**row, "J": float(row["J"])} for row in csv.DictReader(io.StringIO(text))]
    others = [name for name in (rows or [{}])[0] if name not in CLIP_COLUMNS]
    return [row | {name: float(row[name] or "nan") for name in others} for row in rows]


def load_clips(record: RunRecord) -> list[dict[str, Any]]:
    """Rows of the record's clips.csv, scores as floats (NaN: none); an empty list if the run kept none.

    Raises RecordError when the file is damaged, or is not the one that was written with the record.
    """
    if record.path is None or not (path := record.path.with_name(CLIPS)).is_file():
        return []
    if record.clips_sha256 and record.clips_sha256 != _text_sha256(path):
        raise RecordError(f"{path}: not the file that was written with run.json: damaged or edited; restore both")
    try:
        return [dict(row) for row in _parsed_clips(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise RecordError(f"{path}: not a readable table of clips ({error!r}); restore it or delete it") from None
