"""Processes that train together: what they share so that their batches act as one. In one process nothing is shared.

Training averages the gradients of the processes, so it minimises the mean of their losses. A statistic over the batches
of all enters every one of these losses; :func:`gather_processes` therefore sums the gradients that come back. All
processes have the same number of rows, as the training loaders give them. docs/training.md shows how to start them.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from timm.layers import convert_sync_batchnorm
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from avslib.core.errors import KINDS, AvsError
from avslib.models.fusion import TPAVI

T = TypeVar("T")


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


def synchronize_batch_norm(model: nn.Module, device: str | torch.device = "cpu") -> nn.Module:
    """Let every BatchNorm of `model` take its statistics over the batches of all processes, in place; names and values
    of the state dict stay. Off the GPU, where torch has no kernels for it, every process normalises all rows."""
    if world_size() == 1:
        return model
    on_gpu = torch.device(device).type == "cuda"
    for module in model.modules():
        if isinstance(module, TPAVI):
            module.gather = gather_processes
        elif isinstance(module, _BatchNorm) and not on_gpu:
            module.register_forward_pre_hook(_rows_of_all)
            module.register_forward_hook(_own_rows)
    return convert_sync_batchnorm(model) if on_gpu else model


def _rows_of_all(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return gather_processes(inputs[0]).flatten(0, 1) if module.training else inputs[0]


def _own_rows(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return output.unflatten(0, (world_size(), -1))[rank()] if module.training else output


def together(call: Callable[[], T]) -> T:
    """What `call` returns, once every process has called it. If it raises an `AvsError` in one of them, all raise it:
    the others would wait for a process that has left."""
    result: Any = None
    error: AvsError | None = None
    try:
        result = call()
    except AvsError as raised:
        error = raised
    for failure in gather_object([error and (error.code, str(error))]):
        if failure:
            raise error or KINDS.get(failure[0], AvsError)(failure[1])
    return result
