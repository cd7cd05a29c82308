"""The gradients of a batch, whole or in parts: forward pass, loss, backward pass."""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from avslib.config import Config
from avslib.core.seeds import dropout_seed, step_seed
from avslib.losses import objective
from avslib.training.distributed import gather_processes, rank, world_size
from avslib.training.micro_batches import parts


def add_gradients(
    accelerator: Accelerator,
    model: nn.Module,
    rows: Mapping[str, Tensor],
    step: int,
    frames: int,
    config: Config,
    size: int,
) -> dict[str, Float[Tensor, ""]]:
    """Add the gradients of a batch to those of the parameters, `size` clips at a time; returns the loss and its parts.

    The latent noise comes from (seed, step), and is that of the whole batch whatever the size. Where a backbone has
    dropout, it draws from torch's own generator, which is seeded here.

    Args:
        rows: the batch as `avslib.training.evaluate.flatten_clips` gives it, `frames` rows a clip.
    """
    clips, sums = len(rows["name"]), {}
    plain, gather = accelerator.unwrap_model(model), gather_processes if config.train.sync_batch else None
    torch.manual_seed(dropout_seed(config.train.seed, step, accelerator.process_index))
    # asked of the task, not of the tensor, which would make the host wait for the device at every step
    annotated = rows["annotated"] if config.data.task == "s4" else None
    image_rows, on_all = len(rows["image"]), annotated is None or config.data.posterior_mask == "first_repeated"
    generator = torch.Generator().manual_seed(step_seed(config.train.seed, step))
    noise = {
        name: torch.randn(world_size() * n, k, generator=generator).chunk(world_size())[rank()]
        for name, (n, k) in plain.noise_shapes(image_rows, image_rows if on_all else int(annotated.sum())).items()
    }
    for part in parts(clips, size):
        eps = {name: part.of(x).to(rows["image"].device, non_blocking=True) for name, x in noise.items()}
        image = plain.normalize(part.of(rows["image"]))
        audio, mask = part.of(rows["audio"]), part.of(rows["mask"]).float()
        known = {
            "annotated": None if annotated is None else part.of(annotated),
            "posterior_mask": config.data.posterior_mask,
        }
        # processes exchange their gradients once
        with nullcontext() if part.last == clips else accelerator.no_sync(model):
            with accelerator.autocast():
                output = model(image, audio, mask, frames=frames, noise=eps, **known)
            losses = objective(output, mask, config, eps, sum_scale=world_size() / part.weight, gather=gather)
            accelerator.backward(losses["loss"] * part.weight)
        sums = {name: sums.get(name, 0) + value.detach() * part.weight for name, value in losses.items()}
    return sums
