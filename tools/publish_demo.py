"""Publish what the demo drew and printed: copy its tables and pictures over the committed ones in results/demo.

    python -m tools.publish_demo [build/demo/results [results/demo]]

The demo itself (``python run.py demo``) writes only into an ignored folder. Run records are not copied: those of
results/runs are the committed study.
"""

import shutil
import sys
from pathlib import Path

from avslib.core.errors import UsageError
from avslib.core.files import atomic_path

SOURCE, TARGET = Path("build/demo/results"), Path("results/demo")


def publish_demo(source: str | Path = SOURCE, target: str | Path = TARGET) -> list[Path]:
    """Copy the ``.png`` and ``.md`` files of `source` into `target`; returns those whose content changed.

    Raises:
        AvsError: `source` holds none.
    """
    found = sorted(path for path in Path(source).glob("*") if path.suffix in (".png", ".md"))
    if not found:
        raise UsageError(f"{source}: no table or picture of the demo here; run `python run.py demo` first")
    changed = []
    for path in found:
        copy = Path(target) / path.name
        if not copy.is_file() or copy.read_bytes() != path.read_bytes():
            with atomic_path(copy) as part:
                shutil.copyfile(path, part)
            changed.append(copy)
    return changed


if __name__ == "__main__":
    try:
        print("\n".join(map(str, publish_demo(*sys.argv[1:3]))) or "nothing changed")
    except UsageError as error:
        sys.exit(f"error: {error}")
