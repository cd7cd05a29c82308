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
from avslib.training.micro_batches import NoiseOfPart, parts


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
    clips, generator, sums = len(rows["name"]), torch.Generator(), {}
    torch.manual_seed(dropout_seed(config.train.seed, step, accelerator.process_index))
    for part in parts(clips, size):
        generator.manual_seed(step_seed(config.train.seed, step))
        noise = NoiseOfPart(generator, part)
        image = accelerator.unwrap_model(model).normalize(part.of(rows["image"]))
        audio, mask = part.of(rows["audio"]), part.of(rows["mask"]).float()
        # asked of the task, not of the tensor, which would make the host wait for the device at every step
        annotated = part.of(rows["annotated"]) if config.data.task == "s4" else None
        # processes exchange their gradients once
        with nullcontext() if part.last == clips else accelerator.no_sync(model):
            with accelerator.autocast():
                output = model(image, audio, mask, frames=frames, noise=noise, annotated=annotated)
            losses = objective(output, mask, config, noise=noise, weight=part.weight)
            accelerator.backward(losses["loss"] * part.weight)
        sums = {name: sums.get(name, 0) + value.detach() * part.weight for name, value in losses.items()}
    return sums
