"""Files of `torch.save` that may come from anybody: tensors alone, and no more work or memory than the file is large.

``torch.load(weights_only=True)`` runs no code that a file names. What is left to a hostile file is to cost time and
memory: keys whose hash takes for ever, arrays of gigabytes from a name and a number, compressed zeros. Such files are
told here by reading the opcodes of their pickles first. A tensor may still repeat one number a billion times: its shape
is compared before anything is computed from it.
"""

import os
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from avslib.core.errors import WeightsError

MOST_OPCODES = 10**6  # of a pickle: a state dict of 1,200 tensors has 30,000; this many are read within 10 s
# what tensors are pickled with; the storages' names all end in Storage
NAMES = frozenset(
    (
        "collections OrderedDict",
        "_codecs encode",
        "torch Size",
        "torch.serialization _get_layout",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor_v3",
        "torch._tensor _rebuild_from_type_v2",
        "torch.nn.parameter Parameter",
        "torch device",
        *(f"torch {name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
    )
)
PUT, GET = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET")
UNUSED = frozenset(("EXT1", "EXT2", "EXT4", "INST", "NEWOBJ_EX", "OBJ"))  # opcodes of other things than tensors


class Refused(Exception):
    """The file asks for more than tensors need."""


def read_state_dict(path: str | Path, what: str = "weights") -> Mapping[str, Tensor]:
    """The mapping in a file of `torch.save`, on the CPU; nothing that the file names is run.

    Raises:
        WeightsError: no such file, damaged, more than tensors and plain values, no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{what} {path}: no such file; give the state dict as released")
    try:
        with open(path, "rb") as stream:
            state = load_tensors(stream)
    except Exception as error:  # torch raises many kinds for a file that is none of its own, and its own text advises
        reason = str(error) if isinstance(error, Refused) else type(error).__name__  # to load without this protection
        raise WeightsError(
            f"{what} {path}: not a state dict of tensors alone ({reason}); anything else in such a "
            "file can run code when it is loaded, so it is refused"
        ) from None
    if not isinstance(state, dict):
        raise WeightsError(f"{what} {path}: expected a state dict, found {type(state).__name__}")
    return _plain(state)


def _plain(state: dict, depth: int = 4) -> dict:
    """As plain dicts: a file can give an OrderedDict other methods."""
    return {k: _plain(v, depth - 1) if isinstance(v, dict) and depth else v for k, v in dict.items(state)}


def load_tensors(stream: BinaryIO, most: int = MOST_OPCODES) -> Any:
    """``torch.load`` of an open file, after its pickles were looked through.

    Raises:
        Refused: for the reasons above; and whatever torch raises for a damaged file.
    """
    if stream.read(4) == b"PK\3\4":
        size = stream.seek(0, os.SEEK_END)
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
                raise Refused("compressed content, which torch.save does not write")
            for member in members:
                if member.filename.endswith(".pkl"):
                    check_opcodes(archive.open(member), most, UNUSED | {"STACK_GLOBAL"}, NAMES)
    else:  # before torch 1.6: magic number, protocol, system, content, names of the storages
        stream.seek(0)
        for _ in range(5):
            check_opcodes(stream, most, UNUSED | {"STACK_GLOBAL"}, NAMES)
    stream.seek(0)
    return torch.load(stream, map_location="cpu", weights_only=True)


def check_opcodes(
    stream: BinaryIO, most: int, unused: frozenset[str] = UNUSED, names: frozenset[str] | None = None
) -> None:
    """Read one pickle without making anything of it.

    Each object is counted with all that it refers to, as often as it does so: what hashing or printing it costs.

    Raises:
        Refused: a global that is not in `names`; an opcode that is in `unused`; more than `most` opcodes, or objects in
            that count.
        ValueError, IndexError, KeyError: a damaged pickle.
    """
    stack: list[int | None] = []  # None: a mark
    memo: dict[int, int] = {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        name, popped = opcode.name, 1
        if name == "GLOBAL" and names and argument not in names and not argument.endswith("Storage"):
            raise Refused(f"it names {argument.replace(' ', '.')[:100]!r}")
        if name in unused:
            raise Refused(f"opcode {name}, which tensors are not written with")
        if name in PUT:
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1] or 1
            continue
        if name in GET:
            stack.append(memo[argument])
            continue
        before = opcode.stack_before
        if pickletools.markobject in before:
            while (top := stack.pop()) is not None:
                popped += top
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            popped += stack.pop() or 1
        if number > most or popped > most:
            raise Refused("objects within objects without end")
        stack += [None] if name == "MARK" else [popped] * len(opcode.stack_after)


def plain_tensor(value: Any) -> bool:
    """Whether this is a dense tensor of real numbers that lie in memory, whatever its size: compare its shape first."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type != "meta"
        and not value.is_quantized
        and not value.is_complex()
    )
