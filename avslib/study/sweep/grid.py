"""Grid files of a sweep: which variants, tasks and seeds are trained, from which preset and on what data.

``load_grid("configs/ablate-mini.yaml")`` reads and checks one; ``jobs(grid)`` lists its runs, each with its whole
configuration, so a mistake anywhere in a grid is reported before the first run starts.
"""

import difflib
import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from avslib.config import Config, load_config, preset_names
from avslib.core.errors import AvsError, ConfigError
from avslib.core.parsing import LARGEST_YAML, first_line, parse_yaml, read_text
from avslib.study.records import portable, run_id, variant_hash
from avslib.variants import VARIANTS, variant

# set under data:, tasks: and seeds:, or by the sweep: an override would be lost
OWN_FIELDS = ("data.root", "data.task", "data.workers", "train.seed")


def seed_list(value: Any) -> list[int]:
    """``3`` as [0, 1, 2]; a list as it is. Raises ValueError for anything else."""
    if type(value) is int and value > 0:
        return list(range(value))
    if not isinstance(value, list | tuple) or not value or not all(type(seed) is int and seed >= 0 for seed in value):
        raise ValueError(f"expected how many seeds (counted from 0), or a list of whole numbers; got {value!r}")
    return list(value)


def _flat(values: Any) -> dict[str, Any]:
    """``{section: {field: value}}`` and ``{section.field: value}`` alike as the latter."""
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"expected section.field: value lines; got {values!r}")
    pairs = {key: value if isinstance(value, Mapping) else {"": value} for key, value in values.items()}
    return {f"{key}.{field}".rstrip("."): value for key, inside in pairs.items() for field, value in inside.items()}


