"""One run from configuration to run record: train, score the best checkpoint on val and the tests, write it down."""

import logging
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState
from rich.console import Console

from avslib.config import Config
from avslib.core.errors import ConfigError, DataError
from avslib.core.files import atomic_path, sha256_file
from avslib.core.parsing import LARGEST_JSON, parse_json, read_text
from avslib.data.layout import LAYOUTS, find_folder, is_plain_name, read_csv
from avslib.data.loading import shuffle_audio
from avslib.models.ecmvae import ECMVAE
from avslib.study.records import DatasetInfo, RunRecord, git_state, new_record, run_id, write_record
from avslib.training.distributed import rank, together
from avslib.training.evaluate import Scores, all_objects, evaluate, scoring_options, test_splits
from avslib.training.loop import train
from avslib.training.setup import deterministic, open_split
from avslib.training.state import HISTORY
from avslib.variants import method_name
from avslib.weights.checkpoints import load_checkpoint
from avslib.weights.speed_options import apply_speed_options

logger = logging.getLogger(__name__)

PUBLISHED = ("clips.csv", HISTORY, "run.json")
SHUFFLED = "audio shuffled between clips"
ALL_OBJECTS = "all objects in view, outlines given"
SELECTION = "checkpoint of the epoch with the best J on val"


def dataset_info(root: str | Path, task: str, max_clips: int | None = None) -> tuple[str, DatasetInfo]:
    """("mini" or "avsbench", id and clips by split), from the manifest of a Mini-AVS build or the task's csv.

    `max_clips`: the most of a split that are used, as ``data.max_clips`` says.
    """
    csv_path = find_folder(root, task) / LAYOUTS[task].csv
    clips: dict[str, int] = {}
    for row in read_csv(csv_path, task):
        clips[row["split"]] = min(clips.get(row["split"], 0) + 1, max_clips or sys.maxsize)
    manifest = Path(root) / "manifest.json"
    if manifest.is_file():
        what = "the manifest of a Mini-AVS build"
        values = parse_json(read_text(manifest, LARGEST_JSON, DataError, what), manifest, DataError, what)
        size, seed = (values.get(key) if isinstance(values, dict) else None for key in ("size", "seed"))
        if not isinstance(size, str) or not is_plain_name(size) or not isinstance(seed, int):
            raise DataError(f"{manifest}: does not say size and seed; expected {what} (avs data build-mini makes one)")
        name = f"mini-{size}-seed{seed}-{sha256_file(manifest)[:8]}"
        return "mini", DatasetInfo(id=name, clips=clips)
    return "avsbench", DatasetInfo(id=f"avsbench-{task}-{sha256_file(csv_path)[:8]}", clips=clips)


def default_out(config: Config) -> Path:
    """``results/runs/<id>`` of this configuration."""
    data, _ = dataset_info(_root(config), config.data.task)
    values = config.model_dump(mode="json")
    return Path("results/runs") / run_id(data, config.data.task, method_name(config), config.train.seed, values)


def score(
    model: ECMVAE, config: Config, split: str, *, baselines: bool = True, progress: bool = False
) -> dict[str, Scores]:
    """Scores of a split by baseline name: "" the model itself; with sound, also the model with sounds exchanged
    between clips; on a Mini-AVS build, also the outlines of all objects in view. Without `baselines` the first alone.
    Processes of one group share the clips out.
    """
    progress = progress and rank() == 0
    dataset = together(lambda: open_split(config, split, progress=progress))
    options = {"progress": progress, "shared": True} | scoring_options(config)
    scores = {"": evaluate(model, dataset, **options)}
    if baselines and config.model.use_audio:
        audio = {clip.name: row for clip, row in zip(dataset.clips, dataset.audio, strict=True)}
        scores[SHUFFLED] = evaluate(model, dataset.with_audio(shuffle_audio(audio)), **options)
        if (Path(_root(config)) / "object_masks").is_dir():
            scores[ALL_OBJECTS] = all_objects(dataset, _root(config))
    return scores


def run(
    config: Config,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    console: Console | None = None,
    notes: str = "",
    method: str | None = None,
    baselines: bool = True,
) -> RunRecord:
    """Train `config` into `out`, score the best checkpoint, and write ``run.json`` and ``clips.csv`` there.

    Started in several processes, all of them do it together and return the record; the first one alone writes, and
    prints.

    Args:
        method: what tables call it; by default :func:`avslib.variants.method_name`.
        baselines: score the baselines of :func:`score` beside it on the tests.

    Raises:
        AvsError: see :func:`avslib.training.loop.train`.
    """
    start = time.perf_counter()
    # the code that trains is the one loaded now, whatever is committed meanwhile
    git = git_state()
    data, dataset = dataset_info(_root(config), config.data.task, config.data.max_clips)
    method = method_name(config) if method is None else method
    out = default_out(config) if out is None else Path(out)
    logger.info("%s, seed %d, %s %s into %s", method, config.train.seed, dataset.id, dataset.clips, out)
    with deterministic(config.train.deterministic):
        trained = train(config, out, resume=resume, progress=progress, console=console)
        logger.info("best epoch %d, J on val %.4f; scoring it", trained.best_epoch + 1, trained.best_j)
        model = apply_speed_options(load_checkpoint(trained.checkpoint, PartialState().device))
        metrics: dict[str, dict] = {}
        scored: dict[str, dict] = {}
        clips = []
        for split in ["val", *test_splits(_root(config), config.data.task)]:
            beside = baselines and split != "val"
            for name, scores in score(model, config, split, baselines=beside, progress=progress).items():
                (scored.setdefault(name, {}) if name else metrics)[split] = scores.metrics
                clips += scores.rows(split, name)
    seconds = max(trained.seconds, time.perf_counter() - start)
    if rank() and console:
        console.quiet = True
    record = new_record(
        data=data,
        task=config.data.task,
        method=method,
        seed=config.train.seed,
        config=config.model_dump(mode="json"),
        dataset=dataset,
        metrics=metrics,
        baselines=scored,
        notes="; ".join(text for text in (notes, trained.survived) if text),
        selection=f"{SELECTION} (epoch {trained.best_epoch + 1} of {config.train.epochs})",
        wall_seconds=round(seconds, 1),
        git=git,
    )
    if rank() == 0:
        write_record(out, record, clips)
    return record


def publish(source: str | Path, target: str | Path, names: Sequence[str] = PUBLISHED) -> None:
    """Copy what a run is kept for from its work folder, each file beside and renamed; the record last, as it alone says
    that a run is finished."""
    Path(target).mkdir(parents=True, exist_ok=True)
    for name in names:
        with atomic_path(Path(target) / name) as path:
            shutil.copyfile(Path(source) / name, path)


def _root(config: Config) -> str:
    if config.data.root is None:
        raise ConfigError(
            "data.root is not set: give the data folder, for example --data DIR (avs data build-mini makes one)"
        )
    return config.data.root
