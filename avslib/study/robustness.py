"""How a model holds up when the sound is not the clip's own, is noisy, or a modality is missing: scores and table.

Each condition plays something to the model, or hides the image, and is scored on every clip of a split: J and F
against the mask of the clip's own sound, and falsely_lit, the share of all pixels predicted as sounding (sigmoid > 0.5)
where nothing sounds given what plays. `avslib.study.robustness_conditions.DEFINITIONS` defines both per condition.

    print(robustness_table(load_records("results/robustness")))
"""

import copy
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Shaped
from rich.progress import track
from torch import Tensor

from avslib.audio.encoders import build_audio_encoder
from avslib.config import Config
from avslib.core.errors import DataError, OutputError, RecordError
from avslib.core.tensors import state_sha256
from avslib.data.mini.sources import read_labels
from avslib.models.ecmvae import ECMVAE
from avslib.study.intervals import DRAWS, Interval, clip_scores, difference_interval
from avslib.study.records import DEFINITIONS as SCORES
from avslib.study.records import RECORD, RunRecord, new_record, run_id, write_record
from avslib.study.robustness_conditions import BLANK, CONDITIONS, DEFINITIONS, OWN, Stage, left_out, snr_of
from avslib.study.run import dataset_info, method_name
from avslib.study.tables import Data, Format, Table, render
from avslib.training.evaluate import Scores, Tally, predict_batches
from avslib.training.loop import BEST
from avslib.training.setup import open_split
from avslib.weights.checkpoints import WEIGHTS, load_checkpoint, shipped_names

TITLES = {"mini": "Robustness on Mini-AVS (not comparable with AVSBench)", "avsbench": "Robustness on AVSBench"}
Names = Sequence[str] | None
METRICS = ["J", "F", "falsely_lit"]


def falsely_lit_per_frame(
    logits: Float[Tensor, "N *frame"], sounding: Shaped[Tensor, "N *frame"]
) -> Float[Tensor, "N"]:
    """Of all pixels of each frame, the share with sigmoid > 0.5 where `sounding` is 0; float64.

    >>> falsely_lit_per_frame(torch.tensor([[[9.0, 9.0], [9.0, -9.0]]]), torch.tensor([[[1, 0], [0, 0]]])).tolist()
    [0.5]
    """
    lit = (logits.sigmoid() > 0.5) & (sounding == 0)
    return lit.flatten(1).sum(1).cpu().double() / lit[0].numel()


def evaluate_robustness(
    model: ECMVAE,
    config: Config,
    split: str = "test",
    conditions: Names = None,
    seed: int = 0,
    progress: bool = False,
    absent: list[str] | None = None,
) -> dict[str, Scores]:
    """Scores of a split by condition: metrics J, F and falsely_lit (from 0 to 1; NaN: not defined), J of each clip.

    conditions: of `CONDITIONS`, or "SNR x dB" for another x; None: all that the data allows. `config` names the data;
    `seed` draws noise, exchanged and off-screen sounds (the noise of a clip depends only on the seed and its name).
    `absent` gets a sentence for each condition that was left out.
    Raises AvsError for a condition that is unknown or that the data does not allow, and for frames without masks.
    """
    dataset, m = open_split(config, split, progress=progress), config.model
    labels = read_labels(config.data.root, dataset)
    asked = list(dict.fromkeys(CONDITIONS if conditions is None else conditions))
    missing = left_out(asked, dataset, labels, listens=m.use_audio)
    if conditions is not None and missing:
        raise RecordError(next(iter(missing.values())))
    if absent is not None:
        absent += missing.values()
    encoder = build_audio_encoder(m.audio_encoder, m.audio_weights) if m.use_audio else None
    stage = Stage(dataset, labels, encoder, seed, config.train.eval_batch_size)
    played = [condition for condition in asked if condition not in missing]
    shown = track(played, f"robustness, {split}", disable=not progress, transient=True)
    return {condition: _score(model, config, stage, condition) for condition in shown}


