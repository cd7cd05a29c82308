"""The plain reference forms: they live in `benchmarks/` of the checkout and are no part of the installed package."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from avslib.errors import InstallError

__all__ = ["FOLDER", "load_reference"]

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
_NAME = "avslib_benchmarks"


def load_reference(name: str, folder: Path = FOLDER) -> ModuleType:
    """The module `name` of `folder`, such as ``reference_model``.

    Raises:
        AvsError: there is no checkout beside the package.
    """
    if not (folder / f"{name}.py").is_file():
        raise InstallError(
            f"avs bench: no benchmarks/{name}.py beside the package avslib; the reference forms come with "
            "the source alone, so run it from a checkout (pip install -e .)"
        )
    if _NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            _NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        sys.modules[_NAME] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{_NAME}.{name}")
