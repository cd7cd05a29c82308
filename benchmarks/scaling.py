"""Weak scaling on paper: clips/s of N processes from what one process measures.

Every process steps on its own clips (the batch grows with N), then gradients are averaged by a ring all-reduce. The
projection assumes, and does not measure:

- A ring moves 2 (N - 1) / N of the gradients' bytes through each process, in 2 (N - 1) hops for each bucket of 25 MiB
  that is sent on its own (Patarasuk, Yuan: Bandwidth optimal all-reduce algorithms for clusters of workstations, J.
  Parallel Distrib. Comput. 2009).
- The slowest link sets the pace: the one inside a node while all processes fit into one, else the one between nodes,
  told as what one process gets of it.
- A fixed share of the communication runs while the backward pass goes on (a bucket is sent once it is full); it hides
  behind no more than the backward pass, two thirds of a step.
- Reading clips, and the spread of step times between processes, cost nothing; all are as fast as the one measured.
- With ``train.sync_batch`` each batch statistic is one more collective in the forward pass and one in the backward
  pass, which nothing hides, and so small that its hops alone count.

The defaults of the links are half of typical data-sheet figures, and no measurements.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from avslib.core.errors import UsageError

BACKWARD_SHARE = 2 / 3
BUCKET = 25 * 2**20


@dataclass(frozen=True)
class Link:
    """Bytes a second that one process sends, and seconds a hop takes whatever its size."""

    bytes_per_second: float
    latency: float


# assumed: NVLink 4 (450 GB/s a direction) and InfiniBand NDR (50 GB/s a GPU), half of each reached
INSIDE_NODE = Link(225e9, 5e-6)
BETWEEN_NODES = Link(25e9, 10e-6)


@dataclass(frozen=True)
class ScalingRow:
    """One line of the table.

    Attributes:
        processes: N.
        step_seconds: of a step with its communication.
        exposed_seconds: of communication that the backward pass does not hide.
        sent_bytes: through each process, a step.
        clips_per_second: of all processes.
        efficiency: clips/s over N times those of one process.
    """

    processes: int
    step_seconds: float
    exposed_seconds: float
    sent_bytes: float
    clips_per_second: float
    efficiency: float


def gradient_bytes(model: nn.Module) -> int:
    """Bytes of the gradients that are averaged each step: those of all parameters that train.

    >>> gradient_bytes(nn.Linear(3, 2))
    32
    """
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def ring_bytes(size: float, processes: int) -> float:
    """Bytes that each process sends in a ring all-reduce of `size` bytes.

    >>> ring_bytes(100, 4)
    150.0
    """
    return 2 * (processes - 1) / processes * size


def ring_seconds(size: float, processes: int, link: Link) -> float:
    """Time of a ring all-reduce of `size` bytes: its bytes at the link's rate, and the hops of its buckets."""
    hops = 2 * (processes - 1) * max(1, math.ceil(size / BUCKET))
    return ring_bytes(size, processes) / link.bytes_per_second + hops * link.latency


def project(
    step_seconds: float,
    clips: int,
    size: float,
    processes: Sequence[int] = (1, 2, 4, 8, 64),
    *,
    node: int = 8,
    inside_node: Link = INSIDE_NODE,
    between_nodes: Link = BETWEEN_NODES,
    overlap: float = 0.5,
    statistics: int = 0,
) -> list[ScalingRow]:
    """A row for each number of processes.

    Args:
        step_seconds, clips: measured in one process: a whole step, and the clips that it takes.
        size: bytes that are averaged, :func:`gradient_bytes`.
        node: processes in a node.
        overlap: share of the communication that can run during the backward pass, 0 to 1.
        statistics: batch statistics that a step shares, with ``train.sync_batch``.

    Raises:
        AvsError: a time, size or share outside its range.
    """
    if step_seconds <= 0 or clips < 1 or size < 0 or not 0 <= overlap <= 1 or min(processes) < 1 or node < 1:
        raise UsageError(
            f"scaling: step_seconds {step_seconds}, clips {clips}, size {size}, overlap {overlap}, node {node}, "
            f"processes {list(processes)}; expected positive times and counts, and an overlap from 0 to 1"
        )
    rows = []
    for n in processes:
        link = inside_node if n <= node else between_nodes
        gradients = ring_seconds(size, n, link)
        hidden = min(overlap * gradients, BACKWARD_SHARE * step_seconds)
        exposed = gradients - hidden + 2 * statistics * ring_seconds(0, n, link)
        total = step_seconds + exposed
        rows.append(ScalingRow(n, total, exposed, ring_bytes(size, n), n * clips / total, step_seconds / total))
    return rows
