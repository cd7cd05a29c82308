"""Processes that train together: what they share so that their batches act as one. In one process nothing is shared.

Training averages the gradients of the processes, so it minimises the mean of their losses. A statistic over the batches
of all enters every one of these losses; :func:`gather_processes` therefore sums the gradients that come back. All
processes have the same number of rows, as the training loaders give them.

    accelerate launch --multi_gpu --num_processes 8 -m avslib.cli train --data DIR -o train.sync_batch=true

starts a process for each GPU or, without GPUs, that many on the CPU (``--cpu`` instead of ``--multi_gpu`` would start
only one). The batch of a step is ``train.batch_size`` times their number.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from avslib.core.errors import KINDS, AvsError, ProcessesError
from avslib.core.files import LOCK, PATIENCE, locked
from avslib.models.fusion import TPAVI

T = TypeVar("T")


def start_processes(precision: str = "no", **options: Any) -> Accelerator:
    """Join the processes that ``accelerate launch`` or ``torchrun`` started; gloo if there is no GPU.

    Raises:
        AvsError: the launcher started several processes, and they cannot find each other.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    cpu = launched > 1 and not torch.accelerator.is_available()
    accelerator = Accelerator(mixed_precision=precision, cpu=cpu, **options)
    if accelerator.num_processes != launched:
        raise ProcessesError(
            f"{launched} processes were started, but this device has no backend for several, so each would train "
            "separately; set ACCELERATE_USE_CPU=true to train on the CPU"
        )
    return accelerator


def world_size() -> int:
    """The number of processes in the default process group, or 1."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if world_size() > 1 else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        distributed.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    @once_differentiable  # autograd does not see through all_reduce
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # every process used this process's part; its gradient is the sum of theirs
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient[rank()]


def gather_processes(x: Float[Tensor, "*S"]) -> Float[Tensor, "P *S"]:
    """The tensors of all processes, in order of rank; all have one shape. Gradients flow back to every process.

    >>> gather_processes(torch.zeros(2, 3)).shape
    torch.Size([1, 2, 3])
    """
    return _Gather.apply(x) if world_size() > 1 else x.unsqueeze(0)


def mean_over_processes(x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """The mean of the processes' tensors, with gradients; the tensor itself in one process."""
    return gather_processes(x).mean(0) if world_size() > 1 else x


def global_moments(
    mean: Float[Tensor, "*S"], var: Float[Tensor, "*S"]
) -> tuple[Float[Tensor, "*S"], Float[Tensor, "*S"]]:
    """Mean and biased variance over the rows of all processes, mean_p [var_p + (mean_p - mean)^2]: it loses no digits
    where the mean is large."""
    means, variances = gather_processes(torch.stack([mean, var])).unbind(1)
    overall = means.mean(0)
    return overall, (variances + (means - overall).square()).mean(0)


class HostSyncBatchNorm(_BatchNorm):
    """BatchNorm over the batches of all processes where nn.SyncBatchNorm does not work: off the GPU."""

    num_batches_tracked: Tensor
    running_mean: Tensor
    running_var: Tensor
    momentum: float

    def forward(self, x: Float[Tensor, "N C *S"]) -> Float[Tensor, "N C *S"]:
        if not self.training or world_size() == 1:
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        axes = [i for i in range(x.ndim) if i != 1]
        var, mean = torch.var_mean(wide, axes, correction=0)
        mean, var = global_moments(mean, var)
        with torch.no_grad():
            count = x.numel() // x.shape[1] * world_size()
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * count / max(count - 1, 1)).to(self.running_var.dtype), self.momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        mean, scale, shift = (v.view(-1, *[1] * (x.ndim - 2)) for v in (mean, scale, self.bias))
        return ((wide - mean) * scale + shift).to(x.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """1d and 2d alike."""


class _HostSyncBatchNormAct(HostSyncBatchNorm):
    """The same with the dropout and activation of timm's BatchNorm."""

    act: nn.Module
    drop: nn.Module

    def forward(self, x: Float[Tensor, "N C *S"]) -> Float[Tensor, "N C *S"]:
        return self.act(self.drop(super().forward(x)))


def synchronize_batch_norm(model: nn.Module, device: str | torch.device = "cpu") -> nn.Module:
    """Let every BatchNorm of `model` take its statistics over the batches of all processes, in place; by torch's own
    kernels on CUDA. Names and values of the state dict stay."""
    if world_size() == 1:
        return model
    for module in model.modules():
        if isinstance(module, TPAVI):
            module.gather = gather_processes
    if torch.device(device).type == "cuda":
        return convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = _HostSyncBatchNormAct if isinstance(module, BatchNormAct2d) else HostSyncBatchNorm
    return model


def gather_objects(value: T) -> list[T]:
    """The values of all processes, which pickle can carry, in order of rank."""
    return gather_object([value])


def together(call: Callable[[], T]) -> T:
    """What `call` returns, once every process has called it. If it raises an `AvsError` in one of them, all raise it:
    the others would wait for a process that has left."""
    result: Any = None
    error: AvsError | None = None
    try:
        result = call()
    except AvsError as raised:
        error = raised
    for failure in gather_objects(error and (error.code, str(error))):
        if failure:
            raise error or KINDS[failure[0]](failure[1])
    return result


@contextmanager
def run_folder(out: Path) -> Iterator[None]:
    """Keep other trainings out of the folder `out` during the block; the first process does it for all.

    Raises:
        OutputError: another process trains into it.
    """
    with ExitStack() as stack:
        together(lambda: rank() == 0 and stack.enter_context(locked(out / LOCK, "a training", PATIENCE)))
        try:
            yield
        finally:
            if rank() == 0 and [path.name for path in out.glob("*")] == [LOCK]:  # it ended before it began
                with suppress(OSError):
                    (out / LOCK).unlink()
                    out.rmdir()
