"""Grid files of a sweep: which variants, tasks and seeds are trained, from which preset and on what data."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from avslib.config import Config, load_config
from avslib.core.errors import AvsError, ConfigError
from avslib.core.parsing import LARGEST_YAML, first_fault, parse_yaml, read_text
from avslib.study.records import portable, run_id, variant_hash
from avslib.study.results import flat_config
from avslib.variants import VARIANTS, variant

# set under data:, tasks: and seeds:, or by the sweep: an override would be lost
OWN_FIELDS = ("data.root", "data.task", "data.workers", "train.seed")


def seed_list(value: Any) -> Any:
    return range(value) if isinstance(value, int) else value


def _by_name(entries: Any) -> dict[str, Any]:
    if not isinstance(entries, list) or not entries:
        raise ValueError("expected a list of names, or NAME: {section.field: value}")
    pairs = [pair for entry in entries for pair in (entry.items() if isinstance(entry, dict) else [(str(entry), {})])]
    if len(dict(pairs)) < len(pairs):
        raise ValueError("two have the same name; give one of them a name of its own")
    return dict(pairs)


Task = Literal["s4", "ms3"]
Overrides = Annotated[dict[str, Any], BeforeValidator(lambda v: flat_config(v) if isinstance(v, dict) else v)]
Count = Annotated[int, Field(ge=0)]


class MiniData(BaseModel, extra="forbid", frozen=True):
    """A Mini-AVS build: composed once, by size and seed."""

    mini: Literal["small", "full", "ms3", "listening", "ambiguous"] = "small"
    seed: Count = 0


class Grid(BaseModel, extra="forbid", frozen=True):
    """A grid file; variants x axes x tasks x seeds are its runs.

    Overrides apply in the order `overrides`, `task_overrides`, the variant, `axes`, and with ``--fast`` `fast`.
    """

    name: str = Field("grid", description="default: the file's, without its ending")
    preset: str = Field("mini", description="preset or YAML file that every run starts from")
    data: MiniData | Path = Field(MiniData(), description="{mini: SIZE, seed: N}, or a folder in AVSBench layout")
    tasks: Annotated[list[Task], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = ["s4"]
    seeds: Annotated[list[Count], Field(min_length=1, max_length=1000), BeforeValidator(seed_list)] = [0]
    variants: Annotated[dict[str, Overrides], BeforeValidator(_by_name)] = Field(description="method -> changes")
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field({}, description="section.field: list of values")
    overrides: Overrides = Field({}, description="section.field: value, of every run")
    task_overrides: dict[Task, Overrides] = {}
    fast: Overrides = Field({}, description="section.field: value, added by --fast")
    threads: int = Field(1, ge=1, description="of a run; fixed, since sums depend on it in the last digit")
    memory_gb: float = Field(2.0, gt=0, description="of a run; how many run at once follows from it")
    baselines: bool = Field(True, description="also score shuffled sound and all objects in view")
    notebook: Count | None = Field(None, description="each run executes a copy of this lesson")
    slurm: dict[str, Any] = Field({}, description="options of dask_jobqueue.SLURMCluster")

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

    `method` is its name in tables: the variant's, and the values on the axes. `variant` is the entry of
    `avslib.variants.VARIANTS` ("ecmvae" under a new name); `data` is "mini" or "avsbench".
    """

    method: str
    variant: str
    task: str
    seed: int
    data: str
    config: Config

    @property
    def id(self) -> str:
        """The run's id, which its record will have."""
        return run_id(self.data, self.task, self.method, self.seed, self.config.model_dump(mode="json"))

    def key(self, dataset: str) -> tuple[str, int, str, str, str]:
        """What identifies a finished run; `dataset` is the id from `avslib.study.run.dataset_info`."""
        return self.task, self.seed, dataset, self.method, variant_hash(portable(self.config.model_dump(mode="json")))


def load_grid(path: str | Path) -> Grid:
    """Read and check a grid file. Raises AvsError when it is missing, not YAML, or has an unknown or wrong field."""
    path = Path(path)
    text = read_text(path, LARGEST_YAML, ConfigError, "a grid such as configs/ablate-mini.yaml")
    try:
        grid = Grid.model_validate(parse_yaml(text, f"grid {path}", ConfigError))
        return grid if "name" in grid.model_fields_set else grid.model_copy(update={"name": path.stem})
    except ValidationError as error:
        raise ConfigError(f"grid {path}: {first_fault(error)}") from None


def jobs(
    grid: Grid, seeds: int | Sequence[int] | None = None, fast: bool = False, root: str | Path | None = None
) -> list[Job]:
    """The runs of a grid, seed by seed, so that a part of a study is balanced.

    `seeds` (how many, counted from 0, or which) and `root` replace the grid's; `fast` adds its `fast` overrides. Every
    configuration is checked: raises AvsError for an unknown field, a wrong value, or two runs that are the same.
    """
    root = Path(root).expanduser().resolve() if root else grid.root
    composed = isinstance(grid.data, MiniData) and root == grid.root
    data = "mini" if composed or (root / "manifest.json").is_file() else "avsbench"
    seeds = grid.seeds if seeds is None else seed_list(seeds)
    base, found = load_config(grid.preset), {}
    points = [dict(zip(grid.axes, values, strict=True)) for values in itertools.product(*grid.axes.values())]
    for seed, task, (name, changes), point in itertools.product(seeds, grid.tasks, grid.variants.items(), points):
        method = ", ".join([name, *(f"{field.split('.')[-1]}={value}" for field, value in point.items())])
        values = grid.overrides | grid.task_overrides.get(task, {})
        try:
            # a new name stands for its changes only
            values |= variant(name) if name in VARIANTS or not changes else {}
            values |= changes | point | (grid.fast if fast else {})
            if lost := values.keys() & set(OWN_FIELDS):
                raise ConfigError(f"{min(lost)} cannot be overridden: data:, tasks: and seeds: set it")
            for field, value in values.items():  # a worker may run in a folder other than this one
                if isinstance(value, str) and "/" in value and Path(value).exists():
                    values[field] = str(Path(value).resolve())
            values |= {"data.root": str(root), "data.task": task, "data.workers": 0, "train.seed": seed}
            config = base.replace(values)
        except AvsError as error:
            raise ConfigError(f"grid {grid.name}, {method}: {error}") from None
        job = Job(method, name if name in VARIANTS else "ecmvae", task, seed, data, config)
        if job.id in found:
            raise ConfigError(f"grid {grid.name}: {method!r}, seed {seed}, is listed twice on {task}; remove one")
        found[job.id] = job
    return list(found.values())
