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
        for name, (n, k) in noise_shapes(model, rows, known, drawn_samples(config)).items()
    }


def noise_shapes(model: ECMVAE, rows: int, posterior_rows: int = 0, samples: int = 0) -> dict[str, tuple[int, int]]:
    """Shape of every eps that a step draws, by name, in the order in which a generator would draw them.

    `posterior_rows` is A of :class:`ECMVAEOutput`, 0 without masks; `samples` is S.
    """
    m, prior, posterior = model.config.model, model.prior, model.posterior
    shapes = dict.fromkeys(prior.sampled, (rows, m.latent_dim))
    if posterior is not None and posterior_rows:
        shapes |= dict.fromkeys(posterior.sampled, (posterior_rows, m.latent_dim))
        if m.latent == "factorised":  # the objective samples c
            shapes |= dict.fromkeys(("js_prior", "js_posterior"), (posterior_rows, m.latent_dim))
        if samples:
            shapes |= {f"{name}_samples": (posterior_rows, samples * m.latent_dim) for name in prior.encoders}
    return shapes


def drawn_samples(config: Config) -> int:
    """Samples of the prior's codes that a step decodes by the posterior."""
    return config.loss.sample_count if config.loss.seg_samples and config.model.latent != "none" else 0
