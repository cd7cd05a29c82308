"""Interleaved timing: in every round each candidate runs once, so that a slow spell of the machine meets all."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict


def timer() -> float:
    """Seconds, once the GPU has done what it was given."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


class Spread(BaseModel):
    """Median, quartiles and extremes of `count` figures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    median: float
    lower: float
    upper: float
    smallest: float
    largest: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Statistics of the rounds; quartiles are interpolated.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, lower=1.5, upper=2.5, smallest=1.0, largest=3.0, count=3)
    """
    values = sorted(values)
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Spread(median=median, lower=lower, upper=upper, smallest=values[0], largest=values[-1], count=len(values))


def interleave(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 1,
    repeats: Mapping[str, int] | None = None,
    clock: Callable[[], float] = timer,
) -> dict[str, list[float]]:
    """Seconds a run of each candidate in each round; every other round goes through them backwards.

    Args:
        repeats: runs of a candidate in each round, whose mean counts: for what takes less than the clock can tell.
        clock: seconds; the default waits for the GPU first.
    """
    repeats = repeats or {}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(warmup):
        for run in runs.values():
            run()
    for index in range(rounds):
        for name in list(runs)[:: -1 if index % 2 else 1]:
            number = repeats.get(name, 1)
            start = clock()
            for _ in range(number):
                runs[name]()
            seconds[name].append((clock() - start) / number)
    return seconds


def ratios(reference: Sequence[float], ours: Sequence[float]) -> Spread:
    """reference / ours, round by round: what is above 1 is faster than the reference."""
    return spread([a / b for a, b in zip(reference, ours, strict=True)])


class Line(BaseModel):
    """value = intercept + slope * x, and the x that it was fitted to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    intercept: float
    slope: float
    points: list[float]

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Least squares; through the origin where there is one point only.

    >>> fit_line([1, 2, 3], [3.0, 5.0, 7.0]).at(10)
    21.0
    """
    if len(x) == 1:
        return Line(intercept=0, slope=y[0] / x[0], points=list(x))
    slope, intercept = statistics.linear_regression(x, y)
    return Line(intercept=intercept, slope=slope, points=list(x))


def r_squared(x: Sequence[float], y: Sequence[float]) -> float:
    """Share of the variance of y that a straight line in x explains.

    >>> round(r_squared([1, 2, 3], [2.0, 4.0, 6.0]), 6)
    1.0
    """
    return statistics.correlation(x, y) ** 2
