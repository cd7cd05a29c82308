"""Log-mel patches from AVSBench's pickles, read without trusting them, and from the safetensors made of those.

A pickle may call any function it can name. A pickled tensor needs four names; every other name is refused, and the
four are replaced by functions that do nothing else.
"""

import collections
import io
import pickle
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import torch
from jaxtyping import Float
from rich.progress import track
from safetensors import SafetensorError
from torch import Tensor

from avslib.core.errors import AvsError, DataError, LogMelError
from avslib.core.files import files_below
from avslib.core.parsing import read_bytes
from avslib.core.tensors import load_weights_only, parse_tensors, save_tensors

LOG_MEL = "log_mel"
LARGEST_FILE = 8 * 2**20  # bytes: five patches have 123,000, so this is more than five minutes
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class _Refused(Exception):
    """The pickle asks for something that no tensor needs."""


def _storage(data: bytes):
    try:
        return load_weights_only(io.BytesIO(data))
    except pickle.UnpicklingError as error:
        raise _Refused("more than numbers inside its storage") from error


STAND_INS = {
    "torch.storage._load_from_bytes": _storage,
    "torch._utils._rebuild_tensor_v2": lambda *values: torch._utils._rebuild_tensor(*values[:4]),
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "collections.OrderedDict": lambda *_: collections.OrderedDict(),  # a tensor's hooks, which are left out
}


# the class written in Python: the one in C sizes its memo by a number in the file, up to 32 GiB
class _TensorUnpickler(pickle._Unpickler):
    def refuse(self):
        raise _Refused("dictionaries, sets or objects of other classes")

    # what sets attributes, makes objects except by calling a stand-in, or takes hashes, which may never end
    objects = pickle.BUILD + pickle.NEWOBJ + pickle.NEWOBJ_EX + pickle.INST + pickle.OBJ
    hashes = pickle.DICT + pickle.SETITEM + pickle.SETITEMS + pickle.ADDITEMS + pickle.FROZENSET
    dispatch = pickle._Unpickler.dispatch | dict.fromkeys(objects + hashes, refuse)

    def find_class(self, module, name):
        if f"{module}.{name}" not in STAND_INS:
            raise _Refused(f"{module}.{name}")
        return STAND_INS[f"{module}.{name}"]


def unpickle_tensor(path: str | Path) -> Tensor:
    """The tensor in a plain pickle file, detached, on the CPU; nothing that the file names is run.

    Raises AvsError when the file is missing, damaged, too large, names anything but tensor rebuilding, or holds no
    tensor.
    """
    data = read_bytes(path, LARGEST_FILE, LogMelError, "a pickled log-mel tensor")
    try:
        value = _TensorUnpickler(io.BytesIO(data)).load()
    except _Refused as refused:
        fault = f"refused, because the pickle asks for {refused}, which no tensor needs; nothing was run"
        raise LogMelError(f"{path}: {fault}: get the file again from its authors") from None
    except Exception as error:  # a damaged pickle fails in any way: EOFError, KeyError, RuntimeError of torch, ...
        raise LogMelError(f"{path}: damaged pickle ({type(error).__name__}); get the file again") from error
    if not isinstance(value, Tensor):
        raise LogMelError(f"{path}: holds a {type(value).__name__}; expected a tensor")
    return value.detach()


def load_log_mel(path: str | Path | BinaryIO, frames: int = 5) -> Float[Tensor, "frames 1 96 64"]:
    """The first `frames` log-mel patches of a clip, from a pickle or from what `convert_audio` made of it (the latter
    also from its open bytes).

    Raises AvsError as `unpickle_tensor`, on a shape other than [at least `frames`, 1, 96, 64], and on values that are
    not finite.
    """
    if hasattr(path, "read") or Path(path).suffix == ".safetensors":
        what = f"safetensors with {LOG_MEL!r}"
        data = path.read() if hasattr(path, "read") else read_bytes(path, LARGEST_FILE, LogMelError, what)
        try:
            value = parse_tensors(data)[LOG_MEL]
        except (KeyError, ValueError, SafetensorError) as error:
            raise LogMelError(f"{path}: not a complete file of {what} ({error}); convert it again") from None
    else:
        value = unpickle_tensor(path)
    if value.ndim != 4 or value.shape[0] < frames or tuple(value.shape[1:]) != (1, 96, 64):
        raise LogMelError(f"{path}: holds a tensor of shape {list(value.shape)}; expected [{frames}, 1, 96, 64]")
    value = value[:frames]  # a file of a few bytes can declare any number of patches
    if value.dtype not in DTYPES or not torch.isfinite(value).all():
        raise LogMelError(f"{path}: holds values that are not finite floats; compute the log-mel again")
    return value.float()


def convert_audio(root: str | Path, progress: bool = True) -> tuple[int, list[str]]:
    """Write each log-mel pickle below `root` as safetensors beside it; the reader then uses that file.

    Whole files that exist already are left as they are; the pickles stay. Returns how many were converted, and a
    sentence for each pickle that was refused. Raises AvsError when there is no log-mel pickle.
    """
    pickles = [path for path in files_below(root) if path.suffix == ".pkl" and "audio_log_mel" in path.parts]
    if not pickles:
        raise DataError(f"{root}: holds no audio_log_mel/**/*.pkl; expected the folder with AVSBench's data")
    done, refused = 0, []
    for path in track(pickles, "converting", disable=not progress):
        target = path.with_suffix(".safetensors")
        with suppress(AvsError):  # missing or damaged: write it
            load_log_mel(target, frames=1)
            continue
        try:
            load_log_mel(path, frames=1)
            save_tensors(target, {LOG_MEL: unpickle_tensor(path).float().contiguous()})
            done += 1
        except LogMelError as error:
            refused.append(str(error))
    return done, refused
