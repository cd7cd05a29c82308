"""Options that trade time, memory and digits; none of them changes a weight's name or shape.

channels-last and checkpointing give the same numbers up to the order of sums; compiled code may also round differently;
bfloat16 keeps 8 binary digits of what enters a product. ``avs bench`` states the error of each.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from avslib.core.errors import InstallError
from avslib.models.ecmvae import ECMVAE

LISTS = (nn.Sequential, nn.ModuleList)


def apply_speed_options(
    model: ECMVAE, *, channels_last: bool = True, checkpointing: bool = False, compile: bool = False, bf16: bool = False
) -> ECMVAE:
    """Set the options on `model`, in place. An AvsError says that compile needs a C++ compiler on a CPU.

    Args:
        channels_last: memory layout of the convolutions' weights, which their maps then follow.
        checkpointing: blocks of backbone, fusion and decoder keep only their input and run again in the backward pass:
            slightly slower, half of the activations' memory or less. Running statistics are updated once.
        compile: backbone, necks and decoders by ``torch.compile``, at their first call.
        bf16: every call runs under bfloat16 autocast. For inference; training has ``train.precision``.
    """
    if channels_last:
        model.to(memory_format=torch.channels_last)
    for block in checkpointed_blocks(model) if checkpointing else ():
        block.forward = partial(_checkpoint_in_training, block, block.forward)
    if compile:
        if next(model.parameters()).device.type == "cpu" and not has_compiler():
            needs = "needs a C++ compiler on a CPU (g++, clang++ or cl); install one, or leave the option out"
            raise InstallError(f"train.compile: torch.compile {needs}")
        for branch in filter(None, (model.prior, model.posterior)):
            branch.neck.compile()
            branch.decoder.compile()
        model.backbone.net.compile()
    if bf16:
        device = next(model.parameters()).device.type
        for module in (model, model.backbone):  # the backbone is also called alone, once for several samples
            # one context each: entered twice, a context would forget what was set before
            module.forward = torch.autocast(device, dtype=torch.bfloat16)(module.forward)
    return model


def has_compiler() -> bool:
    """Whether there is a C++ compiler, without which torch.compile makes no code for a CPU."""
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++", "cl"))


def checkpointed_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The repeated blocks of a network: composed members of sequences and lists, the outermost ones."""
    for child in module.children():
        composed = not isinstance(child, LISTS) and any(True for _ in child.children())
        if isinstance(module, LISTS) and composed:
            yield child
        else:
            yield from checkpointed_blocks(child)


def _checkpoint_in_training(block: nn.Module, forward: Callable, *inputs, **options):
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs, **options)

    def contexts():
        return nullcontext(), _frozen_statistics(block)

    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


@contextmanager
def _frozen_statistics(block: nn.Module):
    """The second pass sees the batch that the first one counted already."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
