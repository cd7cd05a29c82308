"""The latent noise of a training step. Evaluation draws its own (`avslib.training.evaluate`), by the clip's name."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avslib.config import Config
from avslib.core.seeds import step_seed
from avslib.models.ecmvae import ECMVAE
from avslib.training.distributed import rank, world_size


def step_noise(
    model: ECMVAE, config: Config, step: int, rows: int, annotated: Bool[Tensor, "N"] | None
) -> dict[str, Float[Tensor, "_ _"]]:
    """The latent noise of a step by name, from (seed, step): that of all processes' rows, and of it this one's part."""
    known = rows if annotated is None or config.data.posterior_mask == "first_repeated" else int(annotated.sum())
    generator = torch.Generator().manual_seed(step_seed(config.train.seed, step))
    world, own, device = world_size(), rank(), next(model.parameters()).device
    return {
        name: torch.randn(world * n, k, generator=generator).chunk(world)[own].to(device, non_blocking=True)
        for name, (n, k) in model.noise_shapes(rows, known, drawn_samples(config)).items()
    }


def drawn_samples(config: Config) -> int:
    """Samples of the prior's codes that a step decodes by the posterior."""
    return config.loss.sample_count if config.loss.seg_samples and config.model.latent != "none" else 0
