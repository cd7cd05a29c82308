"""What a training starts from: processes, data, model, optimiser, learning rate, noise, progress bar."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import is_tensorboard_available
from jaxtyping import Bool, Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from avslib.audio.encoders import AudioEncoder, build_audio_encoder
from avslib.config import Config, TrainConfig
from avslib.core.errors import ConfigError, InstallError
from avslib.core.seeds import global_seed, own_generators, step_seed
from avslib.data.avsbench import AVSBench, read_skip_list
from avslib.data.embeddings import embed_dataset
from avslib.data.loading import packed_loader, train_loader
from avslib.data.packed import PackedClips
from avslib.models.ecmvae import ECMVAE
from avslib.training.deterministic import deterministic
from avslib.training.distributed import rank, run_folder, start_processes, synchronize_batch_norm, together, world_size
from avslib.training.guards import plain_errors
from avslib.training.state import open_state
from avslib.weights.checkpoints import load_weights
from avslib.weights.speed_options import apply_speed_options, tf32_products

SCORED_SIZE = 224


class Run:
    """What a training works on.

    Attributes:
        state: how far the run is.
        model, optimizer: as accelerate wraps them; `plain` is the model itself.
        schedule: the learning rate, a function of ``state.step``.
        steps, total: batches per epoch, and in all.
        frames: per train clip.
        valset: the clips that are scored after each epoch.
    """

    def __init__(
        self, accelerator: Accelerator, config: Config, out: Path, resume: bool, progress: bool, console: Console | None
    ):
        t, packed, main = config.train, config.data.packed is not None, accelerator.is_main_process
        progress = progress and main
        self.accelerator, self.config, self.out = accelerator, config, out
        self.state, saved = open_state(out, config, resume)
        trainset, self.valset = together(lambda: open_splits(config, progress))
        # just before the weights are drawn: what the audio encoder draws before is not part of the seed's meaning
        global_seed(t.seed)
        self.plain = together(lambda: first_model(config, fresh=saved is None))
        if t.sync_batch:
            synchronize_batch_norm(self.plain, accelerator.device)
        optimizer = build_optimizer(self.plain, config)
        rates = [group["lr"] for group in optimizer.param_groups]
        make: Any = packed_loader if packed else train_loader
        loader = make(trainset, config.data, t.batch_size, t.seed)
        apply_speed_options(self.plain, channels_last=t.channels_last, checkpointing=t.checkpointing, compile=t.compile)
        self.model, self.optimizer = accelerator.prepare(self.plain, optimizer)
        # packed clips are shared out already; batches stay in pinned memory, from which flatten_clips sends them on
        shares = {"num_processes": 1, "process_index": 0} if packed else {}
        self.sampler, self.loader = loader.sampler, prepare_data_loader(loader, put_on_device=False, **shares)
        self.steps, self.frames = len(self.loader), trainset.frames
        self.total = t.epochs * self.steps
        if saved is not None:
            self.plain.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if accelerator.scaler and saved.get("scaler"):
                accelerator.scaler.load_state_dict(saved["scaler"])
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):  # a saved one has that of its last step
            group["lr"] = group["initial_lr"] = lr
        self.schedule = LambdaLR(self.optimizer, lambda _: learning_rate(self.state.step, self.total, t))
        self.console = console if console and main else Console(quiet=not progress)
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not progress)
        self.task = self.bar.add_task("training", total=self.total, completed=self.state.step)
        self.start = time.perf_counter() - self.state.seconds

    def batches(self) -> Iterable[dict[str, Any]]:
        """The rest of the epoch that the run is in."""
        self.sampler.epoch, done = divmod(self.state.step, self.steps)
        return skip_first_batches(self.loader, done) if done else self.loader

    def show(self, loss: float) -> None:
        """Move the progress bar."""
        pace = (self.bar.tasks[0].speed or 0) * self.config.train.batch_size * self.accelerator.num_processes
        self.bar.update(self.task, completed=self.state.step, description=f"loss {loss:.3f}, {pace:.1f} clips/s")

    def report(self, epoch: int, val: Mapping[str, float]) -> None:
        """Print the scores of an epoch (from 0)."""
        scores = f"val J {val['J']:.3f}, F {val['F']:.3f}"
        self.console.print(f"epoch {epoch + 1}/{self.config.train.epochs}: {scores}, {self.state.seconds:.0f} s")

    def save(self) -> None:
        """Write ``state.pt`` in the main process."""
        self.state.seconds = time.perf_counter() - self.start
        if self.accelerator.is_main_process:
            self.state.save(self.out, self.config, self.plain, self.optimizer, self.accelerator.scaler)


@contextmanager
def open_run(config: Config, out: Path, resume: bool, progress: bool, console: Console | None) -> Iterator[Run]:
    """Join the processes, take the folder `out`, and build what a training starts from or, with `resume`, continues
    with. Afterwards the caller's random generators are as they were."""
    t = config.train
    if t.tensorboard and not is_tensorboard_available():
        raise InstallError(
            "train.tensorboard needs the package tensorboard: pip install 'avslib[tensorboard]', or set it to false"
        )
    with own_generators(), deterministic(t.deterministic), plain_errors("training"), ExitStack() as stack:
        accelerator = start_processes(
            "no" if t.precision == "tf32" else t.precision,
            gradient_accumulation_steps=t.accumulate,
            log_with="tensorboard" if t.tensorboard else None,
            project_dir=out,
        )
        stack.enter_context(run_folder(out))
        stack.enter_context(tf32_products(t.precision == "tf32"))
        run = Run(accelerator, config, out, resume, progress, console)
        if t.tensorboard:  # events after the saved step are superseded, as rows of the history are
            accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": run.state.step + 1}})
            stack.callback(lambda: [tracker.finish() for tracker in accelerator.trackers])
        with run.bar:
            yield run