def _variants(value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of at least one variant")
    found: dict[str, dict[str, Any]] = {}
    for entry in value:
        own = isinstance(entry, Mapping) and len(entry) == 1
        name, changes = next(iter(entry.items())) if own else (entry, None)
        if not isinstance(name, str):
            raise ValueError(f"expected a name, or NAME: {{section.field: value}}; got {entry!r}")
        if name in found:
            raise ValueError(f"{name!r} is listed twice; give the second one a name of its own")
        near = difflib.get_close_matches(name, VARIANTS, n=1, cutoff=0.9)
        if changes and near and name not in VARIANTS:
            raise ValueError(f"did you mean {near[0]!r} by {name!r}? A variant of your own needs another name")
        # a new name stands for its changes only
        found[name] = ({} if changes and name not in VARIANTS else variant(name)) | _flat(changes or {})
    return found


Task = Literal["s4", "ms3"]
Overrides = Annotated[dict[str, Any], BeforeValidator(_flat)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MiniData(_Section):
    """A Mini-AVS build: composed once, by size and seed."""

    mini: Literal["small", "full"] = "small"
    seed: int = Field(0, ge=0)


class Grid(_Section):
    """A grid file; variants x axes x tasks x seeds are its runs.

    Overrides apply in the order `overrides`, `task_overrides`, the variant, `axes`, and with ``--fast`` `fast`.
    """

    preset: str = Field("mini", description="preset or YAML file that every run starts from")
    data: MiniData | Path = Field(MiniData(), description="{mini: SIZE, seed: N}, or a folder in AVSBench layout")
    tasks: Annotated[list[Task], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = ["s4"]
    seeds: Annotated[list[int], BeforeValidator(seed_list)] = Field([0], description="how many, or a list")
    variants: Annotated[dict[str, dict[str, Any]], BeforeValidator(_variants)] = Field(description="method -> changes")
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field({}, description="section.field: list of values")
    overrides: Overrides = Field({}, description="section.field: value, of every run")
    task_overrides: dict[Task, Overrides] = {}
    fast: Overrides = Field({}, description="section.field: value, added by --fast")
    threads: int = Field(1, ge=1, description="of a run; fixed, since sums depend on it in the last digit")
    memory_gb: float = Field(2.0, gt=0, description="of a run; how many run at once follows from it")
    baselines: bool = Field(True, description="also score shuffled sound and all objects in view")
    notebook: int | None = Field(None, ge=0, description="each run executes a copy of this lesson")
    slurm: dict[str, Any] = Field({}, description="options of dask_jobqueue.SLURMCluster")
    _name: str = PrivateAttr("grid")

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self._name

    @property
    def root(self) -> Path:
        """Absolute folder of the data, built or not: a worker may run in a folder other than this one."""
        folder = self.data
        if isinstance(folder, MiniData):
            folder = Path("build/data") / f"mini-{folder.mini}{f'-seed{folder.seed}' if folder.seed else ''}"
        return folder.expanduser().resolve()


@dataclass(frozen=True)
class Job:
    """One run of a grid.

    Attributes:
        method: its name in tables: the variant's, and the values on the axes.
        variant: the entry of `avslib.variants.VARIANTS`; "ecmvae" under a new name.
        data: "mini" or "avsbench".
        config: everything that the run needs to know.
    """

    method: str
    variant: str
    task: str
    seed: int
    data: str
    preset: str
    config: Config

    @property
    def id(self) -> str:
        """The run's id, which its record will have."""
        return run_id(self.data, self.task, self.method, self.seed, self.config.model_dump(mode="json"))

    def key(self, dataset: str) -> tuple[str, int, str, str, str]:
        """What identifies a finished run; `dataset` is the id from `avslib.study.run.dataset_info`."""
        values = portable(self.config.model_dump(mode="json"))
        return self.task, self.seed, dataset, self.method, variant_hash(values)

    def changes(self, since: Config | None) -> dict[str, Any]:
        """Fields that differ from another configuration (None: all), except `OWN_FIELDS`."""
        mine = _flat(self.config.model_dump(mode="json", exclude={"preset"}))
        other = _flat(since.model_dump(mode="json")) if since else {}
        return {k: v for k, v in mine.items() if k not in OWN_FIELDS and not (k in other and other[k] == v)}

    def command(self, threads: int) -> str:
        """The command line that trains only this run."""
        words = ["avs", "train", "--preset", self.preset, "--data", str(self.config.data.root)]
        words += ["--task", self.task, "--seed", str(self.seed)]
        for name, value in self.changes(load_config(self.preset)).items():
            words += ["-o", f"{name}={json.dumps(value)}"]
        return f"OMP_NUM_THREADS={threads} {shlex.join(words)}"


def load_grid(path: str | Path) -> Grid:
    """Read and check a grid file.

    Raises:
        AvsError: no such file, not YAML, or a field that is unknown or wrong; one sentence with the right name.
    """
    path = Path(path)
    text = read_text(path, LARGEST_YAML, ConfigError, "a grid such as configs/ablate-mini.yaml")
    values = parse_yaml(text, f"grid {path}", ConfigError)
    if not isinstance(values, dict):
        raise ConfigError(f"grid {path}: expected fields such as variants: and tasks:; see configs/ablate-mini.yaml")
    try:
        grid = Grid.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"grid {path}: {_sentence(error)}") from None
    if grid.preset not in preset_names():
        grid = grid.model_copy(update={"preset": str(Path(grid.preset).expanduser().resolve())})
    grid._name = path.stem
    return grid


def jobs(
    grid: Grid, seeds: int | Sequence[int] | None = None, fast: bool = False, root: str | Path | None = None
) -> list[Job]:
    """The runs of a grid, seed by seed, so that a part of a study is balanced; every configuration is checked.

    Args:
        seeds: how many, counted from 0, or which; default: the grid's.
        fast: add the grid's `fast` overrides.
        root: folder of the data in place of the grid's.

    Raises:
        AvsError: a field or value that the configuration does not have; two runs that are the same.
    """
    root = grid.root if root is None else Path(root).expanduser().resolve()
    mini = (root / "manifest.json").is_file() or (isinstance(grid.data, MiniData) and root == grid.root)
    chosen = grid.seeds if seeds is None else seed_list(seeds)
    base, found = load_config(grid.preset), {}
    points = [dict(zip(grid.axes, values, strict=True)) for values in itertools.product(*grid.axes.values())]
    for seed, task, (name, changes), point in itertools.product(chosen, grid.tasks, grid.variants.items(), points):
        method = ", ".join([name, *(f"{field.split('.')[-1]}={value}" for field, value in point.items())])
        values = grid.overrides | grid.task_overrides.get(task, {}) | changes | point | (grid.fast if fast else {})
        if own := [field for field in OWN_FIELDS if field in values]:
            fields = "the grid sets it by data:, tasks: and seeds:"
            raise ConfigError(f"grid {grid.name}, {method}: {own[0]} cannot be overridden; {fields}")
        values |= {"data.root": str(root), "data.task": task, "data.workers": 0, "train.seed": seed}
        for field, value in values.items():  # a worker may run in a folder other than this one
            if isinstance(value, str) and "/" in value and Path(value).exists():
                values[field] = str(Path(value).resolve())
        try:
            config = base.replace(values)
        except AvsError as error:
            raise ConfigError(f"grid {grid.name}, {method}: {error}") from None
        known = name if name in VARIANTS else "ecmvae"
        job = Job(method, known, task, seed, "mini" if mini else "avsbench", grid.preset, config)
        if job.id in found:
            raise ConfigError(f"grid {grid.name}: {method!r}, seed {seed}, is listed twice on {task}; remove one")
        found[job.id] = job
    return list(found.values())


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    # a reader knows fields only, not members of a union
    name = ".".join(str(part) for part in first["loc"] if str(part) not in ("MiniData", "lax-or-strict", "path"))
    if first["type"] == "extra_forbidden":
        fields = list(MiniData.model_fields if name.startswith("data.") else Grid.model_fields)
        near = difflib.get_close_matches(name.split(".")[-1], fields, n=1, cutoff=0.5)
        return f"unknown field {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"fields: {', '.join(fields)}")
    given = "" if first["type"] in ("value_error", "missing") else f" (got {first_line(repr(first['input']))})"
    return f"{name}: {first['msg'].removeprefix('Value error, ')}{given}"
