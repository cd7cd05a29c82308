"""How a model holds up when the sound is not the clip's own, is noisy, or a modality is missing.

Each condition plays something to the model, or hides the image, and is scored on every clip of a split: J and F
against the mask of the clip's own sound, and falsely_lit, the share of all pixels predicted as sounding (sigmoid > 0.5)
where nothing sounds given what plays. `avslib.study.robustness_conditions.DEFINITIONS` defines both per condition.
"""

import copy
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from jaxtyping import Float, Shaped
from rich.progress import track
from torch import Tensor

from avslib.audio.encoders import build_audio_encoder
from avslib.config import Config
from avslib.core.errors import DataError, OutputError, RecordError
from avslib.data.mini.sources import read_labels
from avslib.metrics import FScore, MeanIoU, frame_scores
from avslib.models.ecmvae import ECMVAE
from avslib.study.records import DEFINITIONS as SCORES
from avslib.study.records import RECORD, RunRecord, new_record, run_id, write_record
from avslib.study.robustness_conditions import BLANK, CONDITIONS, OWN, Stage, definitions, left_out
from avslib.study.run import dataset_info, method_name
from avslib.training.evaluate import Scores, predict_batches
from avslib.training.loop import BEST
from avslib.training.setup import open_split
from avslib.weights.checkpoints import WEIGHTS, load_checkpoint, shipped_names


def falsely_lit_per_frame(
    logits: Float[Tensor, "N *frame"], sounding: Shaped[Tensor, "N *frame"]
) -> Float[Tensor, "N"]:
    """Of all pixels of each frame, the share with sigmoid > 0.5 where `sounding` is 0; float64.

    >>> falsely_lit_per_frame(torch.tensor([[[9.0, 9.0], [9.0, -9.0]]]), torch.tensor([[[1, 0], [0, 0]]])).tolist()
    [0.5]
    """
    lit = (logits.sigmoid() > 0.5) & (sounding == 0)
    return lit.flatten(1).sum(1).cpu().double() / lit[0].numel()


class _Tally:
    """J, F and the share falsely lit under one condition, and the J of each clip."""

    def __init__(self) -> None:
        self.iou, self.f = MeanIoU(), FScore()
        self.lit: list[Tensor] = []
        self.clips: dict[str, float] = {}

    def update(self, names: list[str], logits: Tensor, mask: Tensor, sounding: Tensor | None) -> None:
        scores = frame_scores(logits, mask)
        for metric in (self.iou, self.f):
            metric.to(logits.device).update(logits, mask, scores=scores)
        per_clip = scores.iou.view(len(names), -1).mean(1).tolist()
        self.clips |= dict(zip(names, per_clip, strict=True))
        unknown = torch.full((len(logits),), torch.nan)
        self.lit.append(unknown if sounding is None else falsely_lit_per_frame(logits, sounding))

    def scores(self) -> Scores:
        lit = torch.cat(self.lit).mean().item()
        return Scores({"J": float(self.iou.compute()), "F": float(self.f.compute()), "falsely_lit": lit}, self.clips)


def evaluate_robustness(
    model: ECMVAE,
    config: Config,
    split: str = "test",
    conditions: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Scores]:
    """Scores of a split by condition: metrics J, F and falsely_lit (from 0 to 1; NaN: not defined), J of each clip.

    The prior branch predicts with its mean codes.

    Args:
        config: the model's, with `data.root` and `data.task` set.
        conditions: of `CONDITIONS`, or "SNR x dB" for another x; None: all that the data allows.
        seed: of noise, exchanged and off-screen sounds. The noise of a clip depends only on (seed, its name).

    Raises:
        AvsError: an unknown condition; one named here that the data does not allow, as noise where clips have no wav;
            data as `open_split`; frames without masks.
    """
    return _evaluate(model, config, split, conditions, seed, progress)[0]


