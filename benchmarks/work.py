"""The work that is timed: a training step, inference of some clips, and the fusion alone, of any candidate."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avslib.config import Config
from avslib.losses import objective
from avslib.models.ecmvae import ECMVAEOutput
from avslib.models.fusion import TPAVI
from avslib.models.latent import POSTERIOR, PRIOR
from benchmarks import reference_fusion, reference_model
from benchmarks.candidates import Candidate, audio_network, build_model, dress
from benchmarks.record import BenchSettings


@dataclass
class Batch:
    """Random clips as N = clips * frames rows: images, log-mel patches and their embeddings, masks and noise."""

    image: Float[Tensor, "N 3 H W"]
    patches: Float[Tensor, "N 1 96 64"]
    audio: Float[Tensor, "N D"]
    mask: Float[Tensor, "N 1 H W"]
    noise: dict[str, Float[Tensor, "N K"]]


def make_batch(settings: BenchSettings, config: Config, audio: nn.Module, clips: int) -> Batch:
    """Clips of the seed; the embeddings are what the audio network gives, as a cache would hold them."""
    generator = torch.Generator().manual_seed(settings.seed + 2)
    rows, side = clips * settings.frames, settings.image_size
    image = torch.randn(rows, 3, side, side, generator=generator)
    patches = torch.randn(rows, 1, 96, 64, generator=generator)
    mask = torch.zeros(rows, 1, side, side)
    mask[..., side // 4 : side // 2, side // 3 : 3 * side // 4] = 1
    names = (*PRIOR, *POSTERIOR, "js_prior", "js_posterior")
    noise = {n: torch.randn(rows, config.model.latent_dim, generator=generator).to(settings.device) for n in names}
    with torch.no_grad():
        embeddings = torch.cat([audio(part.to(settings.device)) for part in patches.split(64)])
    return Batch(*(x.to(settings.device) for x in (image, patches, embeddings, mask)), noise)


def make_optimizer(parameters: Iterable[nn.Parameter], candidate: Candidate) -> torch.optim.Adam:
    """Adam as the candidate has it: one loop over tensors in the reference, fused in ours."""
    kind = {"fused": True} if candidate.form == "ours" else {"fused": False, "foreach": False}
    return torch.optim.Adam([p for p in parameters if p.requires_grad], lr=1e-4, **kind)


def prefill_state(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimiser make its moments by a step on gradients of 0, which moves no weight."""
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@dataclass
class TrainStep:
    """Forward, loss, backward and optimiser, with the batch's own noise, so that candidates can be compared."""

    module: nn.Module
    candidate: Candidate
    batch: Batch
    settings: BenchSettings
    optimizer: torch.optim.Optimizer | None = None

    def forward(self) -> tuple[ECMVAEOutput, dict[str, Tensor]]:
        b, reference = self.batch, self.candidate.form == "reference"
        with self.candidate.precision(self.settings.device):
            sound = b.patches if reference else b.audio
            output = self.module(b.image, sound, b.mask, frames=self.settings.frames, noise=b.noise)
        loss = reference_model.reference_objective if reference else objective
        return output, loss(output, b.mask, self.module.config, b.noise)

    def backward(self) -> tuple[ECMVAEOutput, dict[str, Tensor]]:
        output, losses = self.forward()
        with self.candidate.precision(self.settings.device):
            losses["loss"].backward()
        return output, losses

    def __call__(self) -> None:
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


@dataclass
class Inference:
    """Logits of the prior branch with the mean codes."""

    module: nn.Module
    candidate: Candidate
    batch: Batch
    settings: BenchSettings

    def __call__(self) -> Float[Tensor, "N 1 H W"]:
        b, reference = self.batch, self.candidate.form == "reference"
        with torch.inference_mode(), self.candidate.precision(self.settings.device):
            return self.module(b.image, b.patches if reference else b.audio, frames=self.settings.frames).logits


class FusionStep:
    """The fusion of the finest level, forward and backward: 56x56 positions at 224 pixels, one clip."""

    def __init__(self, form: str, settings: BenchSettings, dtype: torch.dtype = torch.float32):
        torch.manual_seed(settings.seed)
        channels, side, rows = (8, 14, settings.frames) if settings.quick else (128, 56, settings.frames)
        module = TPAVI(channels)
        nn.init.ones_(module.batch_norm.weight)
        if form == "reference":
            module = reference_fusion.QuadraticTPAVI.like(module)
        torch.manual_seed(settings.seed + 1)
        x, weight = torch.randn(2, rows, channels, side, side)
        audio = torch.randn(rows, channels)
        self.frames, self.side, self.module = rows, side, module.to(settings.device, dtype)
        self.x, self.audio, self.weight = (t.to(settings.device, dtype) for t in (x, audio, weight))
        self.inputs = [self.x.requires_grad_(), self.audio.requires_grad_(), *self.module.parameters()]

    def __call__(self) -> tuple[Tensor, ...]:
        """The fused map, and the gradients of map, audio and parameters, flat."""
        out, _ = self.module(self.x, self.audio, self.frames)
        for leaf in self.inputs:
            leaf.grad = None
        out.backward(self.weight)
        return out.detach(), *(leaf.grad.flatten() for leaf in self.inputs)


def start(kind: str, candidate: Candidate, settings: BenchSettings, clips: int):
    """Build one candidate's work from nothing: `kind` is train, inference or fusion."""
    if kind == "fusion":
        return FusionStep(candidate.form, settings)
    audio = audio_network(settings)
    module = build_model(settings)
    batch = make_batch(settings, module.config, audio, clips)
    module = dress(module, candidate, audio)
    del audio  # ours has no use for it: its embeddings come from a cache
    if kind == "inference":
        return Inference(module.eval(), candidate, batch, settings)
    step = TrainStep(module.train(), candidate, batch, settings, make_optimizer(module.parameters(), candidate))
    prefill_state(step.optimizer)
    return step
