"""Reading AVSBench's log-mel pickles without trusting them.

A pickle may call any function it can name. A pickled tensor needs five names; every other one is refused, and the
five are replaced by functions that do nothing else.
"""

import collections
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import torch
from jaxtyping import Float
from rich.progress import track
from safetensors import SafetensorError
from torch import Tensor

from avslib.core.errors import AvsError, DataError, LogMelError
from avslib.core.parsing import read_bytes
from avslib.core.state_dicts import Refused, check_opcodes, load_tensors
from avslib.core.tensors import parse_tensors, save_tensors

LOG_MEL = "log_mel"

LARGEST_FILE = 8 * 2**20  # bytes: five patches have 123,000, so this is more than five minutes
MOST_OPCODES = 20_000  # a pickled tensor has fewer than 100
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _allowed(module: str, name: str):
    """The stand-in for one name, made afresh: a pickle can set attributes on what it is given."""

    def storage(data: bytes):
        try:
            return load_tensors(io.BytesIO(data), MOST_OPCODES)
        except (pickle.UnpicklingError, Refused) as error:
            raise Refused("more than numbers inside its storage") from error

    def tensor(storage, offset, size, stride, *_requires_grad_and_hooks):
        return torch._utils._rebuild_tensor(storage, offset, size, stride)

    def parameter(data, *_requires_grad_and_hooks):
        return data

    def latin1(text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise Refused(f"_codecs.encode to {encoding!r}")
        return text.encode("latin1")

    def ordered_dict(*_items):  # hooks of a tensor, which are left out
        return collections.OrderedDict()

    return {
        ("torch.storage", "_load_from_bytes"): storage,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("collections", "OrderedDict"): ordered_dict,
        ("_codecs", "encode"): latin1,  # how protocols 0 to 2 write bytes
    }.get((module, name))


# The class written in Python: the one in C sizes its memo by a number in the file, up to 32 GiB.
class _TensorUnpickler(pickle._Unpickler):
    def load_other(self):
        raise Refused("objects of other classes")

    # without what sets attributes or makes objects but by calling a stand-in
    dispatch = pickle._Unpickler.dispatch | dict.fromkeys(
        (code[0] for code in (pickle.BUILD, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ)), load_other
    )

    def find_class(self, module, name):
        found = _allowed(module, name)
        if found is None:
            raise Refused(f"{module}.{name}")
        return found


def load_tensor(path: str | Path) -> Tensor:
    """The tensor in a plain pickle file, detached, on the CPU; nothing that the file names is run.

    Raises:
        AvsError: the file is missing, damaged, too large, names anything but tensor rebuilding, or holds no tensor.
    """
    data = read_bytes(path, LARGEST_FILE, LogMelError, "a pickled log-mel tensor")
    try:
        check_opcodes(io.BytesIO(data), MOST_OPCODES, frozenset())
        value = _TensorUnpickler(io.BytesIO(data)).load()
    except Refused as refused:
        raise LogMelError(
            f"{path}: refused, because the pickle asks for {refused}, which no tensor needs; "
            "nothing was run: get the file again from its authors"
        ) from None
    except Exception as error:  # a damaged pickle fails in any way: EOFError, KeyError, RuntimeError of torch, ...
        raise LogMelError(f"{path}: damaged pickle ({type(error).__name__}); get the file again") from error
    if not isinstance(value, Tensor):
        raise LogMelError(f"{path}: holds a {type(value).__name__}; expected a tensor")
    return value.detach()


def _load_safetensors(path: str | Path | BinaryIO) -> Tensor:
    opened, what = hasattr(path, "read"), f"safetensors with {LOG_MEL!r}"
    data = path.read() if opened else read_bytes(path, LARGEST_FILE, LogMelError, what)
    try:
        return parse_tensors(data)[LOG_MEL]
    except (KeyError, ValueError, SafetensorError) as error:
        raise LogMelError(
            f"{path}: not a whole safetensors file with {LOG_MEL!r} ({error}); convert it again"
        ) from None


def convert_audio(root: str | Path, workers: int | None = None, progress: bool = True) -> tuple[int, list[str]]:
    """Keep every log-mel pickle below `root` as safetensors beside it, once; the reader then takes that file.

    A file that is there already, and whole, is left alone; the pickles stay.

    Args:
        root: folder with S4 or MS3 data, or both.
        workers: threads.

    Returns:
        how many were converted, and a sentence for each pickle that was refused.

    Raises:
        AvsError: no such folder, or no log-mel pickle below it.
    """
    pickles = sorted(Path(root).glob("**/audio_log_mel/**/*.pkl"))
    if not pickles:
        raise DataError(f"{root}: holds no audio_log_mel/**/*.pkl; give the folder with AVSBench's data")

    def convert(path: Path) -> str | None:
        target = path.with_suffix(".safetensors")
        if target.is_file():
            with suppress(AvsError):  # a damaged one is made again
                load_log_mel(target, frames=1)
                return None
        try:
            load_log_mel(path, frames=1)
            value = load_tensor(path).float().contiguous()
        except AvsError as error:
            return str(error)
        save_tensors(target, {LOG_MEL: value})
        return ""

    with ThreadPoolExecutor(workers) as pool:
        results = list(track(pool.map(convert, pickles), "converting", len(pickles), disable=not progress))
    return results.count(""), [result for result in results if result]


def load_log_mel(path: str | Path | BinaryIO, frames: int = 5) -> Float[Tensor, "frames 1 96 64"]:
    """The first `frames` log-mel patches of a clip, from a pickle or from what `convert_audio` made of it (the latter
    also from its open bytes).

    Raises:
        AvsError: as `load_tensor`; another shape than [at least `frames`, 1, 96, 64]; values that are not finite.
    """
    safe = hasattr(path, "read") or Path(path).suffix == ".safetensors"
    value = _load_safetensors(path) if safe else load_tensor(path)
    if value.ndim != 4 or value.shape[0] < frames or tuple(value.shape[1:]) != (1, 96, 64):
        raise LogMelError(f"{path}: holds a tensor of shape {list(value.shape)}; expected [{frames}, 1, 96, 64]")
    value = value[:frames]  # a file of a few bytes can speak of any number of them
    if value.dtype not in DTYPES or not torch.isfinite(value).all():
        raise LogMelError(f"{path}: holds values that are not finite floats; compute the log-mel again")
    return value.float()
