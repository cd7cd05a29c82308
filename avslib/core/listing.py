"""The list of a build's files with sizes and checksums, to find those that are missing, cut off or damaged."""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from avslib.core.errors import DataError
from avslib.core.files import atomic_path, sha256_file

LISTING = "files.csv"
HEAD, LAST = "path,bytes,sha256\n", "the lines above,,"


def write_listing(root: Path, changed: Collection[str] | None = None) -> None:
    """Write ``files.csv`` of all files below `root`, or update the lines of those that `changed`."""
    known = {} if changed is None else _read(root)
    if changed is None:
        changed = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    known |= {path: ((root / path).stat().st_size, sha256_file(root / path)) for path in changed}
    text = HEAD + "".join(f"{path},{size},{digest}\n" for path, (size, digest) in sorted(known.items()))
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


def require_as_built(folder: Path, digests: Mapping[Path, str]) -> None:
    """Raise DataError where the SHA-256 of a file below a task's `folder` differs from the list of the build."""
    for root in (folder, folder.parent):
        known = _read(root)
        for path, digest in digests.items() if known else ():
            if known.get(path.relative_to(root).as_posix(), (0, digest))[1] != digest:
                advice = f"`avs data build-mini --out {root}` restores it (remove {LISTING} there if you changed it)"
                raise DataError(f"{path}: not as it was built; {advice}")


def clip_of(path: str) -> str:
    """The name of the clip that a file of a build belongs to.

    >>> clip_of("Single-source/s4_data/audio_wav/val/dog/a-1.wav"), clip_of("object_masks/s4/val/a-1/a-1_2.png")
    ('a-1', 'a-1')
    """
    return Path(path).parent.name if path.endswith(".png") else Path(path).stem


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
