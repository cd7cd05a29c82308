"""The device that a model runs on, by its name."""

import torch

from avslib.core.errors import UsageError


def select_device(name: str | torch.device = "auto") -> torch.device:
    """The device ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; ``auto`` is the first there is of cuda, mps and cpu.

    Raises AvsError: a different name, or a device that this machine, or this build of PyTorch, lacks.
    """
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    found = [kind for kind, devices in count.items() if devices]
    kind, _, number = (found[0] if name == "auto" else str(name)).partition(":")
    if not (number or "0").isdecimal() or int(number or 0) >= count.get(kind, 0):
        wanted = "auto, cpu, cuda, cuda:N or mps"
        raise UsageError(f"device {str(name)!r}: expected {wanted}; this machine has {', '.join(found)}")
    return torch.device(kind, int(number)) if number else torch.device(kind)