def learning_rate(step: int, total: int, t: TrainConfig) -> float:
    """The factor of the base learning rate at a step, from 0."""
    rise = min(1.0, (step + 1) / (t.warmup_steps + 1))
    return rise if t.schedule == "constant" else rise * 0.5 * (1 + math.cos(math.pi * step / total))


def step_noise(
    model: ECMVAE, config: Config, step: int, rows: int, annotated: Bool[Tensor, "N"] | None
) -> dict[str, Float[Tensor, "_ K"]]:
    """The latent noise of a step by name, from (seed, step): that of all processes' rows, and of it this one's part."""
    known = rows if annotated is None or config.data.posterior_mask == "first_repeated" else int(annotated.sum())
    generator = torch.Generator().manual_seed(step_seed(config.train.seed, step))
    world, own, device = world_size(), rank(), next(model.parameters()).device
    return {
        name: torch.randn(world * n, k, generator=generator).chunk(world)[own].to(device, non_blocking=True)
        for name, (n, k) in model.noise_shapes(rows, known).items()
    }


def open_splits(config: Config, progress: bool) -> tuple[AVSBench | PackedClips, AVSBench]:
    """The train split, and val."""
    packed = config.data.packed is not None
    trainset = open_packed(config, progress=progress) if packed else open_split(config, "train", progress=progress)
    return trainset, open_split(config, "val", progress=progress)


def open_split(config: Config, split: str, *, progress: bool = False) -> AVSBench:
    """A split of the configured data, with its cached audio embeddings (zeros if the model has no sound)."""
    d, m = config.data, config.model
    if d.root is None:
        raise ConfigError("data.root is not set: name the data folder by --data DIR (avs data build-mini makes one)")
    # scores are taken at the size that published ones were, at any size that the network sees
    mask_size = m.image_size if split == "train" else SCORED_SIZE
    skip = read_skip_list(d.skip) if d.skip else ()
    dataset = AVSBench(d.root, d.task, split, m.image_size, d.frames_of(split), mask_size=mask_size, skip=skip)
    if d.max_clips is not None:
        dataset = dataset.first(d.max_clips)
    names = [clip.name for clip in dataset.clips]
    return dataset.with_audio(_audio(config, names, split, partial(embed_dataset, dataset, progress=progress)))


def open_packed(config: Config, *, progress: bool = False) -> PackedClips:
    """The configured packed train split, shuffled, with its cached audio embeddings."""
    d, t, frames = config.data, config.train, config.data.frames_of("train")
    if d.packed is None or d.skip or d.max_clips is not None:
        raise ConfigError("data.packed holds the clips that were packed; leave out others by avs data pack --skip FILE")
    clips = PackedClips(d.packed, "train", config.model.image_size, frames, shuffle=True, seed=t.seed)
    if clips.task != d.task:
        raise ConfigError(f"{d.packed}: holds {clips.task} clips, but data.task is {d.task!r}")
    return clips.with_audio(_audio(config, clips.names, "train", partial(embed_dataset, clips, progress=progress)))


def _audio(
    config: Config, names: Iterable[str], split: str, embed: Callable[[AudioEncoder, str | Path], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The audio embeddings of these clips: from the cache, or by `embed(encoder, cache)`."""
    d, m = config.data, config.model
    if not m.use_audio:
        return dict.fromkeys(names, torch.zeros(d.frames_of(split), m.audio_dim))
    encoder = build_audio_encoder(m.audio_encoder, m.audio_weights)
    return embed(encoder, d.cache or Path(d.root or ".") / "audio_embeddings")


def first_model(config: Config, fresh: bool) -> ECMVAE:
    """The model with the weights that a fresh run starts from."""
    model = ECMVAE(config)
    if config.train.init_from and fresh:
        load_weights(model, config.train.init_from, config.train.init_modules)
    return model


def build_optimizer(model: ECMVAE, config: Config) -> torch.optim.Optimizer:
    """Adam or AdamW; the backbone has a learning rate of its own, or is frozen."""
    t = config.train
    backbone = {id(p) for p in model.backbone.parameters()}
    if t.backbone_lr_factor == 0:
        model.backbone.requires_grad_(False)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if id(p) not in backbone], "lr": t.lr},
        {"params": [p for p in model.backbone.parameters() if p.requires_grad], "lr": t.lr * t.backbone_lr_factor},
    ]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[t.optimizer]
    return kind([g for g in groups if g["params"]], weight_decay=t.weight_decay, fused=True)
