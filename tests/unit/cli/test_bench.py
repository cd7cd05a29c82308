"""avs bench is a door: it opens onto the checkout's own benchmarks, or says that a checkout is needed."""

from importlib.machinery import ModuleSpec

import pytest

from avslib.cli import doors, options
from avslib.core.errors import InstallError


def test_a_checkout_is_asked_for_where_there_are_no_benchmarks_or_others(monkeypatch):
    options.require_beside("benchmarks", "avs bench")
    other = ModuleSpec("benchmarks", None, is_package=True)
    other.submodule_search_locations.append("elsewhere/benchmarks")
    for found in (None, other):
        monkeypatch.setattr(options, "find_spec", lambda name, found=found: found)
        with pytest.raises(
            InstallError, match="avs bench needs benchmarks/ of a checkout: install the package from one"
        ):
            doors.door("bench")(None)
