"""The list of a build's files with sizes and checksums, to find those that are missing, cut off or damaged."""

import hashlib
from pathlib import Path

from avslib.core.errors import DataError
from avslib.core.files import atomic_path, sha256_file

LISTING = "files.csv"
HEAD, LAST = "path,bytes,sha256\n", "the lines above,,"


def write_listing(root: Path) -> None:
    """Write ``files.csv`` of all files below `root`."""
    paths = sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*") if path.is_file())
    text = HEAD + "".join(f"{name},{path.stat().st_size},{sha256_file(path)}\n" for name, path in paths)
    with atomic_path(root / LISTING) as part:
        part.write_text(f"{text}{LAST}{_digest(text)}\n", encoding="utf-8", newline="\n")


def damaged_files(root: str | Path, verify: bool = False) -> list[str]:
    """Files of a build, as paths below `root`, that are missing or of the wrong size or (with `verify`) checksum.

    Empty for a build of an earlier version, which has no list. Raises DataError where the list itself is damaged.
    """
    damaged = []
    for name, (size, digest) in _read(Path(root)).items():
        path = Path(root, name)
        if not path.is_file() or path.stat().st_size != size or (verify and sha256_file(path) != digest):
            damaged.append(name)
    return damaged


def _read(root: Path) -> dict[str, tuple[int, str]]:
    try:
        text = (root / LISTING).read_text(encoding="utf-8")
        lines, _, digest = text.rpartition(LAST)
        if digest.strip() != _digest(lines):
            raise ValueError("checksum mismatch")
        rows = (line.rsplit(",", 2) for line in lines.removeprefix(HEAD).splitlines())
        return {path: (int(size), digest) for path, size, digest in rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{root / LISTING}: damaged ({error}); remove that folder, and it is built again") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
