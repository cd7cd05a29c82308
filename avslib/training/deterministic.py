"""The same bits on a GPU too, where by default threads may add numbers up in any order.

On a CPU every operation of the network is deterministic for one number of threads. On a GPU, torch takes slower forms,
and refuses an operation that has none: none of avslib's own, but some of timm's backbones have one.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from avslib.core.errors import ConfigError

VARIABLE, SETTINGS = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
CUBLAS = f"train.deterministic: CUDA is in use already; set {VARIABLE} to {SETTINGS[0]} before Python starts"


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Let torch use only deterministic operations in the block; does nothing unless `wanted`.

    Sets ``CUBLAS_WORKSPACE_CONFIG`` for the rest of the process (cuBLAS reads it once); all else is restored.

    Raises:
        ConfigError: CUDA is in use already, without that variable; in the block, an operation without a deterministic
            form, by name.
    """
    if not wanted:
        yield
        return
    if os.environ.get(VARIABLE) not in SETTINGS:
        if torch.cuda.is_initialized():
            raise ConfigError(CUBLAS)
        os.environ[VARIABLE] = SETTINGS[0]
    before = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # it would choose the form of a convolution by a race
    try:
        yield
    except RuntimeError as error:
        if match := re.search(r"(\S+) does not have a deterministic implementation", str(error)):
            raise ConfigError(
                f"train.deterministic: {match[1]} has no deterministic form on this device; choose another "
                "model.backbone, or leave the option out"
            ) from error
        if "not deterministic because it uses CuBLAS" in str(error):
            raise ConfigError(CUBLAS) from error
        raise
    finally:
        torch.set_deterministic_debug_mode(before[0])
        torch.backends.cudnn.benchmark = before[1]