def _score(model: ECMVAE, config: Config, stage: Stage, condition: str) -> Scores:
    if condition == BLANK:  # the same network, to which every frame has the mean colour
        seeing, model = model, copy.copy(model)
        model.normalize = lambda image: torch.zeros_like(seeing.normalize(image))
    dataset = stage.dataset.with_audio(stage.audio(condition))
    tally, lit = Tally(dataset.frames), []
    options = {"batch_size": config.train.eval_batch_size, "workers": config.data.workers, "frames": dataset.frames}
    for rows, logits in predict_batches(model, dataset, **options):
        if not rows["annotated"].all():
            raise DataError(f"split {dataset.split!r} has frames without masks; score val or a test split")
        first = len(tally.clips)
        tally.update(range(first, first + len(rows["name"])), rows, logits)
        sounding = stage.sounding(condition, rows["name"], rows["mask"])
        lit.append(torch.tensor([torch.nan]) if sounding is None else falsely_lit_per_frame(logits, sounding))
    found = tally.scores()
    scores = {"J": found.metrics["J"], "F": found.metrics["F"], "falsely_lit": torch.cat(lit).mean().item()}
    return Scores(scores, found.clips)


def robustness(
    checkpoint: str | Path,
    data: str | Path,
    task: str,
    out: str | Path = "results/robustness",
    *,
    splits: Sequence[str] = ("test",),
    conditions: Names = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> RunRecord:
    """Score a checkpoint under every condition, and write ``run.json`` and ``clips.csv`` into `out`/<id>.

    The record's metrics are those of the clips' own sound; the other conditions are its baselines, `selection` names
    the checkpoint. The id follows from the weights, the data, the splits, the conditions and `seed`. Raises AvsError as
    `load_checkpoint` and `evaluate_robustness`, or when `out`/<id> holds a record already.
    """
    start = time.perf_counter()
    model = load_checkpoint(checkpoint, device)
    changes = {"data.root": str(data), "data.task": task, "data.max_clips": None, "data.skip": None}
    config = model.config.replace(changes | {"train.eval_samples": 0})
    kind, dataset = dataset_info(data, task)
    conditions, splits = conditions and list(dict.fromkeys([OWN, *conditions])), list(dict.fromkeys(splits))
    weights, values = state_sha256(model.state_dict()), config.model_dump(mode="json")
    what = json.dumps([weights, splits, conditions, seed, dataset.id])
    identity = {"data": kind, "task": task, "method": method_name(config), "seed": config.train.seed, "config": values}
    name = f"{run_id(**identity)}-robustness-{hashlib.sha256(what.encode()).hexdigest()[:8]}"
    if (Path(out) / name / RECORD).is_file():
        raise OutputError(f"{Path(out) / name}: already holds the record of this evaluation; delete it to run again")
    metrics, baselines, clips, notes = {}, {}, [], [f"Weights {weights[:16]}, seed {seed} of the conditions"]
    for split in splits:
        absent: list[str] = []
        found = evaluate_robustness(model, config, split, conditions, seed, progress, absent)
        for condition, scores in found.items():
            (metrics if condition == OWN else baselines.setdefault(condition, {}))[split] = scores.metrics
            clips += scores.rows(split, "" if condition == OWN else condition)
        notes += [f"{split}: {sentence}" for sentence in absent]
    # a shipped checkpoint's name, else that of the run's folder
    parts = [part for part in Path(checkpoint).resolve().parts if part not in (WEIGHTS, BEST)]
    chosen = str(checkpoint) if str(checkpoint) in shipped_names() else parts[-1]
    about = {"dataset": dataset, "selection": chosen, "metrics": metrics, "baselines": baselines}
    about |= {"definitions": {"J": SCORES["J"], "F": SCORES["F"]} | DEFINITIONS}
    about |= {"notes": " ".join(f"{note}." for note in notes), "wall_seconds": round(time.perf_counter() - start, 1)}
    record = new_record(**identity, **about, id=name)
    write_record(Path(out) / record.id, record, clips)
    return record


def robustness_frame(records: Iterable[RunRecord], data: Data = "mini") -> pd.DataFrame:
    """A row per checkpoint, split and condition: J, F, falsely_lit, J minus J under own sound with its interval.

    Column `label` names the checkpoint with its task and split, S4 first. Raises AvsError for a record that
    `avs robustness` did not make, or when clips.csv does not fit it.
    """
    runs = sorted((r for r in records if r.data == data), key=lambda r: (r.task != "s4", r.selection, r.id))
    names, rows = [(r.selection, r.task) for r in runs], []
    for r, split in ((run, split) for run in runs for split in run.metrics):
        if "falsely_lit" not in r.definitions:
            raise RecordError(f"{r.path or r.id}: not a robustness record; make one with `avs robustness`")
        twin = f" ({r.id[-8:]})" if names.count((r.selection, r.task)) > 1 else ""
        label = f"{r.selection}, {r.task.upper()} {split}".removesuffix(" test") + twin
        own = clip_scores([r], split)
        scored = {OWN: r.metrics[split]} | {name: found[split] for name, found in r.baselines.items() if split in found}
        for condition in sorted(scored, key=rank):
            change = Interval(np.nan, np.nan, np.nan)
            if condition != OWN:
                change = difference_interval(clip_scores([r], split, condition), own, same_seeds=True)
            scores = [scored[condition].get(name) for name in METRICS]
            rows.append([label, r.selection, r.method, r.task, split, condition, *scores, *change, r.id])
    columns = ["label", "checkpoint", "method", "task", "split", "condition", *METRICS, "J_minus_own", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "run"]).astype(dict.fromkeys(METRICS, float))


