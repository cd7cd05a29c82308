"""Size limits that keep the package small and its training loop readable: ``python -m tools.budgets``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "avslib"


def lines(*paths: Path) -> int:
    """Lines of the Python files at or below `paths`."""
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def measure() -> dict[str, tuple[int, int]]:
    """What is measured -> (found, limit)."""
    models, losses, loop = PACKAGE / "models", PACKAGE / "losses", PACKAGE / "training/loop.py"
    skips = sum("fmt: skip" in file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py"))
    return {
        "Python files at the top of avslib": (len(list(PACKAGE.glob("*.py"))), 6),
        "lines of training/loop.py": (lines(loop), 150),
        "lines of models, losses and the loop": (lines(models, losses, loop), 1300),
        "lines of avslib": (lines(PACKAGE), 12000),
        "lines of course": (lines(ROOT / "course"), 1000),
        "bytes of README.md": ((ROOT / "README.md").stat().st_size, 10240),
        "files of avslib with fmt: skip": (skips, 0),
    }


def main() -> int:
    """Print every measurement; 1 if one exceeds its limit."""
    rows = measure()
    for name, (found, limit) in rows.items():
        print(f"{'ok' if found <= limit else 'TOO MANY':8}  {found:6} of at most {limit:6}  {name}")
    return int(any(found > limit for found, limit in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