def _evaluate(
    model: ECMVAE, config: Config, split: str, conditions: Sequence[str] | None, seed: int, progress: bool
) -> tuple[dict[str, Scores], list[str]]:
    """The scores, and a sentence for each condition that was left out."""
    dataset = open_split(config, split, progress=progress)
    labels, m = read_labels(config.data.root, dataset), config.model
    asked = list(dict.fromkeys(CONDITIONS if conditions is None else conditions))
    absent = left_out(asked, dataset, labels, listens=m.use_audio)
    if conditions is not None and absent:
        raise RecordError(next(iter(absent.values())))
    encoder = build_audio_encoder(m.audio_encoder, m.audio_weights) if m.use_audio else None
    stage, found = Stage(dataset, labels, encoder, seed, config.train.eval_batch_size), {}
    played = [condition for condition in asked if condition not in absent]
    options = {"batch_size": config.train.eval_batch_size, "workers": config.data.workers, "frames": dataset.frames}
    for condition in track(played, f"robustness, {split}", disable=not progress, transient=True):
        tally, shown = _Tally(), dataset.with_audio(stage.audio(condition))
        for rows, logits in predict_batches(_blind(model) if condition == BLANK else model, shown, **options):
            if not rows["annotated"].all():
                raise DataError(f"split {split!r} has frames without masks; score val or a test split")
            tally.update(rows["name"], logits, rows["mask"], stage.sounding(condition, rows["name"], rows["mask"]))
        found[condition] = tally.scores()
    return found, list(absent.values())


def _blind(model: ECMVAE) -> ECMVAE:
    """The same network, to which every frame has the mean colour."""
    blind = copy.copy(model)
    blind.normalize = lambda image: torch.zeros_like(model.normalize(image))
    return blind


def robustness(
    checkpoint: str | Path,
    data: str | Path,
    task: str,
    out: str | Path = "results/robustness",
    *,
    splits: Sequence[str] = ("test",),
    conditions: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> RunRecord:
    """Score a checkpoint under every condition, and write ``run.json`` and ``clips.csv`` into `out`/<id>.

    The record's metrics are those of the clips' own sound; the other conditions are its baselines, `selection` names
    the checkpoint. The id follows from the weights, the data, the splits, the conditions and `seed`.

    Raises:
        AvsError: as `load_checkpoint` and `evaluate_robustness`; `out`/<id> holds a record already.
    """
    start = time.perf_counter()
    model = load_checkpoint(checkpoint).to(PartialState().device)
    changes = {"data.root": str(data), "data.task": task, "data.max_clips": None, "train.eval_samples": 0}
    config = model.config.replace(changes)
    kind, dataset = dataset_info(data, task)
    conditions = None if conditions is None else list(dict.fromkeys([OWN, *conditions]))
    splits = list(dict.fromkeys(splits))
    weights, values = _hash_of(model), config.model_dump(mode="json")
    what = json.dumps([weights, splits, conditions, seed, dataset.id])
    identity = {"data": kind, "task": task, "method": method_name(config), "seed": config.train.seed, "config": values}
    name = f"{run_id(**identity)}-robustness-{hashlib.sha256(what.encode()).hexdigest()[:8]}"
    if (Path(out) / name / RECORD).is_file():
        raise OutputError(
            f"{Path(out) / name}: already holds a record for this checkpoint and settings; delete it to run again"
        )
    metrics, baselines, clips, notes = {}, {}, [], []
    for split in splits:
        found, absent = _evaluate(model, config, split, conditions, seed, progress)
        for condition, scores in found.items():
            (metrics if condition == OWN else baselines.setdefault(condition, {}))[split] = scores.metrics
            clips += scores.rows(split, "" if condition == OWN else condition)
        notes += [f"{split}: {sentence}" for sentence in absent]
    record = new_record(
        **identity,
        id=name,
        dataset=dataset,
        metrics=metrics,
        baselines=baselines,
        selection=_name_of(checkpoint),
        definitions={"J": SCORES["J"], "F": SCORES["F"]} | definitions(kind),
        notes=" ".join(f"{note}." for note in [f"Weights {weights[:16]}, seed {seed} of the conditions", *notes]),
        wall_seconds=round(time.perf_counter() - start, 1),
    )
    write_record(Path(out) / record.id, record, clips)
    return record


def _name_of(checkpoint: str | Path) -> str:
    """A shipped checkpoint's name, else that of the run's folder."""
    if str(checkpoint) in shipped_names():
        return str(checkpoint)
    folder = Path(checkpoint).resolve()
    for last in (WEIGHTS, BEST):  # every run calls these so
        folder = folder.parent if folder.name == last else folder
    return folder.name


def _hash_of(model: ECMVAE) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