def rank(condition: str) -> tuple[int, float]:
    """Own sound, noise from little to much, the others as in `CONDITIONS`."""
    snr = snr_of(condition)
    return (1, -snr) if snr is not None else (0, 0) if condition == OWN else (2, CONDITIONS.index(condition))


def robustness_table(records: Iterable[RunRecord], fmt: Format = "md", data: Data = "mini") -> Any:
    """One table per checkpoint and task, one row per condition: J, F, falsely lit, and the change in J (95 % interval).

    "csv" is one table of plain numbers, a row per condition and checkpoint. Raises AvsError as `robustness_frame`.
    """
    rows = robustness_frame(records := list(records), data)
    if fmt == "csv":
        return rows.drop(columns="label").to_csv(index=False, float_format="%.5f", lineterminator="\n")
    tables = [_table(f"{TITLES[data]}: {label}", part) for label, part in rows.groupby("label", sort=False)]
    tables = tables or [_table(TITLES[data], rows)]
    tables[-1].notes.extend(_notes([record for record in records if record.id in set(rows.run)]))
    return render(tables, fmt)


def _table(title: str, rows: pd.DataFrame) -> Table:
    scores = rows[METRICS].map(lambda value: "" if np.isnan(value) else f"{value:.3f}")
    changes = (Interval(*ends) for ends in rows[["J_minus_own", "low", "high"]].itertuples(index=False))
    texts = ["" if np.isnan(change.low) else change.text() for change in changes]
    cells = pd.concat([rows.condition, scores], axis=1).assign(change=texts)
    return Table(title, cells.set_axis(["Condition", "J", "F", "falsely lit", "change in J"], axis=1))


def _notes(records: Sequence[RunRecord]) -> list[str]:
    if not records:
        return ["No run record yet: `avs robustness CHECKPOINT --data DIR --task s4`."]
    return [
        f"Data: {', '.join({record.dataset.id: 0 for record in records})}; from 0 to 1. Change in J: 95 % percentile "
        f"bootstrap interval of J minus J under own sound, {DRAWS} draws of clips.",
        " ".join(f"{name.replace('_', ' ')}: {text}." for name, text in records[0].definitions.items()),
        *(f"{record.selection}: {record.notes}" for record in records if "left out" in record.notes),
    ]
