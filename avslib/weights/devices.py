"""The device that a command or a function names."""

import torch

from avslib.core.errors import InstallError, UsageError


def select_device(name: str = "auto") -> torch.device:
    """The device of a name: auto (cuda, mps or cpu, the first that is there), cpu, cuda, cuda:N or mps.

    Raises:
        AvsError: another name, or a device that this machine or this build of PyTorch lacks.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    apple = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if gpus else "mps" if apple else "cpu")
    kind, colon, number = str(name).partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and (kind != "cuda" or not number.isdecimal())):
        raise UsageError(f"device {name!r}: expected auto, cpu, cuda, cuda:N or mps")
    if (kind == "cuda" and int(number or 0) >= gpus) or (kind == "mps" and not apple):
        raise InstallError(f"device {name!r}: not available here; use auto or cpu (avs doctor shows what is there)")
    return torch.device(name)
