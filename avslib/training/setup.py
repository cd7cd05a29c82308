"""What a training starts from: processes, data, model, optimiser, learning rate, progress bar."""

import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object, is_tensorboard_available
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from avslib.audio.encoders import build_audio_encoder
from avslib.config import Config, DataConfig, TrainConfig
from avslib.core.errors import ConfigError, InstallError, ProcessesError
from avslib.core.files import LOCK, PATIENCE, locked
from avslib.core.seeds import global_seed, own_generators
from avslib.data.avsbench import AVSBench, read_skip_list
from avslib.data.embeddings import embed_dataset
from avslib.data.loading import train_loader
from avslib.data.mini.composed import ComposedClips
from avslib.data.packed import PackedClips
from avslib.models.ecmvae import ECMVAE
from avslib.training.distributed import gather_processes, rank, synchronize_batch_norm, together, world_size
from avslib.training.guards import plain_errors
from avslib.training.noise import drawn_samples
from avslib.training.state import RunState
from avslib.weights.checkpoints import load_weights
from avslib.weights.speed_options import apply_speed_options

SCORED_SIZE = 224
REMEMBERED = 240  # rows of earlier steps
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


class Run:
    """What a training works on: `model` and `optimizer` as accelerate wraps them (`plain` is the model itself), the
    `schedule` of the learning rate, a function of ``state.step``, `steps` per epoch, `frames` per train clip."""

    def __init__(
        self, accelerator: Accelerator, config: Config, out: Path, resume: bool, progress: bool, console: Console | None
    ):
        t, packed, main = config.train, config.data.packed is not None, accelerator.is_main_process
        progress = progress and main
        self.accelerator, self.config, self.out = accelerator, config, out
        self.state, saved = together(lambda: RunState.open(out, config, resume))
        if len(set(gather_object([self.state.step]))) > 1:
            raise ProcessesError(f"{out}: the processes find different states there; choose a folder on a shared disk")
        open_train: Any = open_packed if packed else open_composed if config.data.compose else open_split
        trainset = together(lambda: open_train(config, "train", progress=progress))
        self.valset = together(lambda: open_split(config, "val", progress=progress))
        # just before the weights are drawn: what the audio encoder draws before is not part of the seed's meaning
        global_seed(t.seed)
        self.plain = together(lambda: first_model(config, fresh=saved is None))
        if t.sync_batch:
            synchronize_batch_norm(self.plain, accelerator.device)
        optimizer = build_optimizer(self.plain, config)
        loader: Any = train_loader(trainset, config.data, t.batch_size, t.seed)
        apply_speed_options(self.plain, channels_last=t.channels_last, checkpointing=t.checkpointing, compile=t.compile)
        self.model, self.optimizer = accelerator.prepare(self.plain, optimizer)
        # packed clips are shared out already; batches stay in pinned memory, from which flatten_clips sends them on
        shares = {"num_processes": 1, "process_index": 0} if packed else {}
        self.sampler, self.loader = loader.sampler, prepare_data_loader(loader, put_on_device=False, **shares)
        self.steps, self.frames = len(self.loader), config.data.frames_of("train")
        self.samples = drawn_samples(config)
        if saved is not None:
            self.plain.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if accelerator.scaler and saved["scaler"]:
                accelerator.scaler.load_state_dict(saved["scaler"])
        # mean codes of the last steps, for the correlation: a batch of a few rows says little about it
        self.earlier = {k: x.to(accelerator.device) for k, x in saved.get("earlier", {}).items()} if saved else {}
        total = t.epochs * self.steps
        self.schedule = LambdaLR(self.optimizer, lambda _: learning_rate(self.state.step, total, t))
        self.console = console if console and main else Console(quiet=not progress)
        self.bar = Progress(console=self.console, transient=True, disable=not progress)
        self.task = self.bar.add_task("training", total=total, completed=self.state.step)
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
            scaler = self.accelerator.scaler
            self.state.save(self.out, self.config, self.plain, self.optimizer, scaler, self.earlier)

    def context(self) -> dict[str, Any]:
        """What the objective needs to know beside a step's output."""
        done, gather = self.state.step / (self.config.train.epochs * self.steps), None
        if self.config.train.sync_batch:
            gather = gather_processes
        return {"sum_scale": float(world_size()), "gather": gather, "progress": done, "earlier": self.earlier}

    def remember(self, latents: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Keep the mean codes of a step, if the objective will ask for them."""
        if self.config.loss.orthogonality_form == "correlation":
            for name, (mu, _) in latents.items():
                self.earlier[name] = torch.cat([self.earlier.get(name, mu.detach()[:0]), mu.detach()])[-REMEMBERED:]


@contextmanager
def open_run(config: Config, out: Path, resume: bool, progress: bool, console: Console | None) -> Iterator[Run]:
    """Join the processes, lock the folder `out`, and build what a training starts from or, with `resume`, continues
    with. Afterwards the caller's random generators are as they were."""
    t = config.train
    if t.tensorboard and not is_tensorboard_available():
        raise InstallError("train.tensorboard needs tensorboard: pip install 'avslib[tensorboard]', or set it to false")
    with own_generators(), deterministic(t.deterministic), plain_errors("training"), ExitStack() as stack:
        accelerator = join_processes(t, out)
        together(lambda: rank() == 0 and stack.enter_context(locked(out / LOCK, "a training", PATIENCE)))
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        if t.precision == "tf32":
            torch.set_float32_matmul_precision("high")
        run = Run(accelerator, config, out, resume, progress, console)
        if t.tensorboard:  # events after the saved step are superseded, as rows of the history are
            accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": run.state.step + 1}})
            stack.callback(lambda: [tracker.finish() for tracker in accelerator.trackers])
        with run.bar:
            yield run
        accelerator.wait_for_everyone()


def join_processes(t: TrainConfig, out: Path) -> Accelerator:
    """Join the processes that ``accelerate launch`` or ``torchrun`` started; gloo if there is no GPU. Raises
    ProcessesError if they cannot find each other."""
    launched = int(os.environ.get("WORLD_SIZE", 1))
    AcceleratorState._reset_state()  # it would refuse a precision that an earlier training did not have
    accelerator = Accelerator(
        mixed_precision="no" if t.precision == "tf32" else t.precision,
        cpu=launched > 1 and not torch.accelerator.is_available(),
        gradient_accumulation_steps=t.accumulate,
        log_with="tensorboard" if t.tensorboard else None,
        project_dir=out,
    )
    if accelerator.num_processes != launched:
        why = f"{launched} processes were started, but this device has no backend for several"
        raise ProcessesError(f"{why}, so each would train separately; set ACCELERATE_USE_CPU=true to train on the CPU")
    return accelerator


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """If `wanted`, let torch use only deterministic operations in the block: the same bits on a GPU too, but slower.

    Sets ``CUBLAS_WORKSPACE_CONFIG`` for the rest of the process (cuBLAS reads it once); all else is restored. Raises
    ConfigError if CUDA is in use already, without that variable."""
    if wanted and os.environ.get(CUBLAS) not in (":4096:8", ":16:8"):
        if torch.cuda.is_initialized():
            raise ConfigError(f"train.deterministic: CUDA is in use already; set {CUBLAS}=:4096:8 before Python starts")
        os.environ[CUBLAS] = ":4096:8"
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    if wanted:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False  # it would choose the form of a convolution by a race
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark


def learning_rate(step: int, total: int, t: TrainConfig) -> float:
    """The factor of the base learning rate at a step, from 0."""
    rise = min(1.0, (step + 1) / (t.warmup_steps + 1))
    return rise if t.schedule == "constant" else rise * 0.5 * (1 + math.cos(math.pi * step / total))


def data_root(config: Config) -> str:
    """The configured data folder. Raises ConfigError where there is none."""
    if config.data.root is None:
        raise ConfigError("data.root is not set: name the data folder by --data DIR (avs data build-mini makes one)")
    return config.data.root


def open_split(config: Config, split: str, *, progress: bool = False) -> AVSBench:
    """A split of the configured data, with its cached audio embeddings (zeros if the model has no sound)."""
    d, size, root = config.data, config.model.image_size, data_root(config)
    # scores are taken at the size that published ones were, at any size that the network sees
    mask_size = size if split == "train" else SCORED_SIZE
    skip = read_skip_list(d.skip) if d.skip else ()
    frames = read_frames(d, split)
    dataset = AVSBench(root, d.task, split, size, frames, mask_size=mask_size, skip=skip)
    return _with_audio(dataset.first(d.max_clips) if d.max_clips else dataset, config, progress)


def open_packed(config: Config, split: str = "train", *, progress: bool = False) -> PackedClips:
    """A split of the configured packed clips, shuffled, with its cached audio embeddings."""
    d = config.data
    if d.packed is None or d.skip or d.max_clips is not None:
        raise ConfigError("data.packed holds the clips that were packed; leave out others by avs data pack --skip FILE")
    size, seed = config.model.image_size, config.train.seed
    clips = PackedClips(d.packed, split, size, read_frames(d, split), shuffle=True, seed=seed)
    if clips.task != d.task:
        raise ConfigError(f"{d.packed}: holds {clips.task} clips, but data.task is {d.task!r}")
    return _with_audio(clips, config, progress)


def open_composed(config: Config, split: str = "train", *, progress: bool = False) -> ComposedClips:
    """The train split of the configured Mini-AVS build, with new clips in each epoch."""
    d, m, root = config.data, config.model, data_root(config)
    encoder = build_audio_encoder(m.audio_encoder, m.audio_weights) if m.use_audio else None
    clips = ComposedClips(root, d.task, m.image_size, read_frames(d, split), encoder, m.audio_dim)
    return clips.first(d.max_clips) if d.max_clips else clips


def read_frames(d: DataConfig, split: str) -> int:
    """T of the clips as they are read: MS3's loader chooses among all seconds, S4's only the first is annotated."""
    return d.frames if d.task == "ms3" else d.frames_of(split)


def _with_audio(clips: Any, config: Config, progress: bool) -> Any:
    d, m = config.data, config.model
    if not m.use_audio:
        return clips.with_audio(dict.fromkeys(clips.names, torch.zeros(clips.frames, m.audio_dim)))
    encoder = build_audio_encoder(m.audio_encoder, m.audio_weights)
    cache = d.cache or f"{d.root or '.'}/audio_embeddings"
    return clips.with_audio(embed_dataset(clips, encoder, cache, progress=progress))


def first_model(config: Config, fresh: bool) -> ECMVAE:
    """The model with the weights that a fresh run starts from."""
    model = ECMVAE(config)
    if config.train.init_from and fresh:
        load_weights(model, config.train.init_from, config.train.init_modules)
    return model


def build_optimizer(model: ECMVAE, config: Config) -> torch.optim.Optimizer:
    """Adam or AdamW; the backbone has a learning rate of its own, or is frozen."""
    t, backbone = config.train, list(model.backbone.parameters())
    known = {id(p) for p in backbone}
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if id(p) not in known], "lr": t.lr}]
    if t.backbone_lr_factor == 0:
        model.backbone.requires_grad_(False)
    elif backbone:
        groups.append({"params": backbone, "lr": t.lr * t.backbone_lr_factor})
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[t.optimizer]
    return kind(groups, weight_decay=t.weight_decay, fused=True)
