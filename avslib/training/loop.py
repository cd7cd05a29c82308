"""The training loop: read it top to bottom.

Seed plan (`avslib.core.seeds`): the initial weights come from ``train.seed``, and are equal for variants with the same
modules; order and flips of an epoch from (seed, epoch, clip); the latent noise of a step from (seed, step). Nothing
depends on a generator that runs on, so a resumed run repeats the uninterrupted one to the bit.

Several processes (``accelerate launch``) share each step's batch out: process r of P reads the r-th part of what one
process with P times the batch size would read, and gets the same noise for it. With ``train.sync_batch`` they do what
that process would do; without, batch statistics and the orthogonality loss are each process's own.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from avslib.audio.encoders import build_audio_encoder
from avslib.config import Config
from avslib.core.errors import BadClipsError, ConfigError, Preempted, ProcessesError, WorkerError
from avslib.core.locks import run_folder
from avslib.core.seeds import global_seed, own_generators
from avslib.data.avsbench import AVSBench, read_skip_list
from avslib.data.embeddings import embed_dataset
from avslib.data.loading import packed_loader, train_loader
from avslib.data.packed import PackedClips
from avslib.data.workers import lasting, worker_deaths_kept_back
from avslib.models.ecmvae import ECMVAE
from avslib.training.deterministic import deterministic
from avslib.training.distributed import (
    gather_objects,
    mean_over_processes,
    share_buffers,
    start_processes,
    synchronize_batch_norm,
    together,
    world_size,
)
from avslib.training.evaluate import Scores, evaluate, flatten_clips
from avslib.training.faults import MEMORY, WORKERS, Faults
from avslib.training.finite import FiniteWatch, all_finite, skip_step
from avslib.training.gradients import add_gradients
from avslib.training.out_of_memory import MicroBatches, halving
from avslib.training.preemption import StopRequest, on_sigterm
from avslib.training.state import HISTORY, History, RunState
from avslib.training.tensorboard_log import tensorboard_rows
from avslib.training.undo import Buffers
from avslib.weights.checkpoints import load_weights, save_checkpoint
from avslib.weights.speed_options import apply_speed_options, tf32_products

BEST = "best"
LOG_EVERY = 10
SCORED_SIZE = 224


@dataclass
class Trained:
    """The checkpoint of the best epoch (counted from 0), its J on val, the time the training took, and what it survived
    (a sentence for the record, empty where nothing happened)."""

    checkpoint: Path
    best_epoch: int
    best_j: float
    seconds: float
    survived: str = ""


def train(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    console: Console | None = None,
    on_row: Callable[[Mapping[str, float]], None] | None = None,
) -> Trained:
    """Train a model and keep the checkpoint with the best J on val.

    Started in several processes, all of them call it alike; the first one alone writes, all raise together, and `out`
    must be on a disk that they share. The caller's random generators are left as they were.

    Args:
        config: ``data.root`` and ``data.task`` say on what.
        out: new folder; gets ``best/`` (weights and config), ``history.csv`` (losses and val scores) and, while the
            training lasts, ``state.pt``, from which `resume` goes on; ``faults.csv`` where it survived any.
        resume: go on with an interrupted run in `out`; starts one where there is none.
        on_row: called in the main process with each row of ``history.csv`` once it is written (step, epoch, lr and
            loss parts; or step, epoch, val_J and val_F), for example to draw it. What it raises ends the training.

    Raises:
        AvsError: no data, `out` holds another run or is being trained into, a loss that is not finite, more corrupt
            clips than may be, memory that does not hold the batch, data workers that die again and again.
        Preempted: SIGTERM came; the step was finished and its state saved.
    """
    out, t = Path(out), config.train
    with own_generators(), deterministic(t.deterministic):
        accelerator = start_processes("no" if t.precision == "tf32" else t.precision)
        with run_folder(out), tensorboard_rows(t.tensorboard, out, on_row) as told:
            return _train(accelerator, config, out, resume, progress, console, told)


def _train(
    accelerator: Accelerator,
    config: Config,
    out: Path,
    resume: bool,
    progress: bool,
    console: Console | None,
    on_row: Callable[[Mapping[str, float]], None] | None,
) -> Trained:
    t, main = config.train, accelerator.is_main_process
    progress = progress and main
    console = console if console and main else Console(quiet=not progress)
    state, saved = together(lambda: RunState.open(out, config, resume))
    if len(set(gather_objects(state.step))) > 1:
        raise ProcessesError(
            f"{out}: the processes find different states there; choose a folder on a disk that all share"
        )

    packed = config.data.packed is not None
    trainset, valset = together(lambda: _open(config, progress))
    # just before the weights are drawn: what the audio encoder draws before it is no part of the seed's meaning
    global_seed(t.seed)
    model = together(lambda: _first_model(config, fresh=saved is None))
    if t.sync_batch:
        synchronize_batch_norm(model, accelerator.device)
    optimizer = _optimizer(model, config)
    loader = (packed_loader if packed else train_loader)(trainset, config.data, t.batch_size, t.seed)
    sampler = loader.sampler
    apply_speed_options(model, channels_last=t.channels_last, checkpointing=t.checkpointing, compile=t.compile)
    model, optimizer = accelerator.prepare(model, optimizer)
    if not packed:  # packed clips are shared out between the processes already
        # batches stay in pinned memory: flatten_clips sends them on without waiting
        loader = accelerator.prepare_data_loader(loader, device_placement=False)
    plain: ECMVAE = accelerator.unwrap_model(model)
    if saved is not None:
        plain.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        if accelerator.scaler and saved.get("scaler"):
            accelerator.scaler.load_state_dict(saved["scaler"])
    steps_per_epoch, base_lrs = len(loader), [t.lr, t.lr * t.backbone_lr_factor]
    total = t.epochs * steps_per_epoch
    history = History(out / HISTORY, state.step, main, on_row)
    watch = FiniteWatch(LOG_EVERY)
    faults = Faults(state.faults, out if main else None, console, config.data.max_corrupt)
    buffers = Buffers(plain) if t.nonfinite == "skip" or t.micro_batch == "auto" else None

    def undo() -> None:
        optimizer.zero_grad(set_to_none=True)
        if buffers:
            buffers.restore()

    def fewer(clips: int, why: str) -> None:
        state.micro_batch = clips
        faults.note(state.step + 1, MEMORY, why)

    def save() -> None:
        state.sums = _over_processes(state.sums)
        watch.require(state.sums, state.step, out)
        state.seconds = time.perf_counter() - start
        if main:
            state.save(out, config, plain, optimizer, accelerator.scaler)

    def score(clips: int) -> Scores:
        # they do not depend on how many clips are scored at once
        options = {"workers": config.data.workers, "samples": t.eval_samples, "rank": accelerator.process_index}
        return evaluate(plain, valset, batch_size=clips, world=accelerator.num_processes, **options)

    memory, scored_at_once = MicroBatches(t, state.micro_batch, undo, fewer), t.eval_batch_size
    first, start = state.step, time.perf_counter() - state.seconds

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    view = Progress(*columns, console=console, transient=True, disable=not progress)
    with view as bar, on_sigterm() as stop, worker_deaths_kept_back(), tf32_products(t.precision == "tf32"):
        task, began = bar.add_task("training", total=total, completed=state.step), time.perf_counter()
        while state.step < total:
            epoch, done = divmod(state.step, steps_per_epoch)
            sampler.epoch = epoch
            model.train()
            batches = lasting(loader, done, on_restart=lambda why: faults.note(state.step, WORKERS, why))
            with _saving(save, state, steps_per_epoch):
                for batch in batches:
                    faults.see_clips(state.step, batch)
                    rows = flatten_clips(batch, accelerator.device)
                    rate = _learning_rate(state.step, total, config)
                    for group, base in zip(optimizer.param_groups, base_lrs, strict=False):
                        group["lr"] = base * rate
                    if buffers:
                        buffers.keep()
                    gradients = partial(add_gradients, accelerator, model, rows, state.step, trainset.frames, config)
                    losses = memory.run(gradients, len(batch["name"]), f"step {state.step + 1}")

                    state.step += 1
                    done += 1
                    watch.see(state.step, batch, losses["loss"])
                    scaled = accelerator.scaler is not None  # which skips gradients that are not finite by itself
                    if t.nonfinite == "skip" and not all_finite(losses["loss"], () if scaled else model.parameters()):
                        undo()
                        skip_step(state.step, t.max_skipped, faults, watch, out)
                    else:
                        if t.clip_grad:
                            accelerator.clip_grad_norm_(model.parameters(), t.clip_grad)
                        optimizer.step()
                        optimizer.zero_grad(set_to_none=True)
                        state.sums = {name: state.sums.get(name, 0) + value for name, value in losses.items()}

                    if done % LOG_EVERY == 0 or done == steps_per_epoch:
                        faults.agree()
                        steps = done % LOG_EVERY or LOG_EVERY
                        steps -= len(faults.skipped(state.step - steps + 1, state.step))
                        means = {k: float(v) / steps for k, v in _over_processes(state.sums).items()}
                        watch.require(means, state.step, out)
                        state.sums = {}
                        if means:
                            history.add(step=state.step, epoch=epoch, lr=rate * t.lr, **means)
                        pace = (state.step - first) / (time.perf_counter() - began)
                        pace *= t.batch_size * accelerator.num_processes
                        shown = f"loss {means['loss']:.3f}" if means else "steps skipped"
                        bar.update(task, completed=state.step, description=f"{shown}, {pace:.1f} clips/s")
                    stopping = _agreed(stop, done)
                    if (stopping or state.step % t.checkpoint_every == 0) and done < steps_per_epoch:
                        faults.agree()
                        save()
                        if stopping:
                            raise _preempted(out, state.step)

            share_buffers(plain)
            val, scored_at_once = halving(score, scored_at_once, "scoring val")
            j, f = val.metrics["J"], val.metrics["F"]
            history.add(step=state.step, epoch=epoch, val_J=j, val_F=f)
            state.seconds = time.perf_counter() - start
            console.print(f"epoch {epoch + 1}/{t.epochs}: val J {j:.3f}, F {f:.3f}, {state.seconds:.0f} s")
            if j > state.best_j:
                state.best_epoch, state.best_j = epoch, j
            if main:
                if state.best_epoch == epoch:
                    save_checkpoint(out / BEST, plain)
                state.save(out, config, plain, optimizer, accelerator.scaler)
            if _agreed(stop):
                raise _preempted(out, state.step)
    accelerator.wait_for_everyone()
    return Trained(out / BEST, state.best_epoch, state.best_j, state.seconds, faults.summary())


@contextmanager
def _saving(save: Callable[[], None], state: RunState, steps_per_epoch: int) -> Iterator[None]:
    """Save the state between two steps where what is read ends the training."""
    try:
        yield
    except (BadClipsError, WorkerError) as error:
        # a single process of several cannot; at the end of an epoch the state is that before its scores
        if world_size() > 1 or state.step % steps_per_epoch == 0:
            raise
        save()
        raise type(error)(f"{error}; the state of step {state.step} is saved: go on with --resume") from None


def open_split(config: Config, split: str, *, progress: bool = False) -> AVSBench:
    """A split of the configured data, with its cached audio embeddings (zeros where the model does not listen)."""
    d, m = config.data, config.model
    if d.root is None:
        raise ConfigError("data.root is not set: name the data folder by --data DIR (avs data build-mini makes one)")
    # scores are taken at the size that published ones were, whatever size the network sees
    mask_size = m.image_size if split == "train" else SCORED_SIZE
    frames = d.frames_of(split)
    skip = read_skip_list(d.skip) if d.skip else ()
    dataset = AVSBench(d.root, d.task, split, m.image_size, frames, mask_size=mask_size, skip=skip)
    if d.max_clips is not None:
        dataset = dataset.first(d.max_clips)
    if not m.use_audio:
        return dataset.with_audio({clip.name: torch.zeros(frames, m.audio_dim) for clip in dataset.clips})
    encoder = build_audio_encoder(m.audio_encoder, m.audio_weights)
    cache = d.cache or Path(d.root) / "audio_embeddings"
    return dataset.with_audio(embed_dataset(dataset, encoder, cache, progress=progress))


def open_packed(config: Config, *, progress: bool = False) -> PackedClips:
    """The configured packed train split, shuffled, with its cached audio embeddings."""
    d, m, t = config.data, config.model, config.train
    if d.skip or d.max_clips is not None:
        raise ConfigError("data.packed holds the clips that were packed; leave out others by avs data pack --skip FILE")
    frames = d.frames_of("train")
    clips = PackedClips(d.packed, "train", m.image_size, frames, shuffle=True, seed=t.seed)
    if clips.task != d.task:
        raise ConfigError(f"{d.packed}: holds {clips.task} clips, and data.task is {d.task!r}")
    if not m.use_audio:
        return clips.with_audio(dict.fromkeys(clips.names, torch.zeros(frames, m.audio_dim)))
    encoder = build_audio_encoder(m.audio_encoder, m.audio_weights)
    cache = d.cache or Path(d.root or ".") / "audio_embeddings"
    return clips.with_audio(embed_dataset(clips, encoder, cache, progress=progress))


def _open(config: Config, progress: bool) -> tuple[AVSBench | PackedClips, AVSBench]:
    """What is trained on, and val."""
    packed = config.data.packed is not None
    trainset = open_packed(config, progress=progress) if packed else open_split(config, "train", progress=progress)
    return trainset, open_split(config, "val", progress=progress)


def _first_model(config: Config, fresh: bool) -> ECMVAE:
    """The model with the weights that a fresh run starts from."""
    model = ECMVAE(config)
    if config.train.init_from and fresh:
        load_weights(model, config.train.init_from, config.train.init_modules)
    return model


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


def _over_processes(parts: dict[str, Tensor | float]) -> dict[str, Tensor | float]:
    """The mean of the loss parts over the processes: those of the whole batch."""
    if world_size() == 1 or not parts:
        return parts
    device = next(value.device for value in parts.values() if isinstance(value, Tensor))
    mean = mean_over_processes(torch.stack([torch.as_tensor(value, device=device) for value in parts.values()]))
    return dict(zip(parts, mean.unbind(), strict=True))


def _agreed(stop: StopRequest, done: int = LOG_EVERY) -> bool:
    """Whether to end after this step. Processes agree on it in steps that are logged, since asking all takes time."""
    if world_size() == 1:
        return stop.requested
    return done % LOG_EVERY == 0 and any(gather_objects(stop.requested))


def _preempted(out: Path, step: int) -> Preempted:
    return Preempted(f"{out}: SIGTERM after step {step}; the state is saved, go on with --resume")
