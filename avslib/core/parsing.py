"""Text, YAML and JSON that may come from anybody: bounded in bytes, in depth and in what they expand to.

A reader of avslib takes a file that it may refuse in time and memory that its limit bounds, and raises its own error.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from avslib.core.errors import AvsError

LARGEST_TEXT = 16 * 2**20  # bytes of a csv or list: 200,000 clips; as rows it takes up to 2 GB for a moment
LARGEST_JSON = 64 * 2**20  # bytes of a manifest or index, which holds a few hundred for each clip
LARGEST_YAML = 64 * 2**10  # bytes: PyYAML reads this much within 3 s; the presets and grids have less than 5,000
MOST_NODES = 20_000  # values in a YAML file, each alias counted as what it stands for


def read_bytes(path: str | Path, largest: int, kind: type[AvsError], what: str) -> bytes:
    """The bytes of a plain file of at most `largest` bytes; `what` says what it should be.

    Raises:
        AvsError: of class `kind`: missing, no plain file (a pipe would block, a device never ends), or too large.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise kind(f"{path}: is no plain file; expected {what}")
            data = stream.read(largest + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise kind(f"{path}: cannot be read ({reason}); expected {what}") from None
    if len(data) > largest:
        raise kind(f"{path}: has more than {largest} bytes, too many for {what}; is it the right file?")
    return data


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: str | Path, largest: int, kind: type[AvsError], what: str) -> str:
    """As `read_bytes`, decoded from UTF-8; a byte-order mark is left out."""
    try:
        return read_bytes(path, largest, kind, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind(f"{path}: cannot be read as UTF-8 ({error.reason} at byte {error.start}); expected {what}") from None


def parse_json(data: str | bytes, source: str | Path, kind: type[AvsError], what: str) -> Any:
    """What JSON says. Raises an AvsError of class `kind` when it is damaged or nested too deeply."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        raise kind(f"{source}: is damaged ({reason}); expected {what}") from None


def parse_yaml(text: str, source: str, kind: type[AvsError]) -> Any:
    """What a YAML document says, in plain Python values: tags that name objects are refused, aliases are bounded.

    Raises:
        AvsError: of class `kind`: not valid YAML, too long, nested too deeply, or aliases that expand to more than
            `MOST_NODES` values ("billion laughs").
    """
    if len(text) > LARGEST_YAML:
        raise kind(f"{source}: has more than {LARGEST_YAML} characters of YAML; is it the right file?")
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > MOST_NODES:
            raise kind(f"{source}: holds more than {MOST_NODES} values, an alias counted as what it stands for")
        return loader.construct_document(node)
    except RecursionError:
        raise kind(f"{source}: not valid YAML (nested too deeply, or in itself)") from None
    except AvsError:
        raise
    except Exception as error:  # PyYAML's constructors raise ValueError, KeyError, AttributeError, ... for bad scalars
        raise kind(f"{source}: not valid YAML ({first_line(error)})") from None
    finally:
        if loader is not None:
            loader.dispose()


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Values that a node stands for, written out; a node within itself has no end."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES + 1  # what an alias to a node that is not whole yet counts
        if isinstance(node, yaml.ScalarNode):
            inside = ()
            if node.tag == "tag:yaml.org,2002:int" and len(node.value) > 100:
                raise ValueError(f"a whole number of {len(node.value)} digits")
        else:
            pairs = node.value if isinstance(node, yaml.MappingNode) else ((part,) for part in node.value)
            inside = (part for pair in pairs for part in pair)
        known[id(node)] = min(1 + sum(_values(part, known) for part in inside), MOST_NODES + 1)
    return known[id(node)]


def first_line(error: object, longest: int = 200) -> str:
    """What an error says, in one line for a sentence."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= longest else lines[0][:longest] + "..."
