"""One run from configuration to run record: train, score the best checkpoint on val and the tests, write the record."""

import logging
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console

from avslib.config import Config
from avslib.core.errors import DataError
from avslib.core.files import atomic_path, sha256_file
from avslib.core.parsing import LARGEST_JSON, parse_json, read_text
from avslib.data.avsbench import read_skip_list
from avslib.data.layout import LAYOUTS, find_folder, is_plain_name, read_csv
from avslib.data.loading import shuffle_audio
from avslib.data.mini.sources import read_labels
from avslib.models.ecmvae import ECMVAE
from avslib.study.ambiguity import SPLIT as AMBIGUOUS
from avslib.study.ambiguity import evaluate_ambiguity
from avslib.study.records import CLIPS, DatasetInfo, RunRecord, git_state, new_record, run_id, write_record
from avslib.training.distributed import rank, together
from avslib.training.evaluate import Scores, all_objects, evaluate, heard_objects, scoring_options, test_splits
from avslib.training.loop import train
from avslib.training.setup import data_root, deterministic, open_split
from avslib.training.state import HISTORY
from avslib.variants import method_name
from avslib.weights.checkpoints import load_checkpoint
from avslib.weights.speed_options import apply_speed_options

logger = logging.getLogger(__name__)

SHUFFLED = "audio shuffled between clips"
ALL_OBJECTS = "all objects in view, outlines given"
HEARD_OBJECTS = "objects that sound somewhere in the clip, outlines given"
SELECTION = {"best": "checkpoint of the epoch with the best J on val", "last": "checkpoint of the last epoch"}


def dataset_info(root: str | Path, task: str, max_clips: int | None = None, skip: Any = ()) -> tuple[str, DatasetInfo]:
    """("mini" or "avsbench", id and clips by split), from the manifest of a Mini-AVS build or the task's csv.

    `max_clips`: at most so many clips of a split are used; `skip`: a set of names of which none is.
    """
    csv_path, manifest = find_folder(root, task) / LAYOUTS[task].csv, Path(root) / "manifest.json"
    found = Counter(row["split"] for row in read_csv(csv_path, task) if row[LAYOUTS[task].key] not in skip)
    clips = {split: min(count, max_clips or count) for split, count in found.items()}
    if not manifest.is_file():
        return "avsbench", DatasetInfo(id=f"avsbench-{task}-{sha256_file(csv_path)[:8]}", clips=clips)
    what = "the manifest of a Mini-AVS build"
    values = parse_json(read_text(manifest, LARGEST_JSON, DataError, what), manifest, DataError, what)
    size, seed = (values.get(key) if isinstance(values, dict) else None for key in ("size", "seed"))
    if not isinstance(size, str) or not is_plain_name(size) or not isinstance(seed, int):
        raise DataError(f"{manifest}: does not say size and seed; expected {what} (avs data build-mini makes one)")
    return "mini", DatasetInfo(id=f"mini-{size}-seed{seed}-{sha256_file(manifest)[:8]}", clips=clips)


def score(
    model: ECMVAE, config: Config, split: str, *, baselines: bool = True, progress: bool = False
) -> dict[str, Scores]:
    """Scores of a split by baseline name: "" the model itself; with sound, also the model with sounds exchanged
    between clips; on a Mini-AVS build, also the outlines of all objects in view, and on MS3 of those that sound
    somewhere in the clip. Without `baselines` only the first.
    Processes that run together share the clips.
    """
    progress = progress and rank() == 0
    dataset = together(lambda: open_split(config, split, progress=progress))
    mini = (Path(config.data.root) / "object_masks").is_dir()
    labels = read_labels(config.data.root, dataset) if mini else None
    options = {"progress": progress, "shared": True, "labels": labels} | scoring_options(config)
    scores = {"": evaluate(model, dataset, **options)}
    if baselines and config.model.use_audio:
        audio = {clip.name: row for clip, row in zip(dataset.clips, dataset.audio, strict=True)}
        scores[SHUFFLED] = evaluate(model, dataset.with_audio(shuffle_audio(audio)), **options)
        if labels and split != "train":  # whose object masks a build does not keep
            scores[ALL_OBJECTS] = all_objects(dataset, config.data.root, labels)
        if labels and dataset.task == "ms3":
            scores[HEARD_OBJECTS] = heard_objects(dataset, labels)
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

    Started in several processes, all of them do it together and return the record; only the first writes and prints.

    Args:
        out: default: ``results/runs/<id>``.
        method: what tables call it; by default :func:`avslib.variants.method_name`.
        baselines: also score the baselines of :func:`score` on the tests.

    Raises AvsError as :func:`avslib.training.loop.train` does.
    """
    # the code that trains is the one loaded now, even if a commit comes meanwhile
    start, git = time.perf_counter(), git_state()
    root, task, seed, values = data_root(config), config.data.task, config.train.seed, config.model_dump(mode="json")
    skip = read_skip_list(config.data.skip) if config.data.skip else ()
    data, dataset = dataset_info(root, task, config.data.max_clips, skip)
    method = method or method_name(config)
    out = Path(out or Path("results/runs") / run_id(data, task, method, seed, values))
    logger.info("%s, seed %d, %s %s into %s", method, seed, dataset.id, dataset.clips, out)
    with deterministic(config.train.deterministic):
        trained = train(config, out, resume=resume, progress=progress, console=console)
        logger.info("epoch %d is kept, J on val %.4f; scoring it", trained.best_epoch + 1, trained.best_j)
        model = apply_speed_options(load_checkpoint(trained.checkpoint, PartialState().device))
        scored: dict[str, dict] = {}
        clips = []
        for split in ["val", *test_splits(root, task)]:
            beside = baselines and split != "val"
            for name, scores in score(model, config, split, baselines=beside, progress=progress).items():
                scored.setdefault(name, {})[split] = scores.metrics
                clips += scores.rows(split, name)
    seconds = max(trained.seconds, time.perf_counter() - start)
    if rank() == 0 and AMBIGUOUS in dataset.clips:
        twins = evaluate_ambiguity(model, config, open_split(config, AMBIGUOUS, progress=progress))
        scored[""][AMBIGUOUS] = twins.metrics
        clips += twins.rows(AMBIGUOUS)
        if config.model.latent == "factorised":
            from avslib.study.representation import CODES, representation  # with pandas, which a training does not need

            test = open_split(config, "test", progress=progress)
            scored[""][CODES] = representation(model, config, test, read_labels(root, test))
    if rank() and console:
        console.quiet = True
    identity = {"data": data, "task": task, "method": method, "seed": seed, "config": values, "dataset": dataset}
    record = new_record(
        **identity,
        metrics=scored.pop(""),
        baselines=scored,
        notes="; ".join(filter(None, (notes, trained.survived))),
        selection=f"{SELECTION[config.train.keep]} (epoch {trained.best_epoch + 1} of {config.train.epochs})",
        wall_seconds=round(seconds, 1),
        git=git,
    )
    if rank() == 0:
        write_record(out, record, clips)
    return record


def publish(record: RunRecord, target: str | Path, **changes: Any) -> RunRecord:
    """Copy what a run is kept for from its work folder into `target`, with `changes` to fields of its record.

    The record goes last, since a folder with one counts as a finished run.
    """
    for name in (CLIPS, HISTORY):
        with atomic_path(Path(target) / name) as path:
            shutil.copyfile(record.path.with_name(name), path)
    published = record.model_copy(update=changes)
    write_record(target, published)
    return published
