"""The same bits on a GPU too, where by default some sums are taken in the order in which threads come to an end.

On a CPU every operation of the network is deterministic as it is, for one number of threads. On a GPU the option takes
slower forms, and refuses an operation that has none. Nothing of avslib's own needs one that has none; a backbone of
timm may (one that resizes its position embeddings in training, say).
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from avslib.core.errors import ConfigError

VARIABLE, SETTINGS = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Let torch use deterministic operations alone inside; nothing changes where not `wanted`.

    Sets ``CUBLAS_WORKSPACE_CONFIG`` where it is not set, which stays, as cuBLAS reads it once; all else is put back.

    Raises:
        ConfigError: CUDA is in use already, without that variable; inside, an operation without a deterministic form,
            by name.
    """
    if not wanted:
        yield
        return
    _prepare_cublas()
    cudnn = torch.backends.cudnn
    before = torch.get_deterministic_debug_mode(), cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark = False  # it would choose the form of a convolution by a race
    try:
        yield
    except RuntimeError as error:
        sentence = _sentence(str(error))
        if sentence is None:
            raise
        raise ConfigError(sentence) from error
    finally:
        torch.set_deterministic_debug_mode(before[0])
        cudnn.benchmark = before[1]


def _prepare_cublas() -> None:
    if os.environ.get(VARIABLE) in SETTINGS:
        return
    if torch.cuda.is_initialized():
        raise ConfigError(_cublas("CUDA is in use already"))
    os.environ[VARIABLE] = SETTINGS[0]


def _cublas(why: str) -> str:
    return f"train.deterministic: {why}, and {VARIABLE} is read once; set it to {SETTINGS[0]} before Python starts"


def _sentence(error: str) -> str | None:
    """What torch's error means, where it is about determinism."""
    if match := re.search(r"(\S+) does not have a deterministic implementation", error):
        return (
            f"train.deterministic: {match[1]} has no deterministic form on this device; choose another model.backbone "
            "or form of the network, or leave the option out"
        )
    if "not deterministic because it uses CuBLAS" in error:
        return _cublas("cuBLAS was in use already")
    return None
