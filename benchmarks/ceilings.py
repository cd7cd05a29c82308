"""What the machine can do, measured: products of matrices and memory traffic; and what a step asks for."""

from collections.abc import Callable
from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from benchmarks.record import BenchSettings, Row
from benchmarks.timing import spread, timer

ROUNDS = 5
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def matmul_flops(device: str, dtype: torch.dtype, size: int) -> list[float]:
    """FLOP/s of a product of two size x size matrices, 2 size^3 operations, in each of `ROUNDS` rounds."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return [2 * size**3 / s for s in _seconds(lambda: torch.mm(a, b, out=out))]


def memory_bandwidth(device: str, size: int) -> list[float]:
    """Bytes/s of a = b + 3 c over float32 arrays of `size` bytes each: two are read, one is written."""
    a, b, c = (torch.ones(size // 4, device=device) for _ in range(3))
    return [3 * size / s for s in _seconds(lambda: torch.add(b, c, alpha=3, out=a))]


def _seconds(run: Callable[[], object]) -> list[float]:
    run()
    found = []
    for _ in range(ROUNDS):
        start = timer()
        for _ in range(3):
            run()
        found.append((timer() - start) / 3)
    return found


@cache
def ceilings(device: str, quick: bool) -> dict[str, tuple[float, ...]]:
    """Rounds of the three ceilings: float32 and bfloat16 in FLOP/s, memory in bytes/s. Measured once a process.

    float32 is without TF32, whatever the process has set.
    """
    size = 256 if quick else 8192 if device == "cuda" else 2048
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    found = {name: tuple(matmul_flops(device, dtype, size)) for name, dtype in _PRECISIONS.items()}
    if device == "cuda":
        matmul.allow_tf32 = True
        found["tf32"] = tuple(matmul_flops(device, torch.float32, size))
    matmul.allow_tf32 = before
    return found | {"memory": tuple(memory_bandwidth(device, (1 if quick else 256) * 2**20))}


def section_ceilings(settings: BenchSettings) -> list[Row]:
    """Measured FLOP/s and bytes/s, with their spread over the rounds."""
    rows = []
    for name, rates in ceilings(settings.device, settings.quick).items():
        found = spread(rates)
        unit = "bytes/s" if name == "memory" else "FLOP/s"
        rows.append(
            Row(
                case=f"{name}, {unit}",
                name="machine",
                values={unit: found.median, "smallest": found.smallest, "largest": found.largest},
            )
        )
    return rows


class Demand(TorchDispatchMode):
    """Counts the bytes of the operands that every operation reads and writes, views excepted.

    That is the traffic of code that runs operation by operation, where nothing stays in a cache between two of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            found = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in found)
        return out


def _convolution_backward(
    grad_shape,
    x_shape,
    w_shape,
    _bias,
    _stride,
    _padding,
    _dilation,
    transposed,
    _output_padding,
    _groups,
    wanted,
    out_shape=None,
    **_,
) -> int:
    """Either gradient costs what the forward pass does; PyTorch's own count takes a grouped one for a dense one."""
    return conv_flop_count(x_shape, w_shape, grad_shape, transposed=transposed) * (wanted[0] + wanted[1])


def demand(run: Callable[[], object]) -> tuple[float, float]:
    """FLOPs of the products in `run`, and its traffic in bytes."""
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward}
    )
    with counter as flops, Demand() as traffic:
        run()
    return float(flops.get_total_flops()), float(traffic.bytes)
