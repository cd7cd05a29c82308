"""The training loop: read it top to bottom.

Seed plan: the initial weights come from ``train.seed``; order and flips of an epoch from (seed, epoch, clip); the latent
noise of a step from (seed, step, process). Nothing depends on a generator that runs on, so a resumed run repeats the
uninterrupted one to the bit.
"""

import csv
import math
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from avslib.checkpoints import load_weights, save_checkpoint
from avslib.config import Config
from avslib.data.avsbench import AVSBench
from avslib.data.embeddings import embed_dataset
from avslib.data.loading import train_loader
from avslib.errors import AvsError
from avslib.evaluate import evaluate, flatten_clips
from avslib.files import atomic_path
from avslib.losses import objective
from avslib.models.audio_encoders import build_audio_encoder
from avslib.models.ecmvae import ECMVAE

__all__ = ["BEST", "HISTORY", "STATE", "Trained", "open_split", "train"]

BEST, STATE, HISTORY = "best", "state.pt", "history.csv"
LOG_EVERY = 10
SCORED_SIZE = 224


@dataclass
class Trained:
    """Where a run's results are, and how the checkpoint was chosen."""

    folder: Path
    best_epoch: int
    best_j: float
    steps: int
    seconds: float
    trainset: AVSBench

    @property
    def checkpoint(self) -> Path:
        return self.folder / BEST


def train(config: Config, out: str | Path, *, resume: bool = False, progress: bool = True, console: Console | None = None) -> Trained:
    """Train a model and keep the checkpoint with the best J on val.

    Args:
        config: ``data.root`` and ``data.task`` say on what.
        out: new folder; gets ``best/`` (weights and config), ``history.csv`` (losses and val scores) and, while the
            training lasts, ``state.pt``, from which `resume` goes on.
        resume: go on with an interrupted run in `out`; starts one where there is none.

    Raises:
        AvsError: no data, `out` holds another run, a loss that is not finite.
    """
    out, t = Path(out), config.train
    accelerator = Accelerator(mixed_precision=t.precision)
    main = accelerator.is_main_process
    console = console or Console(quiet=not progress or not main)
    state = _resume_state(out, config, resume)
    set_seed(t.seed)

    trainset, valset = open_split(config, "train", progress=progress), open_split(config, "val", progress=progress)
    model = ECMVAE(config)
    if t.init_from and state is None:
        load_weights(model, t.init_from)
    optimizer = _optimizer(model, config)
    loader = train_loader(trainset, config.data, t.batch_size, t.seed)
    sampler = loader.sampler
    model, optimizer, loader = accelerator.prepare(model.to(memory_format=torch.channels_last), optimizer, loader)
    plain: ECMVAE = accelerator.unwrap_model(model)
    total = t.epochs * len(loader)
    base_lrs = [group["lr"] for group in optimizer.param_groups]

    step, best_epoch, best_j, before = 0, 0, -1.0, 0.0
    if state is not None:
        plain.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, best_epoch, best_j, before = (state[k] for k in ("step", "best_epoch", "best_j", "seconds"))
    history = _History(out / HISTORY, step, main)
    start = time.perf_counter()
    noise = torch.Generator()
    sums: dict[str, Tensor | float] = defaultdict(float, state["sums"] if state else {})

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("training", total=total, completed=step)
        while step < total:
            epoch = step // len(loader)
            sampler.set_epoch(epoch)
            model.train()
            for batch in skip_first_batches(loader, step % len(loader)) if step % len(loader) else loader:
                rows = flatten_clips(batch, accelerator.device)
                noise.manual_seed(_step_seed(t.seed, step, accelerator.process_index))
                rate = _learning_rate(step, total, config)
                for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
                    group["lr"] = base * rate

                with accelerator.autocast():
                    output = model(plain.normalize(rows["image"]), _audio(rows, config), rows["mask"].float(),
                                   frames=config.data.frames, noise=noise, annotated=_annotated(rows, config))
                losses = objective(output, rows["mask"].float(), config, noise=noise)
                accelerator.backward(losses["loss"])
                if t.clip_grad:
                    accelerator.clip_grad_norm_(model.parameters(), t.clip_grad)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

                step += 1
                for name, value in losses.items():
                    sums[name] += value.detach()
                if step % LOG_EVERY == 0 or step % len(loader) == 0:
                    count = (step % len(loader) or len(loader)) % LOG_EVERY or LOG_EVERY
                    means = {name: float(value) / count for name, value in sums.items()}
                    sums.clear()
                    if not all(map(math.isfinite, means.values())):
                        bad = next(name for name, value in means.items() if not math.isfinite(value))
                        raise AvsError(f"step {step}: {bad} is not finite; lower train.lr or set train.clip_grad, then --resume "
                                       f"goes on from the last saved state in {out}")
                    history.add(step=step, epoch=epoch, lr=rate * t.lr, **means)
                    bar.update(task, completed=step, description=f"loss {means['loss']:.3f}")
                if main and step % t.checkpoint_every == 0 and step % len(loader):
                    seconds = before + time.perf_counter() - start
                    _save_state(out, config, plain, optimizer, step=step, best_epoch=best_epoch, best_j=best_j,
                                seconds=seconds, sums=dict(sums))

            scores = evaluate(plain, valset, batch_size=t.eval_batch_size, workers=config.data.workers,
                              rank=accelerator.process_index, world=accelerator.num_processes).metrics
            history.add(step=step, epoch=epoch, val_J=scores["J"], val_F=scores["F"])
            seconds = before + time.perf_counter() - start
            console.print(f"epoch {epoch + 1}/{t.epochs}: val J {scores['J']:.3f}, F {scores['F']:.3f}, {seconds:.0f} s")
            if scores["J"] > best_j:
                best_epoch, best_j = epoch, scores["J"]
                if main:
                    save_checkpoint(out / BEST, plain)
            if main:
                _save_state(out, config, plain, optimizer, step=step, best_epoch=best_epoch, best_j=best_j,
                                seconds=seconds, sums=dict(sums))
    accelerator.wait_for_everyone()
    return Trained(out, best_epoch, best_j, total, before + time.perf_counter() - start, trainset)


