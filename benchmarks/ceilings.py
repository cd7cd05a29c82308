"""What the machine can do, measured: matrix products and memory traffic; and what a step demands."""

from collections.abc import Callable
from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from benchmarks.record import BenchSettings, Row, spread

ROUNDS = 5


def _rates(work: float, statement: str, **names: object) -> tuple[float, ...]:
    """`work` per second of `statement` in each of `ROUNDS` rounds."""
    from torch.utils.benchmark import Timer  # as in benchmarks/timing.py

    timer = Timer(statement, globals={"torch": torch, **names}, num_threads=torch.get_num_threads())
    timer.timeit(1)
    return tuple(work / timer.timeit(3).mean for _ in range(ROUNDS))


def _matmul(device: str, dtype: torch.dtype, size: int) -> tuple[float, ...]:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return _rates(2 * size**3, "torch.mm(a, b, out=out)", a=a, b=b, out=torch.empty_like(a))


@cache
def ceilings(device: str, quick: bool) -> dict[str, tuple[float, ...]]:
    """Rounds of each ceiling: products in FLOP/s (float32 without TF32), memory in bytes/s of a = b + 3c."""
    size, elements = 256 if quick else 8192 if device == "cuda" else 2048, (1 if quick else 256) * 2**18
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    found = {str(t).removeprefix("torch."): _matmul(device, t, size) for t in (torch.float32, torch.bfloat16)}
    if device == "cuda":
        matmul.allow_tf32 = True
        found["tf32"] = _matmul(device, torch.float32, size)
    matmul.allow_tf32 = before
    a, b, c = (torch.ones(elements, device=device) for _ in range(3))
    return found | {"memory": _rates(12 * elements, "torch.add(b, c, alpha=3, out=a)", a=a, b=b, c=c)}


def section_ceilings(settings: BenchSettings) -> list[Row]:
    """Measured FLOP/s and bytes/s, with their spread over the rounds."""
    rows = []
    for name, rates in ceilings(settings.device, settings.quick).items():
        found, unit = spread(rates), "bytes/s" if name == "memory" else "FLOP/s"
        values = {unit: found.median, "smallest": found.smallest, "largest": found.largest}
        rows.append(Row(case=f"{name}, {unit}", name="machine", values=values))
    return rows


class _Traffic(TorchDispatchMode):
    """Counts the bytes of the operands that every operation reads and writes, except views.

    That is the traffic of code that runs operation by operation, where no cache helps between two of them.
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


def _convolution_backward(grad_shape, x_shape, w_shape, *options, out_shape=None, **_) -> int:
    """Each gradient costs as much as the forward pass; PyTorch's own count treats a grouped convolution as dense."""
    transposed, wanted = options[4], options[7]
    return conv_flop_count(x_shape, w_shape, grad_shape, transposed=transposed) * (wanted[0] + wanted[1])


def demand(run: Callable[[], object]) -> tuple[float, float]:
    """FLOPs of the products in `run`, and its traffic in bytes."""
    custom = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=custom) as flops, _Traffic() as traffic:
        run()
    return float(flops.get_total_flops()), float(traffic.bytes)
