"""Tensors in safetensors files that carry their own checksum, since the format has none."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from avslib.core.files import atomic_path

# one entry alone, since safetensors writes several in any order: same tensors, same bytes
ENTRY, SHA256 = "avslib", "sha256"


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 of names, kinds, shapes and bytes; the order of the names is of no account."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, replace: bool = True
) -> None:
    """Write tensors, with their checksum in the metadata, beside and renamed.

    Raises:
        DiskFullError, OutputError: as :func:`avslib.core.files.atomic_path`, which explains `replace`, too.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path, replace=replace) as part:
        save_file(tensors, part, {ENTRY: json.dumps({SHA256: tensors_sha256(tensors), **(metadata or {})})})


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and what `save_tensors` noted beside them, compared with the checksum where there is one.

    Raises:
        SafetensorError: damaged, cut off, or no safetensors file.
        OSError: it cannot be read.
    """
    with safe_open(path, framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        return tensors, _compared(tensors, stream.metadata())


def parse_tensors(data: bytes) -> dict[str, Tensor]:
    """As `load_tensors`, of a file that is in memory."""
    tensors = load(data)
    length = int.from_bytes(data[:8], "little")
    _compared(tensors, json.loads(data[8 : 8 + length]).get("__metadata__"))
    return tensors


def _compared(tensors: Mapping[str, Tensor], found: Mapping[str, str] | None) -> dict[str, str]:
    try:
        metadata = dict(json.loads((found or {}).get(ENTRY, "{}")))
    except (TypeError, ValueError):
        raise SafetensorError("its metadata are damaged") from None
    if SHA256 in metadata and metadata[SHA256] != tensors_sha256(tensors):
        raise SafetensorError("its content is not that of its SHA-256")
    return metadata
