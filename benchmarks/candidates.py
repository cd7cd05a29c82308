"""What is compared: the reference form, ours as `avs train` runs it, and ours with each option."""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import nn

from avslib.audio.vggish import VGGish
from avslib.config import Config, load_config
from avslib.core.errors import InstallError
from avslib.models.ecmvae import ECMVAE
from avslib.weights.speed_options import apply_speed_options, has_compiler
from benchmarks import reference_model
from benchmarks.record import BenchSettings
from benchmarks.timing import OURS, REFERENCE

QUICK = {
    "model.image_size": 64,
    "model.channels": 8,
    "model.image_encoder_channels": [4] * 5,
    "model.map_encoder_channels": [4] * 5,
    "model.latent_dim": 4,
    "model.map_vector": 4,
}


@dataclass(frozen=True)
class Candidate:
    """A form of the model and how it runs.

    Attributes:
        tf32: which float32 products a GPU may round to TF32: none, those of convolutions (PyTorch's default, and so
            what released code does), or all.
        against: the candidate whose time is divided by this one's.
    """

    name: str
    form: Literal["reference", "ours"] = "ours"
    channels_last: bool = True
    bf16: bool = False
    checkpointing: bool = False
    compile: bool = False
    tf32: Literal["none", "convolutions", "all"] = "none"
    against: str = REFERENCE

    def products(self, device: str) -> str:
        """The name of the ceiling that its matrix products are held against."""
        if self.bf16:
            return "bfloat16"
        return "tf32" if self.tf32 == "all" and device == "cuda" else "float32"

    @contextlib.contextmanager
    def precision(self, device: str) -> Iterator[None]:
        """Autocast, and TF32 on a GPU."""
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, cudnn.allow_tf32
        matmul.allow_tf32, cudnn.allow_tf32 = self.tf32 == "all", self.tf32 != "none"
        try:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self.bf16):
                yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32 = before


def candidates(settings: BenchSettings, *, training: bool) -> list[Candidate]:
    """The rows of a table; `training` adds checkpointing, which changes nothing in inference.

    On a GPU the reference is there twice: in float32 alone, against which ours in float32 is held, and as released
    code runs by default, against which the options are.
    """
    cuda = settings.device == "cuda"
    strict = "reference, float32" if cuda else REFERENCE
    found = [Candidate(REFERENCE, "reference", False, tf32="convolutions")]
    if cuda:
        found.append(Candidate(strict, "reference", False, against=strict))
    found += [Candidate(OURS, against=strict), Candidate("ours, channels first", channels_last=False, against=strict)]
    if cuda:
        found.append(Candidate("ours, TF32", tf32="all"))
    found.append(Candidate("ours, bf16", bf16=True, tf32="all"))
    if training:
        found += [
            Candidate("ours, checkpointing", checkpointing=True, against=strict),
            Candidate("ours, bf16 + checkpointing", checkpointing=True, bf16=True, tf32="all"),
        ]
    if settings.compile:
        found += [
            Candidate("ours, compile", compile=True, against=strict),
            Candidate("ours, bf16 + compile", compile=True, bf16=True, tf32="all"),
        ]
    return found


def require_compiler(settings: BenchSettings) -> None:
    """Raises AvsError where torch.compile is asked for and has no C++ compiler."""
    if settings.compile and not has_compiler():
        raise InstallError(
            "avs bench --compile: torch.compile needs a C++ compiler, and neither g++ nor clang++ is on "
            "the path; install one or leave --compile out"
        )


def bench_config(settings: BenchSettings) -> Config:
    """A preset with random weights and VGGish. Of MS3 all frames have a mask, so that both branches run on all rows."""
    changes = {"model.pretrained": False, "model.audio_encoder": "vggish", "data.task": "ms3"}
    small = QUICK if settings.quick else {}
    if settings.backbone == "mini":
        return load_config("mini", changes | small)
    return load_config("paper", changes | {"model.backbone": settings.backbone} | small)


def build_model(settings: BenchSettings) -> ECMVAE:
    """The model on the device, in training mode; equal settings give equal weights."""
    if settings.device == "cpu":
        return _build(settings)
    # built once and then copied: drawing the weights takes longer than a GPU needs for a step
    return copy.deepcopy(_built(settings.model_dump_json(include={"device", "backbone", "quick", "seed"})))


@lru_cache(maxsize=1)
def _built(settings: str) -> ECMVAE:
    return _build(BenchSettings.model_validate_json(settings))


def _build(settings: BenchSettings) -> ECMVAE:
    torch.manual_seed(settings.seed)
    model = ECMVAE(bench_config(settings))
    for fusion in model.fusion:  # they start with a scale of 0, at which no error of the attention shows
        nn.init.ones_(fusion.batch_norm.weight)
    return model.to(settings.device)


def audio_network(settings: BenchSettings) -> nn.Module:
    """VGGish with random weights, frozen: its time does not depend on them. In a quick run, one small layer."""
    torch.manual_seed(settings.seed + 1)
    small = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(96, 128), nn.ReLU())
    return (small if settings.quick else VGGish()).eval().requires_grad_(False).to(settings.device)


def dress(model: ECMVAE, candidate: Candidate, audio: nn.Module) -> nn.Module:
    """The candidate's form of `model`, which it takes over; `audio` is the audio network that the reference runs."""
    if candidate.form == "reference":
        return reference_model.ReferenceECMVAE(model, audio)
    return apply_speed_options(
        model, channels_last=candidate.channels_last, checkpointing=candidate.checkpointing, compile=candidate.compile
    )


def share_parameters(module: nn.Module, shared: dict[str, nn.Parameter]) -> None:
    """Put the parameters of `shared` into the module under their names; new names, or shapes, are added or kept."""
    for prefix, part in module.named_modules():
        for name, value in part._parameters.items():
            key = f"{prefix}.{name}"
            if value is not None and shared.setdefault(key, value).shape == value.shape:
                part._parameters[name] = shared[key]


def plain_attention(model: nn.Module) -> nn.Module:
    """A copy whose attention is written out as products, which a FLOP counter sees on every device."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model