def open_split(config: Config, split: str, *, progress: bool = False, with_audio: bool = True) -> AVSBench:
    """A split of the configured data, with its cached audio embeddings (none where the model does not listen)."""
    d, m = config.data, config.model
    if d.root is None:
        raise AvsError("data.root is not set: give the data folder, for example --data DIR (avs data build-mini makes one)")
    # scores are taken at the size that published ones were, whatever size the network sees
    mask_size = m.image_size if split == "train" else SCORED_SIZE
    dataset = AVSBench(d.root, d.task, split, m.image_size, d.frames, mask_size=mask_size)
    if d.max_clips is not None:
        dataset = dataset.first(d.max_clips)
    if m.use_audio and with_audio:
        cache = Path(d.cache) if d.cache else Path(d.root) / "audio_embeddings"
        encoder = build_audio_encoder(m.audio_encoder, m.audio_weights)
        dataset = dataset.with_audio(embed_dataset(dataset, encoder, cache, progress=progress))
    return dataset


def _optimizer(model: ECMVAE, config: Config) -> torch.optim.Optimizer:
    t = config.train
    backbone = {id(p) for p in model.backbone.parameters()}
    if t.backbone_lr_factor == 0:
        model.backbone.requires_grad_(False)
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in backbone], "lr": t.lr},
        {"params": [p for p in model.backbone.parameters() if p.requires_grad], "lr": t.lr * t.backbone_lr_factor},
    ]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[t.optimizer]
    return kind([g for g in groups if g["params"]], weight_decay=t.weight_decay, fused=True)


def _learning_rate(step: int, total: int, config: Config) -> float:
    """Factor of the base learning rate at a step."""
    t = config.train
    rise = min(1.0, (step + 1) / (t.warmup_steps + 1))
    return rise if t.schedule == "constant" else rise * 0.5 * (1 + math.cos(math.pi * step / total))


def _step_seed(seed: int, step: int, process: int) -> int:
    return int(np.random.SeedSequence([seed, step, process]).generate_state(1, np.uint64)[0] >> 1)


def _audio(rows: dict, config: Config) -> Tensor:
    if "audio" in rows:
        return rows["audio"]
    return torch.zeros(len(rows["image"]), config.model.audio_dim, device=rows["image"].device)


def _annotated(rows: dict, config: Config) -> Tensor | None:
    # asked of the task, not of the tensor, which would make the host wait for the device at every step
    return rows["annotated"] if config.data.task == "s4" else None


def _save_state(out: Path, config: Config, model: nn.Module, optimizer: torch.optim.Optimizer, **progress) -> None:
    state = {"config": config.model_dump(mode="json"), "model": model.state_dict(), "optimizer": optimizer.state_dict(), **progress}
    with atomic_path(out / STATE) as path:
        torch.save(state, path)


def _resume_state(out: Path, config: Config, resume: bool) -> dict | None:
    if not (out / STATE).is_file():
        if out.exists() and any(out.iterdir()) and not resume:
            raise AvsError(f"{out}: the folder is not empty; choose a new one with --out")
        return None
    if not resume:
        raise AvsError(f"{out}: holds a run already; go on with it by --resume, or choose a new folder with --out")
    try:
        state = torch.load(out / STATE, map_location="cpu", weights_only=True)
    except Exception as error:
        raise AvsError(f"{out / STATE}: cannot be read ({str(error).splitlines()[0]}); remove it to start again") from None
    for section, values in config.model_dump(mode="json").items():
        saved = state["config"].get(section)
        if saved != values:
            field = next((f for f in values if saved.get(f) != values[f]), "") if isinstance(values, dict) else ""
            raise AvsError(f"{out}: was trained with another config ({section}.{field} differs); resume with the same one, "
                           "or choose a new folder with --out")
    return state


class _History:
    """history.csv: a row every few steps and one an epoch; rows after the resumed step are dropped."""

    FIELDS = ("step", "epoch", "lr", "loss", "seg_prior", "seg_posterior", "match_prior", "match_posterior", "kl_sv",
              "kl_sa", "divergence_c", "mi", "orthogonality", "val_J", "val_F")

    def __init__(self, path: Path, step: int, write: bool):
        self.path, self.write = path, write
        if not write:
            return
        kept = []
        if step and path.is_file():
            with open(path, newline="", encoding="utf-8") as stream:
                kept = [row for row in csv.DictReader(stream) if row["step"].isdigit() and int(row["step"]) <= step]
        with atomic_path(path) as part, open(part, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)

    def add(self, **values: float) -> None:
        if self.write:
            text = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
            with open(self.path, "a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, self.FIELDS, restval="", lineterminator="\n").writerow(text)
