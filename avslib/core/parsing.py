"""Text, YAML and JSON from untrusted files, limited in bytes and depth.

A file within the limits costs bounded time and memory; any other is refused with the caller's own class of error.
"""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from avslib.core.errors import AvsError

if TYPE_CHECKING:
    from pydantic import ValidationError

LARGEST_TEXT = 16 * 2**20  # bytes of a csv or list: 200,000 clips; as rows it takes up to 2 GB for a moment
LARGEST_JSON = 64 * 2**20  # bytes of a manifest or index, which holds a few hundred for each clip
LARGEST_YAML = 64 * 2**10  # bytes: PyYAML reads this much within 3 s; the presets and grids have less than 5,000
NOT_TEXT = re.compile(r"true|false|null|~||[-+]?(0|[1-9]\d*|\d*\.\d*(e[-+]\d+)?|\.inf|\.nan)", re.IGNORECASE)


def read_bytes(path: str | Path, largest: int, kind: type[AvsError], what: str) -> bytes:
    """The bytes of a regular file (a pipe would block, a device never ends) of at most `largest` bytes.

    `what` names what it should hold, for the error of class `kind`.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise kind(f"{path}: not a regular file; expected {what}")
    try:
        with open(path, "rb") as stream:
            data = stream.read(largest + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise kind(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); expected {what}") from None
    if len(data) > largest:
        raise kind(f"{path}: has more than {largest} bytes, too many for {what}; is it the right file?")
    return data


def read_text(path: str | Path, largest: int, kind: type[AvsError], what: str) -> str:
    """As `read_bytes`, decoded from UTF-8 without a byte-order mark."""
    try:
        return read_bytes(path, largest, kind, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind(f"{path}: cannot be read as UTF-8 ({error.reason} at byte {error.start}); expected {what}") from None


def parse_json(data: str | bytes, source: str | Path, kind: type[AvsError], what: str) -> Any:
    """The value of a JSON text. Raises an AvsError of class `kind` when it is damaged or nested too deeply."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise kind(f"{source}: damaged ({first_line(error)}); expected {what}") from None


class _Loader(yaml.SafeLoader):
    """YAML without aliases (a few bytes could grow); ``no``, ``010``, ``12:30`` and dates are text as in YAML 1.2."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases such as *name are not supported; write the value out")
        return super().compose_node(parent, index)

    def resolve(self, kind: type[yaml.Node], value: str, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        return self.DEFAULT_SCALAR_TAG if kind is yaml.ScalarNode and not NOT_TEXT.fullmatch(value) else tag


def parse_yaml(text: str, source: str, kind: type[AvsError]) -> Any:
    """The value of a YAML document in plain Python types, without aliases or tags that name objects."""
    if len(text) > LARGEST_YAML:
        raise kind(f"{source}: has more than {LARGEST_YAML} characters of YAML; is it the right file?")
    try:
        return _Loader(text).get_single_data()
    except Exception as error:  # PyYAML's constructors raise ValueError, KeyError, AttributeError, ... for bad scalars
        raise kind(f"{source}: not valid YAML ({first_line(error)})") from None


def first_line(error: object, longest: int = 200) -> str:
    """The first line of what an error says, shortened to fit in a sentence."""
    text = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    line = (text.splitlines() or [type(error).__name__])[0]
    return line if len(line) <= longest else line[:longest] + "..."


def first_fault(error: "ValidationError") -> str:
    """Where the first fault of a value is, and what pydantic says of it."""
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"])) or "the file"
    given = "" if isinstance(fault["input"], dict | list) else f" (got {fault['input']!r})"
    return first_line(f"{where}: {fault['msg'].removeprefix('Value error, ')}{given}")
