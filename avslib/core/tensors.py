"""Tensors on disk: untrusted files of `torch.save`, and safetensors files that carry their own checksum.

A hostile file runs no code. It can cost time; its memory is bounded by its size, except for tensors that repeat one
number: compare their shape before computing anything from them.
"""

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from avslib.core.errors import WeightsError
from avslib.core.files import atomic_path

# one entry only: safetensors writes several in any order, and the same tensors should give the same bytes
ENTRY, SHA256 = "avslib", "sha256"


def read_state_dict(path: str | Path, what: str = "weights") -> Mapping[str, Tensor]:
    """The mapping in a file of `torch.save`, on the CPU; nothing that the file names is run.

    Raises WeightsError where it is missing, damaged, not a mapping, or holds anything but tensors and plain values.
    """
    if not Path(path).is_file():
        raise WeightsError(f"{what} {path}: no such file; expected the state dict as released")
    try:
        with open(path, "rb") as stream:
            state = load_weights_only(stream)
    except Exception as error:  # torch raises many kinds for a damaged file; its text advises to load it unprotected
        why = f"not a state dict of tensors only ({type(error).__name__})"
        danger = "anything else in such a file can run code when it is loaded"
        raise WeightsError(f"{what} {path}: {why}; refused, because {danger}") from None
    if not isinstance(state, dict):
        raise WeightsError(f"{what} {path}: expected a state dict, found {type(state).__name__}")
    return _plain(state)


def _plain(state: dict, depth: int = 4) -> dict:
    """As plain dicts: a file can replace the methods of an OrderedDict."""
    return {k: _plain(v, depth - 1) if isinstance(v, dict) and depth else v for k, v in dict.items(state)}


def load_weights_only(stream: BinaryIO) -> Any:
    """``torch.load`` of an open file onto the CPU, without code and without compressed content.

    Raises pickle.UnpicklingError for more than tensors and plain values; damaged files raise other errors, too.
    """
    size = stream.seek(0, io.SEEK_END)
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            if sum(member.file_size for member in archive.infolist()) > size:
                raise pickle.UnpicklingError("compressed content, which torch.save does not write")
    stream.seek(0)
    return torch.load(stream, map_location="cpu", weights_only=True)


def plain_tensor(value: Any) -> bool:
    """Whether `value` is a dense tensor of real numbers in memory, of any size: compare its shape first."""
    dense = isinstance(value, Tensor) and value.layout is torch.strided and value.device.type != "meta"
    return dense and not value.is_quantized and not value.is_complex()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 of names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def state_sha256(state: Mapping[str, Tensor], prefix: str = "") -> str:
    """Hex SHA-256 of `prefix` and of names and bytes, in the order of `state`: run ids and caches follow from it."""
    digest = hashlib.sha256(prefix.encode())
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, replace: bool = True
) -> None:
    """Write a safetensors file as :func:`avslib.core.files.atomic_path`, with a checksum in its metadata."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path, replace=replace) as part:
        save_file(tensors, part, {ENTRY: json.dumps({SHA256: tensors_sha256(tensors), **(metadata or {})})})


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of `save_tensors`, verified where there is a checksum. SafetensorError if damaged."""
    with safe_open(path, framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        return tensors, _verified(tensors, stream.metadata())


def parse_tensors(data: bytes) -> dict[str, Tensor]:
    """As `load_tensors`, from the bytes of a file."""
    tensors = load(data)
    length = int.from_bytes(data[:8], "little")
    _verified(tensors, json.loads(data[8 : 8 + length]).get("__metadata__"))
    return tensors


def _verified(tensors: Mapping[str, Tensor], found: Mapping[str, str] | None) -> dict[str, str]:
    try:
        metadata = dict(json.loads((found or {}).get(ENTRY, "{}")))
    except (TypeError, ValueError):
        raise SafetensorError("damaged metadata") from None
    if SHA256 in metadata and metadata[SHA256] != tensors_sha256(tensors):
        raise SafetensorError("checksum mismatch")
    return metadata
